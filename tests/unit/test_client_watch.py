"""The server's view of a cluster, kept up to date, and how watching ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import httpx
import pytest

from ropewalk.client import watch as watch_module
from ropewalk.client.exchange import RetryPolicy
from ropewalk.client.http import AsyncApi
from ropewalk.client.watch import Watch, checkpoint
from ropewalk.errors import AuthenticationError
from ropewalk.schemas.clusters import ClusterDetail
from ropewalk.schemas.common import Event
from tests.support.client import SERVER, TOKEN, cluster, stream
from tests.support.waiting import PATIENCE, eventually

Answer = Callable[[], httpx.Response]


class Seen:
    """What a watch has told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.changes: list[ClusterDetail] = []


def ready() -> httpx.Response:
    return httpx.Response(200, json=cluster())


@asynccontextmanager
async def watching(
    view: Answer, stream: Answer = lambda: httpx.Response(503), *, poll: float = 60.0
) -> AsyncIterator[tuple[Watch, Seen]]:
    def answer(request: httpx.Request) -> httpx.Response:
        return stream() if request.url.path.endswith("/events") else view()

    seen = Seen()
    policy = RetryPolicy(attempts=1)
    async with AsyncApi(SERVER, TOKEN, retry=policy, transport=httpx.MockTransport(answer)) as api:
        detail = ClusterDetail.model_validate(cluster("starting"))
        watch = Watch(api, detail, on_event=seen.events.append, on_change=seen.changes.append, poll=poll)
        watch.start()
        try:
            yield watch, seen
        finally:
            async with asyncio.timeout(PATIENCE):
                await watch.stop()


async def forever(watch: Watch) -> None:
    while True:
        await watch.changed()


async def test_an_event_wakes_it_long_before_the_poll() -> None:
    async with watching(ready, lambda: stream("node.lost")) as (watch, seen):
        assert (await watch.changed()).state == "ready"
        assert [each.id for each in seen.events] == [1]
        assert len(seen.changes) == 1


async def test_events_of_a_start_that_goes_on_are_looked_at_once_all_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_module, "LULL", 0.01)
    looks: list[ClusterDetail] = []

    def look() -> httpx.Response:
        looks.append(ClusterDetail.model_validate(cluster("starting")))
        return httpx.Response(200, json=cluster("starting"))

    codes = ["cluster.created", "cluster.starting", "node.launched", "node.ready"]
    async with watching(look, lambda: stream(*codes)) as (watch, seen):
        await watch.changed()
        assert [each.code for each in seen.events] == codes
        assert len(looks) == 1


async def test_an_event_that_somebody_waits_for_is_not_put_off_with_those_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch_module, "LULL", 3600.0)
    async with watching(ready, lambda: stream("cluster.created", "node.failed")) as (watch, seen):
        assert (await watch.changed()).state == "ready"
        assert len(seen.changes) == 1


async def test_that_a_cluster_is_ready_is_told_without_a_look() -> None:
    async with watching(ready, lambda: stream("cluster.ready")) as (watch, seen):
        await watch.changed()
        assert watch.told_ready
        assert not seen.changes


async def test_without_events_it_looks_by_itself() -> None:
    async with watching(ready, poll=0.01) as (watch, seen):
        assert (await watch.changed()).state == "ready"
        await eventually(lambda: len(seen.changes) > 2)


async def test_it_ends_with_the_cluster() -> None:
    async with watching(lambda: httpx.Response(200, json=cluster("stopped")), poll=0.01) as (watch, _):
        assert (await watch.changed()).state == "stopped"
        await eventually(lambda: not watch.running)
        assert (await watch.changed()).state == "stopped", "who asks later is not left waiting"


async def test_a_server_that_is_away_is_noted_and_waited_for() -> None:
    answers = [httpx.Response(503), httpx.Response(503)]
    async with watching(lambda: answers.pop() if answers else ready(), poll=0.01) as (watch, seen):
        await watch.changed()
        assert watch.unreachable_since is not None
        await eventually(lambda: seen.changes)


async def test_a_refusal_is_raised_to_who_waits() -> None:
    async with watching(lambda: httpx.Response(401), poll=0.01) as (watch, _):
        with pytest.raises(AuthenticationError):
            await forever(watch)


async def test_a_defect_is_raised_to_who_waits() -> None:
    def defect() -> httpx.Response:
        raise ZeroDivisionError

    async with watching(defect, poll=0.01) as (watch, _):
        with pytest.raises(ZeroDivisionError):
            await forever(watch)


async def test_it_stops_even_if_it_is_woken_at_that_moment() -> None:
    # asyncio.wait_for before Python 3.12 returns what is ready, and forgets that it was cancelled.
    async with watching(ready) as (watch, _):
        await asyncio.sleep(0)
        for _ in range(3):
            watch.look()
            async with asyncio.timeout(PATIENCE):
                await watch.stop()
            assert not watch.running


class Slow(httpx.AsyncBaseTransport):
    """Streams of events that never begin, and take a moment to be cleaned up, or swallow what cancels them."""

    def __init__(self, swallows: int) -> None:
        self.opened = self.cleaned = False
        self.cleaning = asyncio.Event()
        self._swallows = swallows

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if not request.url.path.endswith("/events"):
            return httpx.Response(200, json=cluster("stopped"))
        self.opened = True
        while not self.cleaned:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cleaning.set()
                if not self._swallows:
                    await self._clean()
                    raise
                self._swallows -= 1
        raise AssertionError

    async def _clean(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)
        self.cleaned = True


@pytest.mark.parametrize("swallows", [0, 1])
async def test_nothing_of_it_is_left_when_it_has_been_stopped_while_it_ended(
    monkeypatch: pytest.MonkeyPatch, swallows: int
) -> None:
    monkeypatch.setattr(watch_module, "CANCEL_SECONDS", 1.0 if swallows else PATIENCE)
    slow = Slow(swallows)
    async with AsyncApi(SERVER, TOKEN, transport=slow) as api:
        detail = ClusterDetail.model_validate(cluster("starting"))
        watch = Watch(api, detail, on_event=lambda _: None, on_change=lambda _: None, poll=60.0)
        watch.start()
        await eventually(lambda: slow.opened)
        watch.look()
        await slow.cleaning.wait()
        async with asyncio.timeout(PATIENCE):
            await watch.stop()
        assert slow.cleaned
        assert not watch.running


async def test_others_can_wake_who_waits() -> None:
    async with watching(ready) as (watch, seen):
        watch.nudge()
        assert (await watch.changed()).state == "starting"
        assert seen.changes == []


async def test_a_cancellation_that_was_swallowed_is_raised_at_the_next_checkpoint() -> None:
    reached: list[str] = []

    async def deaf() -> None:
        checkpoint()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        reached.append("went on")
        checkpoint()
        reached.append("and on")

    task = asyncio.create_task(deaf())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reached == ["went on"]
