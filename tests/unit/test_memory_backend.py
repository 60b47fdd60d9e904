"""The faults that the in-process cloud can play, because tests of everything above it rely on them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from ropewalk.backends import wire
from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.backends.port import Answer, NodeHandle, NodeShape
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.clusters import GIB
from tests.conformance.harness import handle, request
from tests.conformance.test_backends import client_context, linked, status_with
from tests.support.waiting import PATIENCE, eventually


class Time:
    """A monotonic clock that only moves when told to."""

    def __init__(self) -> None:
        self.seconds = 100.0
        self.slept: list[float] = []

    def now(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.Event().wait()


@pytest.fixture
def clock() -> Time:
    return Time()


@pytest.fixture
async def backend(clock: Time) -> AsyncIterator[MemoryBackend]:
    backend = MemoryBackend(MemoryCloud(now=clock.now, sleep=clock.sleep))
    yield backend
    await backend.close()


async def answers(backend: MemoryBackend, *names: str) -> list[Answer]:
    seen = (await backend.observe([handle(name) for name in names])).sightings
    return [seen[name].answer for name in names]


async def test_a_node_is_provisioned_before_it_runs(backend: MemoryBackend, clock: Time) -> None:
    backend.cloud.launch_latency = 30
    await backend.launch(request("s"))
    sighting = (await backend.observe([handle("s")])).sightings["s"]
    assert (sighting.answer, sighting.reason) == (Answer.RUNNING, "It is being provisioned.")
    assert backend.cloud.node_names() == []
    with pytest.raises(TryAgainError):
        await backend.connect(handle("s"), sighting.address or "")
    clock.seconds += 30
    assert backend.cloud.node_names() == ["s"]


async def test_a_change_comes_when_its_time_has_come(backend: MemoryBackend, clock: Time) -> None:
    backend.cloud.launch_latency = 30
    await backend.launch(request("s"))
    await backend.changed()
    waiting = asyncio.ensure_future(backend.changed())
    await eventually(lambda: clock.slept)
    assert clock.slept[-1] == 30
    assert not waiting.done()
    clock.seconds += 30
    backend.cloud.poke()
    await asyncio.wait_for(waiting, PATIENCE)


async def test_a_new_node_may_be_invisible_at_first(backend: MemoryBackend, clock: Time) -> None:
    backend.cloud.visibility_delay = 5
    await backend.launch(request("s"))
    assert await answers(backend, "s") == [Answer.UNKNOWN]
    assert await backend.inventory() == []
    clock.seconds += 5
    assert await answers(backend, "s") == [Answer.RUNNING]


async def test_a_launch_can_fail_without_effect(backend: MemoryBackend) -> None:
    backend.cloud.inject("launch", TryAgainError("throttled"), times=2)
    for _ in range(2):
        with pytest.raises(TryAgainError, match="throttled"):
            await backend.launch(request("s"))
    assert backend.cloud.launches() == 0
    await backend.launch(request("s"))
    assert backend.cloud.launches() == 1


async def test_the_answer_of_a_launch_can_be_lost_after_its_effect(backend: MemoryBackend) -> None:
    backend.cloud.inject("launch", TryAgainError("timed out"), effect=True)
    with pytest.raises(TryAgainError):
        await backend.launch(request("s"))
    assert await answers(backend, "s") == [Answer.RUNNING]
    (result,) = await backend.launch(request("s"))
    assert result.error is None
    assert backend.cloud.launches() == 1


async def test_one_node_of_a_batch_can_be_refused(backend: MemoryBackend) -> None:
    backend.cloud.inject("launch", FixItError("no quota"), node="w*", skip=1)
    results = await backend.launch(request("s", "w1", "w2", "w3"))
    assert [str(result.error) for result in results] == ["None", "None", "no quota", "None"]
    assert await answers(backend, "w1", "w2", "w3") == [Answer.RUNNING, Answer.GONE, Answer.RUNNING]


async def test_a_stop_can_be_ignored_and_can_be_late(backend: MemoryBackend, clock: Time) -> None:
    await backend.launch(request("s"))
    backend.cloud.inject("stop", effect=False)
    backend.cloud.stop_latency = 10
    await backend.stop([handle("s")])
    clock.seconds += 10
    assert await answers(backend, "s") == [Answer.RUNNING]
    await backend.stop([handle("s")])
    assert await answers(backend, "s") == [Answer.RUNNING]
    clock.seconds += 10
    assert await answers(backend, "s") == [Answer.GONE]


async def test_a_stop_of_one_node_can_be_refused(backend: MemoryBackend) -> None:
    await backend.launch(request("s", "w1"))
    backend.cloud.inject("stop", TryAgainError("busy"), node="s")
    with pytest.raises(TryAgainError, match="busy"):
        await backend.stop([handle("s"), handle("w1")])
    assert await answers(backend, "s", "w1") == [Answer.RUNNING, Answer.GONE]


async def test_a_node_can_be_unknown_and_a_look_can_fail(backend: MemoryBackend) -> None:
    await backend.launch(request("s", "w1"))
    backend.cloud.inject("observe", node="w1", times=None)
    for _ in range(3):
        assert await answers(backend, "s", "w1") == [Answer.RUNNING, Answer.UNKNOWN]
    backend.cloud.heal()
    backend.cloud.inject("observe")
    assert await answers(backend, "s", "w1") == [Answer.UNKNOWN, Answer.UNKNOWN]
    backend.cloud.inject("observe", TryAgainError("down"))
    with pytest.raises(TryAgainError, match="down"):
        await backend.observe([])


async def test_a_node_can_die_with_a_status_or_a_signal(backend: MemoryBackend) -> None:
    await backend.launch(request("s", "w1"))
    backend.kill("s", exit_code=80, reason="idle")
    backend.kill("w1")
    backend.kill("w1", exit_code=1)
    seen = (await backend.observe([handle("s"), handle("w1")])).sightings
    assert (seen["s"].exit_code, seen["s"].reason, seen["w1"].exit_code) == (80, "idle", -9)


async def test_calls_can_be_slow(backend: MemoryBackend, clock: Time) -> None:
    backend.cloud.call_latency = 3
    backend.cloud.inject("inventory", delay=4, effect=True)
    calling = asyncio.ensure_future(backend.inventory())
    await eventually(lambda: clock.slept)
    assert clock.slept == [7]
    calling.cancel()
    await asyncio.wait([calling])


async def test_calls_are_counted_over_restarts(backend: MemoryBackend) -> None:
    await backend.launch(request("s", "w1"))
    await backend.observe([])
    await MemoryBackend(backend.cloud).observe([])
    assert backend.calls == {"launch": 1, "observe": 2}


async def test_a_fault_of_any_method_can_be_injected(backend: MemoryBackend) -> None:
    for method in ("check", "inventory"):
        backend.cloud.inject(method, FixItError("no permission"))
        with pytest.raises(FixItError):
            await getattr(backend, method)()
    backend.cloud.inject("logs", TryAgainError("later"))
    with pytest.raises(TryAgainError):
        await backend.logs(handle("s"))
    backend.cloud.inject("connect", TryAgainError("later"))
    with pytest.raises(TryAgainError, match="later"):
        await backend.connect(handle("s"), "")
    backend.cloud.inject("prepare", FixItError("no permission"))
    with pytest.raises(FixItError):
        _ = [resource async for resource in backend.prepare()]


async def test_a_change_from_another_thread_is_told(backend: MemoryBackend) -> None:
    await backend.launch(request("s"))
    await backend.changed()
    waiting = asyncio.ensure_future(backend.changed())
    await asyncio.to_thread(backend.kill, "s")
    await asyncio.wait_for(waiting, PATIENCE)


async def test_a_scheduler_says_what_it_is_told_to_say(tmp_path_factory: pytest.TempPathFactory) -> None:
    backend = MemoryBackend()
    await backend.launch(request("s", "w1"))
    context = client_context(tmp_path_factory.mktemp("tls"), "control")
    async with linked(backend, handle("s"), "", context) as (reader, writer):
        await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
        assert (await status_with(reader, {"w1"}))["closing"] is None
        backend.set_status("c1", closing="idle_timeout", target=3)
        status = await status_with(reader, {"w1"})
        assert (status["closing"], status["target"]) == ("idle_timeout", 3)
        backend.kill("w1")
        await asyncio.wait_for(status_with(reader, set()), PATIENCE)
    await backend.close()


async def test_a_scheduler_answers_to_the_control_plane_only(tmp_path_factory: pytest.TempPathFactory) -> None:
    backend = MemoryBackend()
    await backend.launch(request("s"))
    context = client_context(tmp_path_factory.mktemp("tls"), "client")
    with pytest.raises(OSError, match="closed"):
        async with linked(backend, handle("s"), "", context):
            pass
    await backend.close()


async def test_a_thousand_clusters_are_cheap() -> None:
    backend = MemoryBackend()
    began = time.process_time()
    for number in range(1000):
        await backend.launch(request("s" + str(number), f"w{number}", cluster="c1"))
    nodes = await backend.inventory()
    seen = (await backend.observe(nodes)).sightings
    assert len(seen) == 2000
    # Measured 0.05 s of CPU on a 2-core virtual machine; the bound only catches what grows with the square.
    assert time.process_time() - began < 5
    await backend.close()


def test_prices_follow_size_and_spot() -> None:
    backend = MemoryBackend(MemoryCloud(core_hour_price=1, gib_hour_price=0.5))
    assert backend.hourly_price(NodeShape(2, 4 * GIB)) == (4, "USD")
    assert backend.hourly_price(NodeShape(2, 4 * GIB), spot=True)[0] < 4


def test_handles_name_the_role() -> None:
    assert handle("s") == NodeHandle("s", "c1", handle("s").role)
