"""The server's view of one cluster, kept up to date: events wake it, and it looks again now and then without."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing, suppress

from ropewalk.client import calls
from ropewalk.client.http import AsyncApi
from ropewalk.errors import RopewalkError, ServerUnreachableError, UnavailableError
from ropewalk.schemas.clusters import ClusterDetail
from ropewalk.schemas.common import Event

__all__ = ["PASSING", "Watch", "checkpoint"]


def checkpoint() -> None:
    """Raise the cancellation of this task if something on the way has swallowed it.

    Before Python 3.12, ``asyncio.wait_for`` returns a result that is ready although it was cancelled. We use
    ``asyncio.timeout`` instead, but Dask's connections use it.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


PASSING = (ServerUnreachableError, UnavailableError)
"""Faults that a restart of the server causes."""

PROGRESS = frozenset({"cluster.created", "cluster.starting", "node.launched", "node.ready"})
"""Events of a start that nobody waits for, and that others follow soon: they are looked at together. Who waits for
workers hears of them from the scheduler."""
READY = "cluster.ready"
"""The event after which the server tells how to connect, and with that how the cluster is: no look is needed."""
LULL = 1.0
"""Seconds that those may wait to be looked at."""
CANCEL_SECONDS = 5.0
"""Seconds after which a task that was cancelled and goes on is cancelled again. Cleaning up takes milliseconds."""


class Watch:
    """Follows a cluster until it has stopped, over restarts of the server.

    Args:
        api: Where to ask.
        detail: The cluster as it was last seen.
        on_event: Called with every event, those of before included.
        on_change: Called with every new view.
        poll: Seconds after which to look again without an event. A guard against lost wake-ups, no more: short while
            somebody waits, longer afterwards.
    """

    def __init__(
        self,
        api: AsyncApi,
        detail: ClusterDetail,
        *,
        on_event: Callable[[Event], None],
        on_change: Callable[[ClusterDetail], None],
        poll: float = 2.0,
    ) -> None:
        self.detail = detail
        self.poll = poll
        self.told_ready = False
        """Whether an event has told that the scheduler is ready; the view may not say so yet."""
        self.failure: RopewalkError | None = None
        """Why it ended early: something that waiting does not cure."""
        self.unreachable_since: float | None = None
        """Monotonic time since when the server has not answered."""
        self._api = api
        self._on_event = on_event
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._follower: asyncio.Task[None] | None = None
        self._ended: set[asyncio.Task[None]] = set()
        self._later: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, on the running event loop."""
        self._follower = asyncio.create_task(self._follow(), name=f"ropewalk-events-{self.detail.name}")
        self._task = asyncio.create_task(self._run(self._follower), name=f"ropewalk-watch-{self.detail.name}")

    async def stop(self) -> None:
        """End; harmless if it has ended. Nothing of it uses a connection afterwards."""
        await self._end(*(task for task in (self._task, self._follower) if task is not None))

    @property
    def running(self) -> bool:
        return self._task is not None and not self._task.done()

    def nudge(self) -> None:
        """Wake whoever waits in :meth:`changed`, because something else that they wait for has changed."""
        self._changed.set()

    def look(self) -> None:
        """Ask the server at once."""
        self._wake.set()

    def take(self, detail: ClusterDetail) -> None:
        """Take a view that the server sent with another answer."""
        self.detail = detail
        self.unreachable_since = None
        self._put_off()
        self._on_change(detail)

    async def changed(self) -> ClusterDetail:
        """Wait for the next change and return the view.

        Raises:
            RopewalkError: the server refuses to tell.
        """
        if self.running:
            await self._changed.wait()
            self._changed.clear()
        if self.failure is not None:
            raise self.failure
        if self._task is not None and self._task.done() and not self._task.cancelled():
            self._task.result()  # raises what is a defect of ours, which nobody should wait on
        return self.detail

    async def _run(self, follower: asyncio.Task[None]) -> None:
        try:
            while self.detail.state.live:
                checkpoint()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.poll):
                        await self._wake.wait()
                self._wake.clear()
                self._put_off()
                await self._refresh()
        except RopewalkError as exc:
            self.failure = exc
        finally:
            self._put_off()
            try:
                await self._end(follower)
            finally:
                self._changed.set()

    async def _end(self, *tasks: asyncio.Task[None]) -> None:
        """Return once tasks have ended, with all that they clean up: nobody else would close their connections.

        They are cancelled once, so that what they clean up is not interrupted; and again if they go on all the same,
        since what is on the way may swallow a cancellation, see :func:`checkpoint`.
        """
        left = {task for task in tasks if not task.done()}
        ending = tuple(left)
        for task in left - self._ended:
            task.cancel()
        self._ended |= left
        while left:
            _, left = await asyncio.wait(left, timeout=CANCEL_SECONDS)
            for task in left:
                task.cancel()
        for task in ending:
            if not task.cancelled() and not isinstance(task.exception(), RopewalkError):
                task.result()

    def _look_for(self, event: Event) -> None:
        if event.code == READY:
            self.told_ready = True
            self._changed.set()
        if event.code not in PROGRESS | {READY}:
            self._wake.set()
        elif self._later is None:
            self._later = asyncio.get_running_loop().call_later(LULL, self._wake.set)

    def _put_off(self) -> None:
        if self._later is not None:
            self._later.cancel()
            self._later = None

    async def _refresh(self) -> None:
        try:
            self.detail = await self._api(calls.get_cluster(self.detail.account, self.detail.id))
        except PASSING:
            self.unreachable_since = self.unreachable_since or time.monotonic()
        else:
            self.unreachable_since = None
            self._on_change(self.detail)
        self._changed.set()

    async def _follow(self) -> None:
        """Turn events into wake-ups. Without them, polling goes on alone."""
        after: int | None = None
        while True:
            try:
                stream = self._api.follow_events(self.detail.account, self.detail.id, after=after)
                async with aclosing(stream) as events:
                    async for event in events:
                        after = event.id
                        self._on_event(event)
                        self._look_for(event)
            except PASSING:
                await asyncio.sleep(self.poll)
            else:
                self._wake.set()
                return
