"""Looking at the nodes of one cloud account, for all its clusters at once.

One look serves every cluster, so its cost grows with change and not with the number of clusters. An answer counts only
for a node that was already being watched when the look began: a look that began before a launch says nothing about it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

import structlog

from ropewalk.backends.port import Answer, Backend, NodeHandle, Observation, Sighting
from ropewalk.errors import BackendError, TryAgainError
from ropewalk.server.metrics import Metrics

LOOK_SECONDS = 60.0
"""A look that takes longer is given up, and all its nodes are unknown."""
SPACING_SECONDS = 0.05
"""Changes within this time are seen with one look."""
FIRST_RETRY, LAST_RETRY = 1.0, 60.0

log = structlog.get_logger(__name__)


class Watcher(Protocol):
    """A cluster that wants to know about its nodes."""

    def watched(self) -> Iterable[NodeHandle]:
        """Return the nodes to look at."""
        ...

    def saw(self, handle: NodeHandle, sighting: Sighting) -> None:
        """Take an answer; *handle* is the very object that :meth:`watched` gave before the look began."""
        ...


class Observer:
    """Looks at the nodes of all watchers whenever the backend says that something may have changed.

    Args:
        backend: Gives the backend to look with.
        metrics: Where looks are counted.
        tell: Is told after each look why it failed, or None.
    """

    def __init__(
        self,
        backend: Callable[[], Backend],
        metrics: Metrics,
        tell: Callable[[Exception | None], None] = lambda _error: None,
    ) -> None:
        self._backend = backend
        self._tell = tell
        self._metrics = metrics
        self._watchers: set[Watcher] = set()
        self._kicked = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def add(self, watcher: Watcher) -> None:
        """Look at the nodes of *watcher*, too."""
        self._watchers.add(watcher)
        self.kick()
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="observer")

    def discard(self, watcher: Watcher) -> None:
        """Forget *watcher*."""
        self._watchers.discard(watcher)

    def kick(self) -> None:
        """Look as soon as possible: there is something new to look at."""
        self._kicked.set()

    async def stop(self) -> None:
        """Stop looking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            self._kicked.clear()
            wanted: list[tuple[Watcher, NodeHandle]] = []
            try:
                wanted = [(watcher, handle) for watcher in self._watchers for handle in watcher.watched()]
                if not wanted or await self._look(wanted):
                    delay = FIRST_RETRY
                    await self._wait(changed=bool(wanted))
                else:
                    delay = await self._pause(delay)
            except Exception as exc:  # noqa: BLE001 - a backend's defect must not end the looking, for all clusters
                self._unknown(wanted, exc)
                delay = await self._pause(delay, exc.delay if isinstance(exc, TryAgainError) else 0.0)
            await asyncio.sleep(SPACING_SECONDS)

    async def _pause(self, delay: float, least: float = 0.0) -> float:
        """Wait before the next try; returns how long to wait before the one after that."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(least, delay)):
                await self._kicked.wait()
        return min(delay * 2, LAST_RETRY)

    async def _look(self, wanted: list[tuple[Watcher, NodeHandle]]) -> bool:
        """Look once; returns whether all were told of."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                observation = await self._backend().observe([handle for _, handle in wanted])
        except TimeoutError:
            raise TryAgainError(f"The cloud did not answer within {LOOK_SECONDS:.0f} seconds.") from None
        told = {handle.name: _answer(observation, handle.name) for _, handle in wanted}
        for watcher, handle in wanted:
            watcher.saw(handle, told[handle.name] or _LEFT_OUT(handle.name))
        self._tell(None)
        complete = all(told.values())
        self._metrics.looks.labels("ok" if complete else "incomplete").inc()
        return complete

    async def _wait(self, *, changed: bool) -> None:
        """Return when there is something new to look at, or the cloud may have changed."""
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._kicked.wait())]
        if changed:
            waits.append(asyncio.ensure_future(self._backend().changed()))
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in waits:
                task.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _unknown(self, wanted: list[tuple[Watcher, NodeHandle]], error: Exception) -> None:
        self._metrics.looks.labels("failed").inc()
        self._metrics.retries.labels("observer").inc()
        expected = isinstance(error, BackendError)
        reason = (
            str(error) if expected else f"The backend failed with {type(error).__name__}; the server's log says more."
        )
        self._tell(error)
        log.warning("observer.failed", error=reason, nodes=len(wanted), exc_info=None if expected else error)
        for watcher, handle in wanted:
            watcher.saw(handle, Sighting(handle.name, Answer.UNKNOWN, reason=reason))


_LEFT_OUT = partial(Sighting, answer=Answer.UNKNOWN, reason="The cloud's answer did not tell of it.")


def _answer(observation: Observation, name: str) -> Sighting | None:
    """Return what was said about *name*; None: it was left out, or what was said has another form or name."""
    said = observation.sightings.get(name)
    if isinstance(said, Sighting) and said.name == name and isinstance(said.answer, Answer):
        return said
    return None
