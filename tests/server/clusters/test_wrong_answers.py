"""A backend that fails, hangs, answers late, wrong or not at all: nothing is lost, started twice or given up for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from ropewalk.backends.memory import MemoryBackend
from ropewalk.backends.port import Answer, LaunchRequest, LaunchResult, NodeHandle, Observation, Sighting
from ropewalk.errors import TryAgainError
from ropewalk.server.clusters import actor, launches, leases, observer
from ropewalk.server.clusters.plan import STOP_AGAIN
from ropewalk.server.clusters.reconciler import Reconciler
from ropewalk.server.context import Context
from tests.server.clusters.conftest import Fleet
from tests.support.waiting import eventually

Observe = Callable[[MemoryBackend, Sequence[NodeHandle]], Awaitable[Any]]


def _breaks(times: int, error: BaseException | None, wrong: Any = None) -> Any:
    """Return a wrapper of a backend's method that goes wrong so many times, without an effect, and well then."""

    def wrap(method: Any) -> Any:
        async def wrapped(self: MemoryBackend, *arguments: Any) -> Any:
            nonlocal times
            times -= 1
            if times < 0:
                return await method(self, *arguments)
            if error is not None:
                raise error
            return wrong

        return wrapped

    return wrap


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, wrap: Any) -> None:
    monkeypatch.setattr(MemoryBackend, name, wrap(getattr(MemoryBackend, name)))


WRONG = {
    "an exception of its own": (ZeroDivisionError("a defect"), None),
    "nothing": (None, Observation({})),
    "no observation": (None, None),
    "garbage": (None, Observation({"c": "running"})),  # type: ignore[dict-item] # that is the point
}


@pytest.mark.parametrize("what", WRONG)
async def test_a_look_that_answers_wrong_kills_nobody_and_is_made_again(
    running: Fleet, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr(observer, "FIRST_RETRY", 0.01)
    cluster = await running.create(n_workers=2)
    await running.until("ready", workers=2)
    error, wrong = WRONG[what]
    _replace(monkeypatch, "observe", _breaks(2, error, wrong))
    looks = running.context.metrics.looks
    running.cloud.poke()
    await eventually(lambda: sum(looks.labels(result)._value.get() for result in ("incomplete", "failed")) == 2)
    running.cloud.end(f"{cluster.id}-worker-1", exit_code=1, reason="")
    await eventually(lambda: f"{cluster.id}-worker-3" in running.running())
    assert running.cloud.calls["stop"] == 0
    assert (await running.get()).state == "ready"


async def test_names_that_an_answer_leaves_out_or_mixes_up_are_unknown(
    running: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.create(n_workers=2)
    await running.until("ready", workers=2)

    async def mixed(_: MemoryBackend, nodes: Sequence[NodeHandle]) -> Observation:
        first, *others = [node.name for node in nodes]
        # "Gone" under the name of another, about somebody unknown, and as a text.
        wrong = {name: Sighting(first, Answer.GONE) for name in others}
        return Observation({**wrong, "somebody": Sighting("somebody", Answer.GONE)})

    before = await running.get()
    monkeypatch.setattr(MemoryBackend, "observe", mixed)
    looks = running.context.metrics.looks.labels("incomplete")._value.get
    seen = looks()
    running.cloud.poke()
    await eventually(lambda: looks() > seen)
    running.tick(3600)
    assert (await running.get()).nodes == before.nodes
    assert running.cloud.calls["stop"] == 0


async def test_a_look_that_hangs_is_given_up(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observer, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(observer, "FIRST_RETRY", 0.01)
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.inject("observe", delay=3600, effect=True)
    running.cloud.poke()
    failed = running.context.metrics.looks.labels("failed")._value.get
    await eventually(lambda: failed() > 0)
    running.cloud.end(f"{cluster.id}-worker-1", exit_code=1, reason="")
    await eventually(lambda: f"{cluster.id}-worker-2" in running.running())


@pytest.mark.parametrize("what", ["an exception of its own", "nothing", "other names", "garbage", "no list"])
async def test_a_launch_that_answers_wrong_is_asked_again_and_starts_nothing_twice(
    running: Fleet, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    launch = MemoryBackend.launch
    wrong: dict[str, Any] = {"nothing": [], "other names": [LaunchResult("x")], "garbage": ["x"], "no list": None}
    calls = 0

    async def effect_but_wrong_answer(self: MemoryBackend, request: LaunchRequest) -> Any:
        nonlocal calls
        calls += 1
        answer = await launch(self, request)
        if calls > 1:
            return answer
        if what in wrong:
            return wrong[what]
        raise ZeroDivisionError("a defect")

    observe, noted = MemoryBackend.observe, asyncio.Event()

    async def look_afterwards(self: MemoryBackend, nodes: Any) -> Any:
        await noted.wait()  # a look that comes first would show the nodes, and nobody would mind the answer
        return await observe(self, nodes)

    monkeypatch.setattr(MemoryBackend, "launch", effect_but_wrong_answer)
    monkeypatch.setattr(MemoryBackend, "observe", look_afterwards)
    await running.create(n_workers=3)
    await eventually(lambda: running.launches_failed(1))
    noted.set()

    async def ready() -> bool:
        running.tick(5)
        shown = await running.get()
        return shown.state == "ready" and shown.workers_ready == 3

    await eventually(ready)
    assert running.cloud.launches() == 4
    assert "node.launch_failed" in await running.codes()


async def test_a_launch_that_hangs_is_given_up_and_asked_again(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launches, "CALL_SECONDS", 0.05)
    running.cloud.inject("launch", delay=3600)
    await running.create(n_workers=1)
    await eventually(lambda: running.launches_failed(1))
    running.tick(60)
    await running.until("ready", workers=1)
    assert running.cloud.launches() == 2


async def test_a_stop_whose_backend_breaks_is_asked_again(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    await running.create(n_workers=1)
    await running.until("ready", workers=1)
    _replace(monkeypatch, "stop", _breaks(1, ZeroDivisionError("a defect")))
    errors = running.context.metrics.reconcile_errors.labels("ZeroDivisionError")._value.get
    await running.stop()
    await eventually(lambda: errors() == 1)
    assert (await running.get()).state == "stopping"
    running.tick(STOP_AGAIN.total_seconds())
    await running.until("stopped")
    assert running.running() == []


async def test_a_loop_that_meets_a_defect_goes_on(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    claim = leases.claim
    broken = True

    async def defect(*arguments: Any) -> Any:
        nonlocal broken
        if broken:
            broken = False
            raise ZeroDivisionError("a defect")
        return await claim(*arguments)

    monkeypatch.setattr(leases, "claim", defect)
    async with fleet.server(fleet.context) as server:
        await eventually(lambda: not broken)
        await fleet.create(n_workers=0)
        await fleet.until("ready")
        assert server.running
    assert fleet.context.metrics.retries.labels("claim")._value.get() == 1


async def test_a_link_that_meets_a_defect_is_made_again(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    _replace(monkeypatch, "connect", _breaks(2, ZeroDivisionError("a defect")))
    await running.create(n_workers=1)
    await running.until("ready", workers=1)


# Clocks


async def test_leases_of_a_dead_server_whose_clock_was_ahead_do_not_block_for_an_hour(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.server.clusters.reconciler.CLAIM_SECONDS", 0.05)
    monkeypatch.setattr("ropewalk.server.clusters.reconciler.UNRENEWED_LEASES", 0.01)
    await fleet.create(n_workers=1)
    fleet.clock.advance(hours=1)
    assert len(await leases.claim(fleet.context, "s-ahead")) == 1
    fleet.clock.advance(hours=-1)
    async with fleet.server(fleet.context):
        await fleet.until("ready", workers=1)


async def test_leases_that_are_renewed_are_never_taken_by_watching() -> None:
    unrenewed = leases.Unrenewed()
    from tests.support.clock import FakeClock  # noqa: PLC0415 - the only one here that needs it

    clock = FakeClock()
    for second in range(0, 600, 10):
        assert unrenewed.stale({"a": clock.advance(10), "b": clock.now()}, second, 45) == []
    until = clock.now()
    assert unrenewed.stale({"a": until}, 600, 45) == []
    assert unrenewed.stale({"a": until}, 634, 45) == []
    assert unrenewed.stale({"a": until}, 646, 45) == [("a", until)]


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_clock_that_jumps_between_two_servers_ends_and_delays_nothing(fleet: Fleet, hours: int) -> None:
    async with fleet.server():
        await fleet.create(n_workers=2, cluster_timeout="30 minutes")
        await fleet.until("ready", workers=2)
    fleet.clock.advance(hours=hours)
    async with fleet.server():
        await fleet.scale(3)
        await fleet.until("ready", workers=3)
        assert fleet.cloud.calls["stop"] == 0
        await fleet.stop()
        await fleet.until("stopped")


# Servers that freeze


async def test_a_server_that_wakes_up_in_the_middle_of_its_work_writes_nothing(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen, wake = asyncio.Event(), asyncio.Event()
    launch = actor.Actor._launch
    servers: list[Reconciler] = []

    async def freeze(self: actor.Actor, *arguments: Any) -> None:
        await launch(self, *arguments)
        if self.lease.owner == servers[0].owner:
            frozen.set()
            await wake.wait()

    def stops(method: Callable[[Context, str], Awaitable[Any]]) -> Callable[[Context, str], Awaitable[Any]]:
        async def wrapped(context: Context, owner: str) -> Any:
            if frozen.is_set() and owner == servers[0].owner:
                await asyncio.Event().wait()  # all of a server freezes
            return await method(context, owner)

        return wrapped

    monkeypatch.setattr(actor.Actor, "_launch", freeze)
    monkeypatch.setattr(leases, "renew", stops(leases.renew))
    monkeypatch.setattr(leases, "claim", stops(leases.claim))
    async with fleet.server() as first:
        servers.append(first)
        await fleet.create(n_workers=2)
        await frozen.wait()
        fleet.clock.advance(fleet.settings.lease_seconds + 1)
        async with fleet.server():
            await fleet.until("ready", workers=2)
            lost = first._context.metrics.leases_lost._value.get
            wake.set()
            await eventually(lambda: lost() == 1)
            before = await fleet.events()
            await fleet.stop()
            await fleet.until("stopped")
    assert fleet.cloud.launches() == 3
    assert [e.code for e in before].count("node.launched") == 1


async def test_a_database_that_cannot_be_written_loses_no_wish(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actor, "FIRST_RETRY", 0.0)
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    fenced, outage = leases.fenced, True

    def refuse(*arguments: Any) -> Any:
        if outage:
            raise TryAgainError("The disk is full.")
        return fenced(*arguments)

    monkeypatch.setattr(actor, "fenced", refuse)
    running.cloud.end(f"{cluster.id}-worker-1", exit_code=1, reason="")
    retries = running.context.metrics.retries.labels("actor")._value.get
    await eventually(lambda: retries() > 1)
    outage = False
    running.tick(60)
    await eventually(lambda: f"{cluster.id}-worker-2" in running.running())
