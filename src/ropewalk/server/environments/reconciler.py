"""Runs a worker for every build that is wished, together with any other server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.errors import RopewalkError, UnavailableError
from ropewalk.server.environments import housekeeping, leases
from ropewalk.server.environments.builders import files_of
from ropewalk.server.environments.report import WISHED
from ropewalk.server.environments.worker import BuildWorker
from ropewalk.server.owners import new_owner

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["Environments"]

CLAIM_SECONDS = 10.0
"""How often builds are looked for that nobody works on, besides whenever somebody wishes one."""
RENEWALS_PER_LEASE = 3
"""Two renewals may fail before a lease is lost."""
AT_ONCE = 3
"""Builds of one server: they are bound by network, disk and one processor each."""
TIDY_SECONDS = 600.0
"""Between two searches for what nobody uses any more."""

log = structlog.get_logger(__name__)


class Environments:
    """Builds software environments."""

    def __init__(self, context: Context) -> None:
        self.owner = new_owner()
        self._context = context
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._look_now = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._stack = contextlib.ExitStack()
        self._renewed = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether its loops run."""
        return bool(self._loops) and not any(task.done() for task in self._loops)

    async def start(self) -> None:
        """Begin to work."""
        await leases.release_dead(self._context)
        self._stack.enter_context(self._context.wakeups.listener(self._woken))
        self._loops = [
            asyncio.create_task(self._forever(self._claim, self._wait), name="environments"),
            asyncio.create_task(self._forever(self._renew, self._pause), name="environment leases"),
            asyncio.create_task(self._forever(self._tidy, self._rest), name="environments tidied"),
        ]

    async def stop(self) -> None:
        """Stop working; whoever starts next goes on at once."""
        self._stack.close()
        for task in [*self._loops, *self._workers.values()]:
            task.cancel()
        await asyncio.gather(*self._loops, *self._workers.values(), return_exceptions=True)
        with contextlib.suppress(SQLAlchemyError, OSError, UnavailableError):
            await leases.release(self._context, self.owner)

    def _woken(self, topic: str) -> None:
        if topic in ("*", WISHED):
            self._look_now.set()

    async def _forever(self, work: Callable[[], Awaitable[None]], wait: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as exc:
                self._context.metrics.reconcile_errors.labels(type(exc).__name__).inc()
                expected = isinstance(exc, SQLAlchemyError | OSError | RopewalkError)
                log.warning("environments.failed", error=type(exc).__name__, exc_info=None if expected else exc)
            await wait()

    async def _claim(self) -> None:
        self._look_now.clear()
        for lease in await leases.claim(self._context, self.owner, AT_ONCE - len(self._workers)):
            # A lease of ours that ran out: whatever worked under it may write no more.
            await self._drop(lease.build_id)
            task = asyncio.create_task(BuildWorker(self._context, lease).run(), name=f"build {lease.build_id}")
            self._workers[lease.build_id] = task
            task.add_done_callback(lambda done, name=lease.build_id: self._ended(name, done))  # type: ignore[misc] # bound now, on purpose

    async def _wait(self) -> None:
        """Wait until there may be work: somebody wished some, a try is due, or another server died."""
        seconds = CLAIM_SECONDS
        with contextlib.suppress(SQLAlchemyError, OSError, UnavailableError):
            due = await leases.next_retry(self._context)
            if due is not None:
                seconds = min(seconds, max(0.5, (due - self._context.clock.now()).total_seconds()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look_now.wait()

    def _ended(self, name: str, task: asyncio.Task[None]) -> None:
        if self._workers.get(name) is task:
            del self._workers[name]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect, or no database to write to: the lease runs out, and the work is claimed again.
            log.error("environment.worker_died", build=name, exc_info=error)
        self._look_now.set()

    async def _drop(self, name: str) -> None:
        if (task := self._workers.get(name)) is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _renew(self) -> None:
        working = set(self._workers)
        if not working:
            self._renewed = time.monotonic()
            return
        try:
            kept = await leases.renew(self._context, self.owner, working)
        except (SQLAlchemyError, OSError, UnavailableError):
            if time.monotonic() - self._renewed > self._context.settings.lease_seconds:
                for name in list(self._workers):
                    await self._drop(name)
            raise
        self._renewed = time.monotonic()
        for name in working - kept:
            await self._drop(name)

    async def _pause(self) -> None:
        await asyncio.sleep(self._context.settings.lease_seconds / RENEWALS_PER_LEASE)

    async def _tidy(self) -> None:
        await housekeeping.tidy(self._context, files_of(self._context))

    async def _rest(self) -> None:
        await asyncio.sleep(TIDY_SECONDS)
