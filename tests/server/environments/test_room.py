"""Room on the server's disk: what is removed and what never, and what is said when there is none."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.backends.memory import MemoryBackend
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.environments import EnvironmentSpec
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.environments import caches, housekeeping, room
from ropewalk.server.environments.builder import BuildRequest, Credential
from ropewalk.server.environments.builders import files_of
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.room import Limits
from ropewalk.server.environments.venvs import VenvBuilder
from tests.server.environments.conftest import FakeBuilder
from tests.server.environments.test_environments import DASK, ROOT, create, made, over
from tests.server.environments.test_venvs import PASSWORD, TARGET, Index, Workshop, index, workshop
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

__all__ = ["index", "workshop"]
"""Fixtures."""

AMPLE = Limits(packages=2**40, layers=2**40, venvs=2**40, account=2**40, free=0)


@pytest.fixture
def backends() -> Backends:
    return Backends({"local": MemoryBackend()})


def limit(monkeypatch: pytest.MonkeyPatch, **bytes_of: int) -> None:
    monkeypatch.setattr(Limits, "of", lambda _settings: replace(AMPLE, **bytes_of))


class TestCaches:
    def test_what_was_not_used_for_longest_goes_first_and_what_a_running_build_may_use_stays(
        self, tmp_path: Path
    ) -> None:
        files = Files(tmp_path)
        blobs = files.images / "blobs" / "sha256"
        blobs.mkdir(parents=True)
        for age in (400, 300, 200):
            (blobs / str(age)).write_bytes(bytes(1000))
            os.utime(blobs / str(age), (time.time() - age, time.time() - age))
        (files.running / "eb-dead").touch()

        def left(keep: int) -> set[str]:
            caches.prune(caches.blobs(tmp_path), keep, caches.began(files.running))
            return {path.name for path in blobs.iterdir()}

        assert left(keep=3000) == {"400", "300", "200"}
        assert left(keep=2500) == {"300", "200"}
        with caches.running(files.running, "eb-1"), caches.running(files.running, "eb-2"):
            os.utime(files.running / "eb-1", (time.time() - 250, time.time() - 250))
            assert left(keep=0) == {"200"}
        assert not list(files.running.iterdir()), "what a dead server noted is removed, too"
        assert left(keep=0) == set()

    def test_what_credentials_opened_is_the_accounts_own_and_is_removed_as_well(self, tmp_path: Path) -> None:
        folder = tmp_path / "cache" / "data"  # where other people's caches may be: nothing is locked there
        for place in (
            "images/conda/packages",
            "images/conda-private/a-1/packages",
            "images/conda-private/a-2/packages",
        ):
            (folder / place).mkdir(parents=True)
            (folder / place / "libx-1.conda").write_bytes(bytes(1000))
        assert [part.path.parts[-3] for part in caches.private(folder, "a-1")] == ["a-1"]
        assert caches.prune(caches.packages(folder), 0, time.time() + 10) == 3000
        assert not list(folder.rglob("*.conda"))
        assert not (tmp_path / "cache" / ".lock").exists()

    async def test_packages_are_removed_when_no_uv_runs_and_are_downloaded_again(self, workshop: Workshop) -> None:
        first = await workshop.build()
        cache = workshop.files.cache(TARGET.account_id)
        later = time.time() + 10

        def prune() -> int:
            return caches.prune(caches.packages(workshop.files.root), 0, later)

        with (cache / ".lock").open() as held:
            fcntl.flock(held, fcntl.LOCK_SH)  # as each uv does
            assert prune() == 0
        assert prune() > 0
        assert not list(cache.glob("archive-v*/*"))
        await asyncio.to_thread(shutil.rmtree, str(first.path))
        again = await workshop.build(lock=first.lock)
        assert (again.path, again.reused) == (first.path, False)
        used = {part.path: part.used for part in caches.uv_cache(cache) if part.path.parent.name.startswith("archive")}
        await asyncio.to_thread(shutil.rmtree, str(first.path))
        before = time.time()
        await workshop.build(lock=first.lock)
        now = {part.path: part.used for part in caches.uv_cache(cache)}
        assert used
        assert all(now[path] >= before - 1 for path in used), "to install from the cache is to use it"


class TestHousekeeping:
    async def test_virtual_environments_beyond_the_limit_go_but_for_those_that_clusters_run_in(
        self, api: Api, builder: FakeBuilder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = (await api.person("ada")).client
        files = files_of(api.context)
        builder.root = files.venvs
        for name in ("used", "old", "new"):
            await made(ada, name, {"pip": [*DASK["pip"], f"{name}==1"]})
            clock.advance(10)
        for folder in await asyncio.to_thread(lambda: list(files.venvs.iterdir())):
            (folder / "data").write_bytes(bytes(1000))
        wish = {"name": "c", "n_workers": 0, "software": "used"}
        assert (await ada.post(f"{ROOT}/clusters", json=wish)).status_code == 201
        limit(monkeypatch, venvs=2500)

        async def left() -> int:
            await housekeeping.tidy(api.context, files)
            return len(list(files.venvs.iterdir()))

        assert await left() == 3, "a cluster may be about to start in what was asked for just now"
        clock.advance(3700)
        assert await left() == 2
        limit(monkeypatch, venvs=0)
        assert await left() == 1
        shown = api.context.metrics.render().decode()
        assert 'ropewalk_environment_bytes{part="venvs"} 1000.0' in shown
        assert "ropewalk_environment_free_bytes" in shown


class TestDemands:
    async def test_a_build_waits_for_room_and_says_so(
        self, api: Api, builder: FakeBuilder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = (await api.person("ada")).client
        free = [10 * 2**20]
        monkeypatch.setattr(room, "free_bytes", lambda _folder: free[0])
        limit(monkeypatch, free=2**30)
        wish = await create(ada, "etl", DASK)

        async def reason() -> str | None:
            found: str | None = (await ada.get(f"{ROOT}/builds/{wish['build']}")).json()["reason"]
            return found

        said = await eventually(reason)
        assert said.startswith("The server's disk is full: 10.0 MiB are free, and 1.0 GiB have to be for a build.")
        assert not builder.asked
        free[0] = 2**31
        clock.advance(61)
        api.context.wakeups.wake("build")
        assert (await over(ada, wish["build"]))["state"] == "ready"

    async def test_a_build_that_fills_the_disk_is_stopped(
        self, api: Api, builder: FakeBuilder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = (await api.person("ada")).client
        free = [2**31]
        monkeypatch.setattr(room, "free_bytes", lambda _folder: free[0])
        monkeypatch.setattr(room, "WATCH_SECONDS", 0.02)
        limit(monkeypatch, free=2**30)
        builder.gate.clear()
        wish = await create(ada, "etl", DASK)
        await eventually(lambda: builder.asked)
        free[0] = 2**28
        failed = await over(ada, wish["build"])
        assert failed["state"] == "failed"
        assert "it left less than 0.5 GiB of the server's disk free" in failed["reason"]
        assert not list(files_of(api.context).running.iterdir())

    async def test_an_account_that_holds_too_much_can_add_nothing_until_it_lets_go(
        self, api: Api, builder: FakeBuilder, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ada = (await api.person("ada")).client
        files = files_of(api.context)
        builder.root = files.venvs
        await made(ada, "first", {"pip": [*DASK["pip"], "first==1"]})
        (next(files.venvs.iterdir()) / "data").write_bytes(bytes(10_000))
        caches._folder_bytes.cache_clear()
        limit(monkeypatch, account=10_000)
        content = b"a wheel"
        place = f"{ROOT}/wheels/{hashlib.sha256(content).hexdigest()}/own-1-py3-none-any.whl"
        refused = await ada.put(place, content=content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (409, "limit_exceeded")
        assert "environment_account_gib" in refused.json()["error"]["advice"]
        failed = await over(ada, (await create(ada, "second", DASK))["build"])
        assert failed["state"] == "failed"
        assert "software environments take 0.0 MiB on the server's disk, and may take 0.0 MiB" in failed["reason"]
        bob = await api.person("bob")
        other = await bob.client.post("/api/v1/accounts/bob/environments", json={"name": "his", "spec": DASK})
        assert other.status_code == 200, "it is the limit of one account"
        clock.advance(3700)
        assert (await over(ada, (await create(ada, "second", DASK, force_rebuild=True))["build"]))["state"] == "ready"
        assert builder.asked[-1].room == 10_000, "what it did not use was removed for that"


class TestVirtualEnvironments:
    async def test_one_that_is_larger_than_what_is_left_is_refused_and_nothing_of_it_stays(
        self, workshop: Workshop, index: Index
    ) -> None:
        index.add("large", "1.0", **{"large/data": "x" * 100_000})
        spec = EnvironmentSpec(pip=["dask", "distributed", "large"], python="3.11", index_url=index.url)
        known = [Credential("ours", index.url, "reader", PASSWORD)]
        request = BuildRequest("eb-1", spec, TARGET, known, room=100_000)
        with pytest.raises(FixItError, match="the account may add 0 MiB"):
            await VenvBuilder(workshop.files, isolated=False).build(request, workshop.told)
        assert not list(workshop.files.venvs.iterdir())

    async def test_a_disk_that_is_full_is_told_and_nothing_half_made_stays(self, small: Path, index: Index) -> None:
        index.add("large", "1.0", **{"large/data": os.urandom(6 * 2**20).hex()})
        workshop = Workshop(small / "environments", index)
        with pytest.raises(TryAgainError, match="disk is full") as caught:
            await workshop.build("large")
        assert "frees space" in str(caught.value.advice)
        assert not list(workshop.files.venvs.iterdir())
        assert (await workshop.build()).path is not None, "what is small enough can be built there"


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root on Linux can run programs as other users, or mount a small disk")
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["/bin/umount", "--lazy", str(folder)], check=True)
