"""Package sync of conda environments: read as conda leaves them, and made again for nodes of either platform."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import rattler

from ropewalk.client.environment import snapshot as snapshot_module
from ropewalk.client.environment import sync
from ropewalk.client.environment.conda import CondaPackage, conda_packages
from ropewalk.client.environment.snapshot import Installed, snapshot
from ropewalk.client.environment.sync import Software
from ropewalk.errors import ConflictError, FixItError, VersionMismatchError
from ropewalk.schemas.clusters import ClusterCreate
from ropewalk.schemas.environments import CondaSpec, EnvironmentSpec, LockedPackage, Platform
from ropewalk.server.environments.builder import BuildRequest, Credential, Target
from ropewalk.server.environments.oci import conda, locking
from ropewalk.server.environments.oci.channels import IN_PATH, Channels
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.resolve import Resolving
from tests.images.conftest import Said
from tests.images.test_build import PYTHON
from tests.support import packages
from tests.support.packages import Site, make_conda_package, make_wheel

LOGIN = ("reader", "s3cret-of-the-channel")


def fill(channel: Path) -> None:
    """Make a channel like the large ones: for two platforms, with one package that is for one of them only."""
    for subdir in ("linux-64", "linux-aarch64"):
        arm = subdir == "linux-aarch64"
        build = "arm_0" if arm else "amd_0"
        program: dict[str, bytes | str] = {f"bin/python{PYTHON}": b"", "bin/python": f"python{PYTHON}"}
        make_conda_package(channel, "python", f"{PYTHON}.4", program, subdir=subdir, build=build, depends=["libssl"])
        make_conda_package(channel, "libssl", "3.1" if arm else "3.0", subdir=subdir, build=build)
        make_conda_package(channel, "libgeo", "2.0", {"lib/libgeo.so": build.encode()}, subdir=subdir, build=build)
        make_conda_package(channel, "gdal", "3.1" if arm else "3.0", subdir=subdir, build=build, depends=["libgeo"])
    make_conda_package(channel, "mkl", "2024.1", subdir="linux-64", build="amd_0")
    for name in ("dask", "distributed"):
        info = f"site-packages/{name}-2.0.dist-info/METADATA"
        files: dict[str, bytes | str] = {f"site-packages/{name}/__init__.py": b"", info: b""}
        make_conda_package(channel, name, "2.0", files, depends=["python"])


@dataclass(frozen=True)
class World:
    site: Site
    channel: Path
    prefix: Path
    caches: Path
    said: Said

    async def installed(self, *names: str) -> list[CondaPackage]:
        """Install into the prefix as conda does; return what the client then reads."""
        specs: list[rattler.MatchSpec | str] = list(names)
        records = await rattler.solve([self.site.url], specs, platforms=["linux-64", "noarch"])
        await rattler.install(
            records,
            target_prefix=self.prefix,
            cache_dir=self.caches,
            platform=rattler.Subdir("linux-64"),
            show_progress=False,
        )
        (self.prefix / "conda-meta" / "history").write_text(f"# update specs: {json.dumps(names)}\n")
        return conda_packages(self.prefix)

    def spec(self, found: list[CondaPackage], platform: Platform) -> EnvironmentSpec:
        pip = [Installed(name, version) for each in found for name, version in each.distributions]
        return snapshot(pip, conda=found, platform=platform).spec.model_copy(update={"python": PYTHON})

    async def lock(self, spec: EnvironmentSpec, platform: Platform, *credentials: Credential) -> Any:
        request = BuildRequest("b-1", spec, Target("ca-1", "ca-1", "ac-1", platform), credentials)
        how = Resolving(cache=self.caches / "uv", scratch=self.caches, build=False)
        return await locking.lock(request, how, Channels(self.caches / "conda", credentials), self.said)


@pytest.fixture
def world(tmp_path: Path, said: Said) -> Iterator[World]:
    fill(tmp_path / "channel")
    (tmp_path / "caches").mkdir()
    with packages.served(tmp_path / "channel") as site:
        yield World(site, tmp_path / "channel", tmp_path / "prefix", tmp_path / "caches", said)


def versions(found: list[LockedPackage]) -> dict[str, tuple[str, str | None]]:
    return {each.name: (each.version, each.build) for each in found}


async def test_an_environment_is_made_again_with_its_very_builds_and_closely_for_other_processors(world: World) -> None:
    found = await world.installed("dask", "distributed", "gdal", "mkl")
    assert {each.name for each in found if each.requested} == {"dask", "distributed", "gdal", "mkl"}
    assert {each.name for each in found if each.python} == {"dask", "distributed"}

    same = world.spec(found, "linux/amd64")
    assert same.conda is not None
    assert same.pip == [], "what conda installed is conda's"
    assert "gdal ==3.0 amd_0" in same.conda.dependencies
    lock = await world.lock(same, "linux/amd64")
    assert lock.differences == []
    assert versions(lock.packages) == {each.name: (each.version, each.build) for each in found}

    other = world.spec(found, "linux/arm64")
    assert other.hash != same.hash
    lock = await world.lock(other, "linux/arm64")
    got = versions(lock.packages)
    assert got["dask"] == ("2.0", "0")
    assert got["libgeo"] == ("2.0", "arm_0")
    told = {each.name: (each.level, each.here, each.there, each.why) for each in lock.differences}
    why = "3.0 is not on your channels for linux/arm64; 3.1 is taken."
    assert told.pop("gdal") == ("warning", "3.0", "3.1", why)
    why = "Your channels have none of it for linux/arm64; it is left out."
    assert told.pop("mkl") == ("warning", "2024.1", None, why)
    assert told == {}, "libssl only came along"
    assert any(line.startswith("libssl 3.0: 3.0 is not on your channels") for line in world.said.lines)


async def test_a_build_that_is_gone_is_replaced_and_a_version_that_has_to_be_the_same_is_an_error(world: World) -> None:
    found = await world.installed("dask", "distributed", "gdal")
    older = [replace(each, build="amd_9") if each.name == "gdal" else each for each in found]
    lock = await world.lock(world.spec(older, "linux/amd64"), "linux/amd64")
    assert [each.why for each in lock.differences] == ["Its build amd_9 is not to be had any more; amd_0 is taken."]

    gone = [replace(each, version="1.9") if each.name in ("dask", "distributed") else each for each in found]
    with pytest.raises(FixItError, match=r"have no dask 1\.9, distributed 1\.9 for linux/amd64") as caught:
        await world.lock(world.spec(gone, "linux/amd64"), "linux/amd64")
    assert caught.value.field == "conda"


async def test_what_does_not_go_together_elsewhere_is_loosened_step_by_step(world: World) -> None:
    found = await world.installed("dask", "distributed", "gdal")
    make_conda_package(world.channel, "gdal", "3.0", subdir="linux-aarch64", build="arm_1", depends=["libgeo 1.*"])
    lock = await world.lock(world.spec(found, "linux/arm64"), "linux/arm64")
    (told,) = lock.differences
    assert (told.name, told.there) == ("gdal", "3.1")
    assert "does not go with the others" in told.why
    assert any(line.startswith("With the same versions of what matters:") for line in world.said.lines)


async def test_a_channel_is_opened_by_its_credentials_and_by_nothing_else(world: World, tmp_path: Path) -> None:
    private = tmp_path / "private"
    make_conda_package(private, "ours", "1.0", files={"share/ours": b"x"}, subdir="linux-64")
    found = await world.installed("dask", "distributed")
    with packages.served(private, login=LOGIN) as site:
        # Another name than the open channel: py-rattler tells the credentials neither port nor scheme of a request.
        channel = site.url.replace("127.0.0.1", "localhost")
        address = channel.replace("://", "://me:secret@")
        record = {"name": "ours", "version": "1.0", "build": "0", "subdir": "linux-64", "requested_spec": "ours"}
        url = f"{address}/t/token-of-mine/linux-64/ours-1.0-0.tar.bz2"
        meta = world.prefix / "conda-meta" / "ours-1.0-0.json"
        meta.write_text(json.dumps({**record, "url": url, "files": []}))
        found = conda_packages(world.prefix)
        ours = next(each for each in found if each.name == "ours")
        assert ours.channel == channel, "neither tokens nor passwords are sent along"
        spec = world.spec(found, "linux/amd64")

        lock = await world.lock(spec, "linux/amd64")
        assert site.requests, "it was asked"
        assert {each.name for each in lock.differences} == {channel, "ours"}
        assert "refused access" in lock.differences[0].why
        assert "ours" not in versions(lock.packages)

        ours_too = Credential("ours", channel, *LOGIN)
        lock = await world.lock(spec, "linux/amd64", ours_too)
        assert versions(lock.packages)["ours"] == ("1.0", "0")
        assert lock.differences == []
        assert LOGIN[1] not in lock.model_dump_json()
        assert not any(LOGIN[1] in line for line in world.said.lines)
        opened = Channels(tmp_path / "private-cache", [ours_too])
        (package,) = (each for each in lock.packages if each.name == "ours")
        folders = await conda.fetch([package], opened, world.said.log)
        assert (folders["ours"] / "share" / "ours").read_bytes() == b"x"
        with pytest.raises(FixItError, match="refused access"):
            await conda.fetch([package], Channels(tmp_path / "other-cache"), world.said.log)
        in_path = Credential("ours", channel + "/mine", IN_PATH, LOGIN[1])
        site.login = None
        behind = private / "t" / LOGIN[1] / "mine"
        make_conda_package(behind, "ours", "1.0", files={"share/ours": b"y"}, subdir="linux-64")
        conda_spec = CondaSpec(channels=[world.site.url, f"{channel}/mine"], dependencies=["ours"])
        named = EnvironmentSpec(python=PYTHON, conda=conda_spec)
        lock = await world.lock(named, "linux/amd64", in_path)
        (package,) = (each for each in lock.packages if each.name == "ours")
        assert package.url == f"{channel}/mine/linux-64/ours-1.0-0.tar.bz2", "without the token"
        folders = await conda.fetch([package], Channels(tmp_path / "third-cache", [in_path]), world.said.log)
        assert (folders["ours"] / "share" / "ours").read_bytes() == b"y"
        wrong, elsewhere = replace(in_path, password="another-token"), replace(world, caches=tmp_path / "elsewhere")
        elsewhere.caches.mkdir()
        with pytest.raises(FixItError, match="There is no conda channel") as caught:
            await elsewhere.lock(named, "linux/amd64", wrong)
        assert "another-token" not in str(caught.value)
        # Where they could be mixed up, nothing is asked.
        mixed = Credential("ours", "http://127.0.0.1:9/ours", *LOGIN)
        with pytest.raises(FixItError, match="on another server of that host"):
            await world.lock(spec, "linux/amd64", mixed)


def test_what_credentials_open_is_kept_apart_from_what_anybody_may_read(tmp_path: Path) -> None:
    builder = ImageBuilder(tmp_path, lambda _: tmp_path, None, None, "base")  # type: ignore[arg-type] # nothing is asked
    spec = EnvironmentSpec(python=PYTHON, pip=["dask"])
    request = BuildRequest("b-1", spec, Target("ca-1", "ca-1", "ac-1", "linux/amd64"))
    public = builder._channels(request).cache
    private = builder._channels(replace(request, credentials=[Credential("ours", "http://x", *LOGIN)])).cache
    assert not private.is_relative_to(public)
    assert private.name == "ac-1"


def test_packages_that_pip_replaced_are_pips_and_folders_of_this_machine_are_told(tmp_path: Path) -> None:
    meta = tmp_path / "conda-meta"
    meta.mkdir()

    def record(name: str, url: str, files: list[str], **facts: object) -> None:
        value = {"name": name, "version": "1.0", "build": "h_0", "subdir": "osx-arm64", "url": url, "files": files}
        (meta / f"{name}-1.0-h_0.json").write_text(json.dumps({**value, **facts}))

    forge = "https://conda.anaconda.org/conda-forge/osx-arm64"
    record("six", f"{forge}/six.conda", ["lib/python3.12/site-packages/six-1.0.dist-info/METADATA"])
    record("libx", f"{forge}/libx.conda", ["lib/libx.dylib"])
    record("own", "file:///builds/osx-arm64/own.conda", ["bin/own"])
    (meta / "broken.json").write_text("{")
    (meta / "history").write_text("# update specs: ['libx>=1', \"own\", 'gone']\n# remove specs: ['gone']\n")
    found = conda_packages(tmp_path)
    assert [(each.name, each.requested) for each in found] == [("libx", True), ("own", True), ("six", False)]

    made = snapshot([Installed("six", "1.1"), Installed("dask", "2")], conda=found, platform="linux/amd64")
    assert made.spec.pip == ["six==1.1", "dask==2"]
    assert made.spec.conda is not None
    assert made.spec.conda.channels == ["conda-forge"]
    assert made.spec.conda.dependencies == ["libx ==1.0"], "builds are for its own platform"
    assert [(each.name, each.level) for each in made.differences] == [("own", "warning")]
    hosted = snapshot([Installed("six", "1.0")], conda=found, reached=False)
    assert hosted.spec.conda is None
    assert hosted.spec.pip == ["six==1.0"]
    assert [each.name for each in hosted.differences] == ["libx", "own"]


async def test_what_has_to_be_the_same_and_is_from_nowhere_is_an_error_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        sync, "conda_packages", lambda: [CondaPackage("numpy", "2.0", "0", "linux-64", None, True, True)]
    )
    monkeypatch.setattr(snapshot_module, "installed", lambda: [Installed("dask", "2")])
    place = {"environment": "needed", "platform": "linux/amd64", "target": "ca-1", "conda": True}

    async def ask(_: ClusterCreate) -> None:
        raise ConflictError("The nodes would have other packages.", details=place)

    # There is no server that could be asked for anything else.
    software = Software(None, sync=True, versions="warn", step=print, say=print)  # type: ignore[arg-type] # on purpose
    with pytest.raises(VersionMismatchError, match=r"numpy 2\.0: It was installed from a folder") as caught:
        await software.ready("ada", ClusterCreate(), ask)
    assert "versions='ignore'" in str(caught.value.advice)


def test_an_index_of_wheels_is_not_asked_for_what_conda_has(tmp_path: Path) -> None:
    """A name in conda's channels may be somebody else's in an index."""
    make_wheel(tmp_path, "dask", "2.0")
    package = CondaPackage("dask", "2.0", "0", "noarch", "conda-forge", True, True, frozenset({("dask", "2.0")}))
    assert snapshot([Installed("dask", "2.0")], conda=[package]).spec.pip == []
