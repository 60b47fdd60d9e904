"""What goes wrong on the way to an API server, and with it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from ropewalk.backends.kubernetes import explain, keeper, objects
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Answer, NodeShape
from ropewalk.errors import FixItError, TryAgainError
from tests.kubernetes.nodes import STUCK, handle, request, seen, until
from tests.support import kube_plane
from tests.support.kube_plane import Plane
from tests.support.kube_proxy import Proxy
from tests.support.kube_space import Space
from tests.support.waiting import eventually


class TestOneRequest:
    async def test_that_is_put_off_is_sent_again_when_it_was_told_to(
        self, backend: KubernetesBackend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        waits: list[float] = []

        async def sleep(seconds: float) -> None:
            waits.append(seconds)

        monkeypatch.setattr("ropewalk.backends.kubernetes.api.asyncio.sleep", sleep)
        proxy.inject("POST", "/services", 429, headers={"Retry-After": "3"}, times=2)
        (result,) = await backend.launch(request("s"))
        assert result.error is None
        assert len([wait for wait in waits if wait >= 3]) == 2
        assert all(wait <= 3 * 1.3 for wait in waits)

    async def test_that_is_put_off_for_long_is_left_to_the_caller(
        self, backend: KubernetesBackend, proxy: Proxy
    ) -> None:
        proxy.inject("POST", "/services", 429, headers={"Retry-After": "120"})
        with pytest.raises(TryAgainError) as caught:
            await backend.launch(request("s"))
        assert caught.value.delay == 120

    @pytest.mark.parametrize("status", [500, 502, 503, 504, None])
    async def test_whose_answer_is_lost_is_sent_again_and_makes_nothing_twice(
        self, backend: KubernetesBackend, proxy: Proxy, space: Space, status: int | None
    ) -> None:
        for resource in ("services", "secrets", "pods"):
            proxy.inject("POST", f"/{resource}", status, effect=True)
        results = await backend.launch(request("s", "w1"))
        assert [result.error for result in results] == [None, None]
        assert space.names("pods") == {"s", "w1"}
        assert len(space.names("services")) == 1

    async def test_that_never_succeeds_says_what_was_asked(self, backend: KubernetesBackend, proxy: Proxy) -> None:
        proxy.inject("POST", "/services", 503, times=99, body={"message": "etcd is down"})
        with pytest.raises(TryAgainError) as caught:
            await backend.launch(request("s"))
        assert "create services" in caught.value.message
        assert "etcd is down" in caught.value.message
        assert proxy.asked("POST", "/services") == 4

    async def test_answered_by_a_page_of_a_proxy_is_no_defect(self, backend: KubernetesBackend, proxy: Proxy) -> None:
        proxy.inject("POST", "/services", 200, headers={"Content-Type": "text/html"}, body=[])
        with pytest.raises(TryAgainError) as caught:
            await backend.launch(request("s"))
        assert "not JSON" in caught.value.message

    async def test_that_is_refused_names_the_permission_and_what_breaks(
        self, backend: KubernetesBackend, proxy: Proxy, space: Space, plane: Plane
    ) -> None:
        path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space.namespace}/rolebindings/ropewalk"
        plane.ask("DELETE", path)
        await eventually(lambda: not space.may("create", "services"))
        with pytest.raises(FixItError) as caught:
            await backend.launch(request("s"))
        error = caught.value
        assert "may not create services" in error.message
        assert "workers find their scheduler by it" in error.message
        assert error.details["permission"] == "create services"
        assert "ropewalk kubernetes manifest" in (error.advice or "")

    async def test_shows_no_token_in_errors(self, backend: KubernetesBackend, proxy: Proxy, space: Space) -> None:
        proxy.down = True
        with pytest.raises(TryAgainError) as caught:
            await backend.launch(request("s"))
        assert space.token not in str(caught.value) + repr(caught.value.body()) + repr(vars(backend))


class TestStops:
    async def test_that_fail_are_told_and_work_the_next_time(
        self, backend: KubernetesBackend, proxy: Proxy, space: Space
    ) -> None:
        await backend.launch(request("s"))
        await seen(backend, "s")
        proxy.inject("DELETE", "/pods", 500, times=4)
        with pytest.raises(TryAgainError):
            await backend.stop([handle("s")])
        assert (await seen(backend, "s")).answer is Answer.RUNNING
        assert not (await backend.logs(handle("s"))).complete
        assert backend._archive.record("c1", "s") is None
        await backend.stop([handle("s")])
        await until(backend, "s", Answer.GONE)
        await eventually(lambda: space.names("services") == set())

    async def test_of_a_pod_that_somebody_made_anew_leave_it_alone(
        self, backend: KubernetesBackend, space: Space, plane: Plane
    ) -> None:
        await backend.launch(request("s"))
        await seen(backend, "s")
        known = backend._watch.pods["s"]
        plane.ask("DELETE", space.path("pods", "s"), params={"gracePeriodSeconds": "0"})
        await until(backend, "s", Answer.GONE)
        body = {
            "metadata": {"name": "s"},
            "spec": {"containers": [{"name": "x", "image": STUCK}]},
        }
        plane.ask("POST", space.path("pods"), json=body)
        await backend._keeper.end([known])
        assert space.pod("s")["metadata"].get("deletionTimestamp") is None


class TestLeftovers:
    async def test_of_a_start_that_was_cut_short_are_removed(
        self, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = space.backend(tmp_path)
        await first._launcher._owner(request("s"))
        await first.close()
        monkeypatch.setattr("ropewalk.backends.kubernetes.backend.LEFTOVER_AGE", timedelta(0))
        second = space.backend(tmp_path)
        assert await second.inventory() == []
        await eventually(lambda: space.names("services") == set())
        await second.close()

    async def test_that_are_young_may_be_a_start_under_way(self, space: Space, tmp_path: Path) -> None:
        first = space.backend(tmp_path)
        await first._launcher._owner(request("s"))
        await first.close()
        second = space.backend(tmp_path)
        await second.inventory()
        await second.close()
        assert space.names("services") == {"ropewalk-c1"}

    async def test_a_pod_that_comes_after_the_end_of_its_cluster_is_collected(
        self, space: Space, plane: Plane, tmp_path: Path
    ) -> None:
        slow = space.backend(tmp_path, image=STUCK)
        owner = await slow._launcher._owner(request("s"))
        plane.ask("DELETE", space.path("services", owner.name))
        await slow.launch(request("s"))
        kube_plane.until_gone(plane, space.path("pods", "s"))
        await slow.close()


@pytest.fixture(scope="module")
def own() -> Iterator[Plane]:
    """A control plane that may be broken."""
    with kube_plane.plane() as made:
        yield made


@pytest.fixture
async def own_space(own: Plane) -> AsyncIterator[Space]:
    made = Space(own)
    yield made
    await made.close()


class TestTheControlPlaneItself:
    async def test_a_pod_that_makes_room_for_a_more_important_one_says_so(
        self, own: Plane, own_space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The scheduler writes down why when it comes to it.
        monkeypatch.setattr(explain, "END_WAITS", (0.0, *(0.3,) * 200))
        classes = "/apis/scheduling.k8s.io/v1/priorityclasses"
        for name, value in (("low", -10), ("high", 1000)):
            own.ask("POST", classes, json={"metadata": {"name": name}, "value": value})
        space = own_space
        await eventually(lambda: all(space.takes(priorityClassName=name) for name in ("low", "high")))
        backend = space.backend(tmp_path, image=STUCK)
        half = NodeShape(cpu=200, memory=2**28)  # of a machine's 256 cores, of which there are two
        results = await backend.launch(request("s", "w1", shape=half, options={"priority_class": "low"}))
        assert [result.error for result in results] == [None, None]
        await eventually(lambda: all(space.pod(name)["spec"].get("nodeName") for name in ("s", "w1")))
        container = {"name": "x", "image": STUCK, "resources": {"requests": {"cpu": "100"}}}
        body = {"metadata": {"name": "urgent"}, "spec": {"priorityClassName": "high", "containers": [container]}}
        own.ask("POST", space.path("pods"), json=body)

        async def gone() -> list[str]:
            sightings = [await seen(backend, name) for name in ("s", "w1")]
            return [sighting.reason or "" for sighting in sightings if sighting.answer is Answer.GONE]

        (reason,) = await eventually(gone)
        assert "higher priority" in reason
        assert f"Preempted by {space.namespace}/urgent" in reason
        await backend.close()
        own.ask("DELETE", space.path("pods", "urgent"), params={"gracePeriodSeconds": "0"})

    async def test_a_lost_machines_pods_are_gone_in_the_end_and_say_why(
        self, own: Plane, own_space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "LOST_NODE_SECONDS", 1)
        monkeypatch.setattr(keeper, "FORCE_SECONDS", 1.0)
        space = own_space
        backend = space.backend(tmp_path, image=STUCK)
        await backend.launch(request("s", "w1"))
        await eventually(lambda: space.pod("w1")["spec"].get("nodeName"))
        machine = space.pod("w1")["spec"]["nodeName"]
        own.agent("POST", f"/test/node/{machine}", down="1")
        sighting = await until(backend, "w1", Answer.GONE, within=150)
        assert sighting.reason
        own.agent("POST", f"/test/node/{machine}", down="0")
        await backend.close()

    # The last: Kubernetes' own controllers need up to half a minute to see anything again.
    async def test_a_restart_of_the_api_server_is_survived(self, own: Plane, own_space: Space, tmp_path: Path) -> None:
        space = own_space
        backend = space.backend(tmp_path, image=STUCK)
        await backend.launch(request("s", "w1"))
        await seen(backend, "s")
        own.end("kube-apiserver", kill=True)
        assert (await until(backend, "s", Answer.UNKNOWN)).answer is Answer.UNKNOWN
        own.start_api()
        await until(backend, "s", Answer.RUNNING)
        await backend.stop([handle("s"), handle("w1")])
        await until(backend, "w1", Answer.GONE)
        await eventually(lambda: space.names("services") == set())
        await backend.close()
