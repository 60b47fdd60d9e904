"""Waiting for a change that somebody makes, or that comes by itself at a known time."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import threading
from collections.abc import Awaitable, Callable


class Changes:
    """A version that grows with every change. May be changed from any thread, and waited for in any event loop.

    Args:
        now: A monotonic time in seconds.
        sleep: Waits for so many seconds of that time.
    """

    def __init__(self, now: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> None:
        self._now = now
        self._sleep = sleep
        self._lock = threading.Lock()
        self._version = 0
        self._due: list[float] = []
        self._waiting: set[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = set()

    @property
    def version(self) -> int:
        """Number of changes so far, those included whose time has come."""
        with self._lock:
            while self._due and self._due[0] <= self._now():
                heapq.heappop(self._due)
                self._version += 1
            return self._version

    def mark(self, *times: float) -> None:
        """Something changed now, and will change at *times*."""
        with self._lock:
            self._version += 1
            for time in times:
                heapq.heappush(self._due, time)
            waiting = list(self._waiting)
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # that loop was closed, with whoever waited in it
                loop.call_soon_threadsafe(event.set)

    async def wait(self, version: int) -> int:
        """Return a version other than *version*, as soon as there is one."""
        event = asyncio.Event()
        entry = (asyncio.get_running_loop(), event)
        self._waiting.add(entry)
        try:
            while (current := self.version) == version:
                await self._woken(event)
                event.clear()
            return current
        finally:
            self._waiting.discard(entry)

    async def _woken(self, event: asyncio.Event) -> None:
        tasks: list[asyncio.Future[bool]] = [asyncio.ensure_future(event.wait())]
        with self._lock:
            due = self._due[0] if self._due else None
        if due is not None:
            tasks.append(asyncio.ensure_future(_completed(self._sleep(max(0.0, due - self._now())))))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()


async def _completed(sleeping: Awaitable[None]) -> bool:
    await sleeping
    return True
