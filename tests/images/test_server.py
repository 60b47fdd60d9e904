"""As a user does it: the command line, a real server, a cloud account in AWS or one that names a registry."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ropewalk.client import calls
from ropewalk.client.environment import snapshot, sync
from ropewalk.client.environment.conda import CondaPackage
from ropewalk.client.environment.sync import Software
from ropewalk.client.http import Api, AsyncApi
from ropewalk.client.versions import VersionMismatchWarning
from ropewalk.errors import ConflictError
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail
from ropewalk.schemas.environments import IndexCredentialsSet
from tests.images.conftest import Said, layer, put_image, put_index
from tests.images.test_synced import LOGIN, World, fill
from tests.support import packages
from tests.support.aws_team import prepared_team
from tests.support.ministack import Double
from tests.support.packages import make_conda_package, make_wheel
from tests.support.registry import Registry
from tests.support.server_process import PROGRAM
from tests.support.waiting import wait_until

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.fixture
def team(aws: Double, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A server whose only user, ada, has an AWS account that is prepared."""
    base = [layer([(f"usr/bin/python{PYTHON}", b""), ("usr/bin/python3", f"python{PYTHON}")])]
    bases = {
        name: put_image(registry.host, f"base/python:{name}", base, name, {"Env": ["PATH=/usr/bin"]})
        for name in ("amd64", "arm64")
    }
    put_index(registry.host, f"base/python:{PYTHON}", bases)
    monkeypatch.setenv("ROPEWALK_IMAGE_BASE", f"{registry.host}/base/python:{{python}}")
    with prepared_team(aws, tmp_path / "data", monkeypatch) as api:
        yield api


@pytest.mark.timeout(400)
def test_an_environment_becomes_an_image_in_the_teams_own_registry(team: Api, aws: Double, tmp_path: Path) -> None:
    def run(*arguments: str, status: int = 0) -> str:
        done = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    index = tmp_path / "index"
    for name, requires in (("dask", []), ("distributed", ["dask"])):
        make_wheel(index, name, requires=requires)
    with packages.served(index) as site:
        url = ("--index-url", f"{site.url}/simple/")
        told = run("env", "create", "flights", "--pip", "distributed", "--python", PYTHON, *url)
        assert "was pushed" in told
        (image,) = json.loads(run("image", "list", "--json"))
        found = json.loads(run("env", "inspect", "flights", "--json"))
        (build,) = found["versions"][0]["builds"]
        assert build["image"].endswith(image["digest"])
        assert "Layer 2 packages" in run("env", "log", "flights")
        refused = run("env", "create", "broken", "--pip", "no-such-thing", "--python", PYTHON, *url, status=1)
        assert "no-such-thing" in refused
        run("image", "delete", image["digest"], "--yes")
        wish = ClusterCreate(software="flights", n_workers=1)
        with pytest.raises(ConflictError, match="built again, since its image is not in the registry") as caught:
            team(calls.create_cluster("ada", wish))
        assert caught.value.details["environment"] == "building"
        (again,) = wait_until(lambda: json.loads(run("image", "list", "--json")))
        assert again["digest"] == image["digest"]
        assert f"The image {build['image']} is not in its registry any more" in run("env", "log", "flights")

        def made(wish: ClusterCreate) -> ClusterDetail | None:
            with suppress(ConflictError):  # until the build has been noted
                return team(calls.create_cluster("ada", wish))
            return None

        cluster = wait_until(lambda: made(wish))
        assert cluster is not None
        assert cluster.software == "flights:1"
        team(calls.stop_cluster("ada", cluster.name))
        _a_cluster_with_other_processors_gets_an_image_for_them(team, aws, made)
        make_wheel(index, "fast", tag=f"cp{PYTHON.replace('.', '')}-none-manylinux_2_17_x86_64")
        run("env", "create", "fast", "--pip", "distributed", "--pip", "fast", "--python", PYTHON, *url)
        _what_has_no_build_for_them_is_told(team)


async def test_a_conda_environment_comes_along_as_an_image(
    team: Api, tmp_path: Path, said: Said, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    fill(tmp_path / "channel")
    private = tmp_path / "private"
    make_conda_package(private, "ours", files={"share/ours": b"x"}, subdir="linux-64")
    with packages.served(tmp_path / "channel") as site, packages.served(private, login=LOGIN) as locked:
        world = World(site, tmp_path / "channel", tmp_path / "prefix", tmp_path, said)
        found = await world.installed("dask", "distributed", "gdal", "mkl")
        address = locked.url.replace("127.0.0.1", "localhost")
        found.append(CondaPackage("ours", "1.0", "0", "linux-64", address, requested=True, python=False))
        monkeypatch.setattr(sync, "conda_packages", lambda: found)
        own = [snapshot.Installed(name, version) for each in found for name, version in each.distributions]
        monkeypatch.setattr(snapshot, "installed", lambda: own)
        wish = IndexCredentialsSet(url=address, username=LOGIN[0], password=LOGIN[1])
        await asyncio.to_thread(team, calls.set_index_credentials("ada", "ours", wish))

        first = await synchronised()
        assert not [each for each in recwarn if issubclass(each.category, VersionMismatchWarning)]
        assert first.software is not None
        name = first.software.partition(":")[0]
        version = (await asyncio.to_thread(team, calls.get_environment("ada", name))).versions[0]
        assert version.spec.credentials == ["ours"]
        assert {(each.name, each.build) for each in version.packages} == {(each.name, each.build) for each in found}
        again = await synchronised()
        assert again.software == first.software
        with pytest.warns(VersionMismatchWarning) as told:
            other = await synchronised(**ARM)
        assert other.software != first.software, "builds are pinned for their own platform only"
        lines = str(told[0].message).splitlines()[1:]
        assert [line.split()[0] for line in lines] == ["gdal", "mkl", "ours"]
        (build,) = (
            (await asyncio.to_thread(team, calls.get_environment("ada", str(other.software)[:25]))).versions[0].builds
        )
        assert build.platform == "linux/arm64", "none is built that nobody asked for"
    kept = [path for path in (tmp_path / "data").rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if LOGIN[1].encode() in path.read_bytes()]


async def synchronised(**options: str) -> ClusterDetail:
    """Ask for a cluster as the client does, with this program's packages; it is stopped at once."""
    url, token = os.environ["DASK_ROPEWALK__SERVER"], os.environ["DASK_ROPEWALK__TOKEN"]
    api = AsyncApi(url, token)

    async def ask(wish: ClusterCreate) -> ClusterDetail:
        return await api(calls.create_cluster("ada", wish))

    software = Software(api, sync=True, versions="warn", step=print, say=print)
    try:
        made = await software.ready("ada", ClusterCreate(n_workers=0, backend_options=options), ask)
        await api(calls.stop_cluster("ada", made.name))
    finally:
        await api.aclose()
    return made


ARM = {"architecture": "ARM64"}


def _a_cluster_with_other_processors_gets_an_image_for_them(
    team: Api, aws: Double, made: Callable[[ClusterCreate], ClusterDetail | None]
) -> None:
    wish = ClusterCreate(software="flights", n_workers=1, backend_options=ARM)
    with pytest.raises(ConflictError, match="is being built"):
        team(calls.create_cluster("ada", wish))
    cluster = wait_until(lambda: made(wish))
    assert cluster is not None
    builds = {each.platform: each for each in team(calls.get_environment("ada", "flights")).versions[0].builds}
    assert builds["linux/arm64"].image != builds["linux/amd64"].image
    ecs = aws.client("ecs")

    def definition() -> dict[str, Any] | None:
        """Return what nodes of the cluster are started by."""
        with suppress(ClientError):  # throttled
            names = ecs.list_task_definitions(status="ACTIVE")["taskDefinitionArns"]
            found = [ecs.describe_task_definition(taskDefinition=name)["taskDefinition"] for name in names]
            return next((each for each in found if each["runtimePlatform"]["cpuArchitecture"] == "ARM64"), None)
        return None

    launched = wait_until(definition)
    assert launched is not None
    assert {each["image"] for each in launched["containerDefinitions"]} == {builds["linux/arm64"].image}
    team(calls.stop_cluster("ada", cluster.name))


def _what_has_no_build_for_them_is_told(team: Api) -> None:
    wish = ClusterCreate(software="fast", n_workers=1, backend_options=ARM)

    def refused() -> str | None:
        with pytest.raises(ConflictError) as caught:
            team(calls.create_cluster("ada", wish))
        return caught.value.message if caught.value.details["environment"] == "failed" else None

    why = wait_until(refused)
    assert why is not None
    assert "could not be built" in why
    assert "fast" in why
    assert "aarch64" in why
    found = team(calls.get_environment("ada", "fast"))
    assert (found.version, found.state) == (1, "ready"), "it is as good as before for others"
