"""One watch sees all clusters, through everything that an API server does to watches."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ropewalk.backends.kubernetes import api
from ropewalk.backends.kubernetes import watch as watching
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Answer, Place
from ropewalk.errors import FixItError, TryAgainError
from tests.kubernetes.nodes import STUCK, handle, reason, request, seen, until
from tests.support.kube_plane import Plane
from tests.support.kube_proxy import Proxy
from tests.support.kube_space import Space
from tests.support.waiting import PATIENCE, eventually

LIST = r"/pods\?labelSelector=[^&]*&limit"
WATCH = r"watch=true"


async def watched(backend: KubernetesBackend, proxy: Proxy, name: str = "s") -> None:
    """Wait until the watch is open, as it is some milliseconds after the first look."""
    assert (await seen(backend, name)).answer is Answer.RUNNING
    await eventually(lambda: proxy.asked("GET", WATCH))


async def deleted_by_hand(space: Space, name: str) -> None:
    space.plane.ask("DELETE", space.path("pods", name), params={"gracePeriodSeconds": "0"})


class TestOneWatch:
    async def test_serves_all_clusters_and_costs_nothing_while_nothing_happens(
        self, backend: KubernetesBackend, proxy: Proxy
    ) -> None:
        for i in range(20):
            await backend.launch(request(f"s{i}", cluster=f"c{i}"))
        handles = [handle(f"s{i}", f"c{i}") for i in range(20)]
        await backend.observe(handles)
        await eventually(lambda: proxy.asked("GET", WATCH))
        before = [line for line in proxy.seen if "events" not in line]
        for _ in range(50):
            sightings = (await backend.observe(handles)).sightings
            assert {sighting.answer for sighting in sightings.values()} == {Answer.RUNNING}
        assert [line for line in proxy.seen if "events" not in line] == before
        assert proxy.asked("GET", LIST) == 1
        assert proxy.asked("GET", WATCH) == 1

    async def test_tells_of_a_pod_deleted_by_hand(self, backend: KubernetesBackend, space: Space) -> None:
        await backend.launch(request("s"))
        assert (await seen(backend, "s")).answer is Answer.RUNNING
        await deleted_by_hand(space, "s")
        while (await seen(backend, "s")).answer is not Answer.GONE:
            await asyncio.wait_for(backend.changed(), PATIENCE)
        assert "was deleted in Kubernetes" in ((await seen(backend, "s")).reason or "")

    async def test_does_not_see_pods_of_others(self, backend: KubernetesBackend, space: Space) -> None:
        other = space.backend()
        other._place = Place("inst-test", "cloud-2", "team")
        other._launcher._place = other._place
        await other.launch(request("s9", cluster="c9"))
        await other.close()
        await backend.launch(request("s"))
        assert [node.name for node in await backend.inventory()] == ["s"]


class TestResuming:
    async def test_after_a_broken_connection_begins_where_it_was(
        self, backend: KubernetesBackend, proxy: Proxy, space: Space
    ) -> None:
        await backend.launch(request("s", "w1"))
        await watched(backend, proxy)
        proxy.cut()
        await deleted_by_hand(space, "w1")
        await until(backend, "w1", Answer.GONE)
        assert (await seen(backend, "s")).answer is Answer.RUNNING
        assert proxy.asked("GET", LIST) == 1
        assert proxy.asked("GET", WATCH) >= 2

    async def test_lists_again_when_the_version_has_expired_by_status(
        self, backend: KubernetesBackend, proxy: Proxy, space: Space
    ) -> None:
        await backend.launch(request("s", "w1"))
        await watched(backend, proxy)
        proxy.inject("GET", WATCH, 410, body={"kind": "Status", "code": 410, "reason": "Expired"})
        await deleted_by_hand(space, "w1")
        proxy.cut()
        await until(backend, "w1", Answer.GONE)
        await eventually(lambda: proxy.asked("GET", LIST) == 2)
        assert (await seen(backend, "s")).answer is Answer.RUNNING

    async def test_lists_again_when_the_version_has_expired_by_event(
        self, backend: KubernetesBackend, proxy: Proxy
    ) -> None:
        await backend.launch(request("s"))
        await watched(backend, proxy)
        body = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired"}}
        proxy.inject("GET", WATCH, 200, body=body)
        proxy.cut()
        await eventually(lambda: proxy.asked("GET", WATCH) >= 3)
        assert proxy.asked("GET", LIST) == 2
        assert (await seen(backend, "s")).answer is Answer.RUNNING

    async def test_in_pages_finds_all(
        self, backend: KubernetesBackend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = [f"w{i}" for i in range(7)]
        await backend.launch(request("s", *names))
        monkeypatch.setattr(watching, "PAGE", 3)
        await backend._watch.ready()
        assert len(await backend.inventory()) == 8
        assert proxy.asked("GET", r"continue=") == 2


class TestWhileNothingIsHeard:
    async def test_all_nodes_are_unknown_and_the_reason_is_told(self, backend: KubernetesBackend, proxy: Proxy) -> None:
        await backend.launch(request("s"))
        await watched(backend, proxy)
        proxy.down = True
        proxy.cut()
        sighting = await until(backend, "s", Answer.UNKNOWN)
        assert "could not be reached" in (sighting.reason or "")
        proxy.down = False
        await until(backend, "s", Answer.RUNNING)

    async def test_never_looked_nodes_are_unknown_too(
        self, backend: KubernetesBackend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(api, "TRIES", 1)
        proxy.down = True
        assert (await seen(backend, "never")).answer is Answer.UNKNOWN
        with pytest.raises(TryAgainError):
            await backend.inventory()

    async def test_the_end_of_silence_is_a_change(self, backend: KubernetesBackend, proxy: Proxy) -> None:
        await backend.launch(request("s"))
        proxy.down = True
        proxy.cut()
        await until(backend, "s", Answer.UNKNOWN)
        backend._change.clear()
        proxy.down = False
        await asyncio.wait_for(backend.changed(), 60)
        await until(backend, "s", Answer.RUNNING)

    async def test_revoked_credentials_are_told_and_new_ones_find_everything(
        self, space: Space, plane: Plane, tmp_path: Path
    ) -> None:
        backend = space.backend(tmp_path, image=STUCK)
        await backend.launch(request("s"))
        plane.ask("DELETE", space.path("serviceaccounts", "ropewalk"))

        async def refused() -> FixItError | None:
            try:
                await backend._api.call("get", "pods", "s")
            except FixItError as exc:
                return exc if exc.details.get("credentials") == "invalid" else None
            return None

        error = await eventually(refused, within=90)
        assert error.field == "kubeconfig"
        assert "ropewalk kubernetes kubeconfig" in (error.advice or "")
        backend._watch._version = ""
        await backend.close()
        fresh = space.backend(tmp_path, image=STUCK)
        assert "does not accept" in ((await reason(fresh, "s", "does not accept")).reason or "")
        await fresh.close()
        account = {"apiVersion": "v1", "kind": "ServiceAccount"}
        plane.apply([{**account, "metadata": {"name": "ropewalk", "namespace": space.namespace}}])
        rotated = space.backend(tmp_path, token=plane.token(space.namespace, "ropewalk"), image=STUCK)
        assert (await seen(rotated, "s")).answer is Answer.RUNNING
        await rotated.close()
