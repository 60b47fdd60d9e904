"""Whole builds: small packages from an index of ours, upon a base image in a real registry."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.environments import EnvironmentSpec, LocalWheel
from ropewalk.server.environments.builder import BuildRequest, Credential, Target
from ropewalk.server.environments.oci.blobs import Blobs, disk_errors
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.oci.sources import Registries
from tests.images.conftest import OnePlace, Said, layer, no_sleep, opened, put_image
from tests.support import crashing_build, packages
from tests.support.packages import Site, make_wheel
from tests.support.registry import Proxy, Registry

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
SITE = f"opt/ropewalk/lib/python{PYTHON}/site-packages"
TARGET = Target("ca-1", "ca-1", "ac-1", "linux/amd64")
HEAVY = os.urandom(2**16) * 192


@dataclass(frozen=True)
class World:
    """An index, a registry, and a builder."""

    site: Site
    proxy: Proxy
    builder: ImageBuilder
    said: Said

    def request(self, *pip: str, wheels: tuple[Path, ...] = (), target: Target = TARGET, **spec: Any) -> BuildRequest:
        own = {hashlib.sha256(each.read_bytes()).hexdigest(): each for each in wheels}
        listed = [LocalWheel(filename=p.name, sha256=h, size=p.stat().st_size) for h, p in own.items()]
        wanted = EnvironmentSpec(
            **{"python": PYTHON, "pip": list(pip), "wheels": listed, "index_url": f"{self.site.url}/simple/", **spec}
        )
        return BuildRequest("b-1", wanted, target, wheels=own)

    async def build(self, *pip: str, **facts: Any) -> dict[str, Any]:
        """Build; return the details, with the reference of the image."""
        result = await self.builder.build(self.request(*pip, **facts), self.said)
        return {**result.details, "image": result.image, "reused": result.reused, "lock": result.lock}

    def elsewhere(self, folder: Path) -> World:
        """Return the same with empty caches."""
        builder = replace(self.builder, folder=folder, cache=lambda _: folder / "uv")
        return replace(self, builder=builder)

    async def made(self, image: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return manifest and configuration of an image, from the registry."""
        repository = opened(self.proxy.host, "team/images")
        found = await repository.find(image.partition("@")[2])
        assert found is not None
        blobs = self.builder._blobs
        await repository.fetch(found.value["config"]["digest"], blobs)
        await repository.aclose()
        return found.value, json.loads(blobs.read(found.value["config"]["digest"]))

    async def files(self, image: str) -> dict[str, bytes | str]:
        """Return the contents and links of an image."""
        manifest, _ = await self.made(image)
        found: dict[str, bytes | str] = {}
        for each in manifest["layers"]:
            with tarfile.open(self.builder._blobs.path(each["digest"])) as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.isfile() else None
                    found[member.name] = content.read() if content else member.linkname
        return found


@pytest.fixture
def world(proxy: Proxy, registry: Registry, tmp_path: Path, said: Said) -> Iterator[World]:
    """The index has dask, distributed, a heavy package, and one for each of two platforms."""
    put_image(
        registry.host,
        f"base/python:{PYTHON}",
        [layer([(f"usr/local/bin/python{PYTHON}", b"#!/bin/sh"), ("usr/local/bin/python3", f"python{PYTHON}")])],
        config={"Env": ["PATH=/usr/local/bin:/bin", "LANG=C.UTF-8"]},
    )
    index = tmp_path / "index"
    make_wheel(index, "dask", requires=["heavy"], scripts={"dask": "dask:main"})
    make_wheel(index, "distributed", requires=["dask"])
    make_wheel(index, "heavy", files={"heavy/data.bin": HEAVY, "heavy/tests/__init__.py": "x = 1\n"})
    with packages.served(index) as site:
        builder = ImageBuilder(
            folder=tmp_path / "images",
            cache=lambda account: tmp_path / f"uv-{account}",
            places=OnePlace(proxy.host),
            registries=Registries(sleep=no_sleep),
            base=f"{proxy.host}/base/python:{{python}}",
        )
        yield World(site, proxy, builder, said)


class TestPip:
    async def test_an_image_has_the_packages_in_layers_and_a_python_that_finds_them(self, world: World) -> None:
        found = await world.build("distributed")
        files = await world.files(found["image"])
        manifest, config = await world.made(found["image"])
        assert files[f"{SITE}/dask/__init__.py"] == b"__version__ = '1.0'\n"
        assert files[f"{SITE}/heavy/data.bin"] == HEAVY
        assert files["opt/ropewalk/bin/python"] == "/usr/local/bin/python" + PYTHON
        script = files["opt/ropewalk/bin/dask"]
        assert isinstance(script, bytes)
        assert script.startswith(b"#!/opt/ropewalk/bin/python\n")
        assert "PATH=/opt/ropewalk/bin:/usr/local/bin:/bin" in config["config"]["Env"]
        assert "LANG=C.UTF-8" in config["config"]["Env"]
        made = [each["created_by"] for each in config["history"]]
        assert made == ["base", "ropewalk: virtual environment", "ropewalk: heavy", "ropewalk: 2 packages"]
        assert len(manifest["layers"]) == 4
        names = {package.name: package.version for package in found["lock"].packages}
        assert names == {"dask": "1.0", "distributed": "1.0", "heavy": "1.0"}

    async def test_modules_are_compiled_such_that_no_time_matters_but_those_of_tests(self, world: World) -> None:
        files = await world.files((await world.build("distributed"))["image"])
        code = files[f"{SITE}/dask/__pycache__/__init__.{sys.implementation.cache_tag}.pyc"]
        assert isinstance(code, bytes)
        assert int.from_bytes(code[4:8], "little") == 1  # PEP 552: by hash, not checked
        assert f"/{SITE}/dask/__init__.py".encode() in code
        assert not [name for name in files if "tests/__pycache__" in name]

    async def test_the_same_packages_give_the_same_bytes_wherever_they_are_put_together(
        self, world: World, tmp_path: Path
    ) -> None:
        own = make_wheel(tmp_path / "own", "ours", requires=["distributed"])
        first = await world.build("distributed", wheels=(own,))
        moved = tmp_path / "a" / "longer" / "path" / own.name
        moved.parent.mkdir(parents=True)
        shutil.copy(own, moved)
        os.utime(moved, (1, 1))
        second = await world.elsewhere(tmp_path / "elsewhere").build("distributed", wheels=(moved,))
        assert second["digest"] == first["digest"]
        assert second["reused"]
        names = await world.files(first["image"])
        assert not [name for name in names if name.endswith(("direct_url.json", "uv_cache.json"))]
        assert not [name for name, data in names.items() if isinstance(data, bytes) and str(tmp_path).encode() in data]

    async def test_nothing_is_sent_for_what_is_there_and_only_its_layer_for_own_code(
        self, world: World, tmp_path: Path
    ) -> None:
        one = make_wheel(tmp_path / "1", "ours", files={"ours.py": "x = 1\n"})
        two = make_wheel(tmp_path / "2", "ours", files={"ours.py": "x = 2\n"})
        first = await world.build("distributed", wheels=(one,))
        world.proxy.requests.clear()
        world.site.requests.clear()
        again = await world.build("distributed", wheels=(one,))
        assert again["reused"]
        assert again["sent_bytes"] == world.proxy.sent == 0
        assert not [path for path in world.site.requests if path.endswith(".whl")]
        changed = await world.build("distributed", wheels=(two,))
        manifest, _ = await world.made(changed["image"])
        before, _ = await world.made(first["image"])
        layers = [each["digest"] for each in manifest["layers"]]
        assert layers[:-1] == [each["digest"] for each in before["layers"]][:-1]
        assert set(changed["sent_blobs"]) == {layers[-1], manifest["config"]["digest"]}

    async def test_an_image_that_vanished_is_told_and_made_again_without_downloads(
        self, world: World, registry: Registry
    ) -> None:
        request = world.request("distributed")
        result = await world.builder.build(request, world.said)
        assert await world.builder.present(request, result)
        registry.forget("team/images")
        assert not await world.builder.present(request, result)
        world.site.requests.clear()
        again = await world.builder.build(replace(request, lock=result.lock), world.said)
        assert again.image == result.image
        assert not again.reused
        assert world.site.requests == []
        world.proxy.inject("status", "HEAD", times=99)
        gone = replace(world.builder, places=OnePlace("127.0.0.1:1"))
        assert await gone.present(request, result)  # in doubt, it is there

    async def test_packages_are_chosen_for_the_platform_of_the_nodes(self, world: World, registry: Registry) -> None:
        for machine in ("x86_64", "aarch64"):
            tag = f"cp311-abi3-manylinux_2_17_{machine}"
            make_wheel(world.site.root, "native", files={"native.so": machine}, tag=tag)
        base = [layer([(f"usr/bin/python{PYTHON}", b""), ("bin", "usr/bin"), ("usr/bin/python3", f"python{PYTHON}")])]
        put_image(registry.host, "base/arm:1", base, "arm64", {"Env": ["PATH=/bin"]})
        arm = replace(world.builder, base=f"{world.proxy.host}/base/arm:1")
        target = replace(TARGET, platform="linux/arm64")
        found = await replace(world, builder=arm).build("distributed", "native", target=target)
        files = await world.files(found["image"])
        assert files[f"{SITE}/native.so"] == b"aarch64"
        _, config = await world.made(found["image"])
        assert config["architecture"] == "arm64"

    async def test_two_builds_of_one_specification_at_once_give_one_image(self, world: World) -> None:
        found = await asyncio.gather(*(world.build("distributed") for _ in range(2)))
        assert found[0]["digest"] == found[1]["digest"]

    async def test_a_base_of_another_python_or_without_one_is_refused(self, world: World, registry: Registry) -> None:
        put_image(registry.host, "base/odd:1", [layer([("usr/bin/python3.9", b""), ("usr/bin/python", "python3.9")])])
        put_image(registry.host, "base/none:1", [layer([("etc/x", b"")])])
        for name, says in (("odd", "has Python 3.9"), ("none", "no Python on its PATH")):
            with pytest.raises(FixItError, match=says):
                await world.build("distributed", container=f"{world.proxy.host}/base/{name}:1")


class TestFaults:
    async def test_a_package_that_disappeared_is_told(self, world: World, tmp_path: Path) -> None:
        request = world.request("distributed")
        lock = (await world.builder.build(request, world.said)).lock
        for each in world.site.root.glob("dask-*"):
            each.unlink()
        fresh = world.elsewhere(tmp_path / "fresh")
        with pytest.raises(FixItError, match="dask"):
            await fresh.builder.build(replace(request, lock=lock), world.said)

    async def test_a_package_with_other_bytes_than_were_locked_is_refused(self, world: World, tmp_path: Path) -> None:
        request = world.request("distributed")
        lock = (await world.builder.build(request, world.said)).lock
        make_wheel(world.site.root, "dask", files={"dask/__init__.py": "evil = True\n"})
        fresh = world.elsewhere(tmp_path / "fresh")
        with pytest.raises(FixItError, match=r"(?i)hash"):
            await fresh.builder.build(replace(request, lock=lock), world.said)

    @pytest.mark.parametrize("name", ["../../../../evil.py", "/evil.py", "ours-1.0.data/data/../../evil.py"])
    async def test_a_wheel_that_writes_elsewhere_is_refused(self, world: World, tmp_path: Path, name: str) -> None:
        evil = make_wheel(tmp_path / "own", "ours", files={name: "evil = True\n"})
        with pytest.raises(FixItError, match=r"leads out|could not be (resolved|installed)"):
            await world.build("distributed", wheels=(evil,))
        assert not _outside(tmp_path, "evil.py")

    async def test_a_wheel_of_an_index_that_writes_elsewhere_leaves_nothing_there(
        self, world: World, tmp_path: Path
    ) -> None:
        make_wheel(world.site.root, "nasty", files={"../../../../../evil.py": "evil = True\n", "nasty.py": ""})
        found = await world.build("distributed", "nasty")
        files = await world.files(found["image"])
        assert f"{SITE}/nasty.py" in files
        assert not [name for name in files if "evil" in name]
        assert not _outside(tmp_path, "evil.py")

    async def test_a_full_disk_is_told_as_that(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        def no_room(_: Blobs) -> Any:
            with disk_errors():
                raise OSError(errno.ENOSPC, "No space left on device", "x")

        await world.build("distributed")
        make_wheel(world.site.root, "another")
        monkeypatch.setattr(Blobs, "writer", no_room)
        with pytest.raises(FixItError, match="no room on the disk"):
            await world.build("distributed", "another")

    async def test_on_a_disk_that_is_full_nothing_half_made_stays_and_what_was_done_is_not_done_twice(
        self, world: World, tmp_path: Path
    ) -> None:
        if os.geteuid() != 0:
            pytest.skip("only root on Linux can run programs as other users, or mount a small disk")
        folder = tmp_path / "small"
        folder.mkdir()
        mount = ("/bin/mount", "-t", "tmpfs", "tmpfs", str(folder), "-o")
        subprocess.run([*mount, "size=20m"], check=True)  # noqa: ASYNC221 - takes no time
        try:
            small = world.elsewhere(folder)
            with pytest.raises((FixItError, TryAgainError), match="disk"):
                await small.build("distributed")
            half = [path for part in ("scratch", "blobs/partial") for path in (folder / part).glob("*")]
            assert not half
            subprocess.run([*mount, "remount,size=200m"], check=True)  # noqa: ASYNC221 - as above
            assert (await small.build("distributed"))["image"]
        finally:
            subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)  # noqa: ASYNC221 - as above

    async def test_a_build_is_completed_at_whatever_step_the_server_was_killed(
        self, world: World, tmp_path: Path
    ) -> None:
        place = OnePlace(world.proxy.host, "team/killed")  # which has nothing of other tests
        other = world.elsewhere(tmp_path / "killed")
        other = replace(other, builder=replace(other.builder, places=place))
        request = other.request("distributed")
        facts = tmp_path / "facts.json"
        known = {"folder": str(other.builder.folder), "host": place.host, "name": place.name}
        known["base"] = world.builder.base
        facts.write_text(json.dumps({**known, "spec": request.spec.model_dump(mode="json")}))
        for point in crashing_build.POINTS:
            command = (sys.executable, "-m", "tests.support.crashing_build", point, str(facts))
            done = await asyncio.create_subprocess_exec(*command, cwd=Path(__file__).parents[2])
            assert await done.wait() == -9, point
        found = await other.builder.build(request, world.said)
        assert found.reused, "the last one died when all was done"
        assert found.details["digest"] == (await world.build("distributed"))["digest"]

    async def test_a_layer_that_was_damaged_on_the_servers_disk_is_found_out_and_made_again(
        self, world: World, registry: Registry
    ) -> None:
        first = await world.build("distributed")
        registry.forget("team/images")
        damaged = max(world.builder._blobs.folder.glob("sha256/*"), key=lambda path: path.stat().st_size)
        damaged.write_bytes(bytes(damaged.stat().st_size))
        with pytest.raises(TryAgainError, match="cache is damaged; it is made again"):
            await world.build("distributed")
        again = await world.build("distributed")
        assert again["digest"] == first["digest"]

    async def test_credentials_of_an_index_open_it_and_appear_nowhere(self, world: World, tmp_path: Path) -> None:
        private = tmp_path / "private"
        make_wheel(private, "secretive")
        with packages.served(private, ("reader", "canary-of-the-index")) as site:
            request = world.request("distributed", "secretive", extra_index_urls=[f"{site.url}/simple/"])
            with pytest.raises(FixItError, match="could not be"):
                await world.builder.build(request, world.said)
            known = Credential("theirs", site.url, "reader", "canary-of-the-index")
            result = await world.builder.build(replace(request, credentials=[known]), world.said)
        assert result.image is not None
        files = await world.files(result.image)
        assert f"{SITE}/secretive/__init__.py" in files
        manifest, config = await world.made(result.image)
        everything = [json.dumps([manifest, config, world.said.lines, world.said.events]).encode()]
        everything += [data for data in files.values() if isinstance(data, bytes)]
        everything += [each.read_bytes() for each in world.builder.folder.rglob("*") if each.is_file()]
        assert not [each for each in everything if b"canary-of-the-index" in each]

    async def test_a_registry_that_is_down_is_tried_again_and_nothing_is_lost(self, world: World) -> None:
        down = replace(world.builder, places=OnePlace("127.0.0.1:1"), base=world.builder.base)
        with pytest.raises(TryAgainError, match="cannot be reached"):
            await down.build(world.request("distributed"), world.said)
        world.site.requests.clear()
        await world.build("distributed")
        assert not [path for path in world.site.requests if path.endswith(".whl")]


def _outside(folder: Path, name: str) -> list[Path]:
    """Return files of that name, but for those that uv keeps in its cache."""
    return [each for each in folder.rglob(name) if "archive-v0" not in each.parts]
