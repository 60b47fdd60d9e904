"""Runs a worker for every row of a table on which something is to be done, together with any other server.

A lease is held while its worker works. Whoever takes over after a crash begins the same work again, so a worker must
not depend on the memory of a process, and writes only by :func:`~ropewalk.server.leases.rows.fenced`.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, ClassVar

import structlog
from sqlalchemy import ColumnElement, func, select

from ropewalk.server.db.models import Retried
from ropewalk.server.leases import rows
from ropewalk.server.leases.loops import Loops
from ropewalk.server.leases.owners import new_owner
from ropewalk.server.leases.rows import NO_DATABASE, RENEWALS_PER_LEASE

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.leases.rows import Lease

__all__ = ["Workers"]

CLAIM_SECONDS = 10.0
"""How often work is looked for that nobody does, besides whenever somebody wishes some."""

log = structlog.get_logger(__name__)


class Workers(ABC):
    """Claims, works, renews and drops; a subclass says on which rows, and what is done.

    Args:
        context: The server's services.
    """

    table: ClassVar[type[Retried]]
    waiting: ClassVar[Sequence[ColumnElement[bool]]]
    """Conditions on rows with something to be done, whether or not its time has come."""
    plural: ClassVar[str]
    """What the rows are called, in the names of the loops."""
    shortest_pause: ClassVar[float] = 0.0
    """Seconds between two looks for work, where some may be due that is not claimed for another reason."""

    def __init__(self, context: Context) -> None:
        self.owner = new_owner()
        self.loops = Loops(context)
        self._context = context
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._look_now = asyncio.Event()
        self._stack = contextlib.ExitStack()
        self._renewed = time.monotonic()

    @abstractmethod
    async def _claimed(self) -> list[Lease]:
        """Claim what is due and nobody does."""

    @abstractmethod
    def _work(self, lease: Lease) -> Coroutine[None, None, None]:
        """Do what is to be done under *lease*; it is given back at the end."""

    @abstractmethod
    def _concerns(self, topic: str) -> bool:
        """Whether there may be something to be done when *topic* is woken."""

    @property
    def running(self) -> bool:
        """Whether its loops run."""
        return self.loops.running

    async def start(self) -> None:
        """Begin to work."""
        await rows.release_dead(self._context, self.table)
        self._stack.enter_context(self._context.wakeups.listener(self._woken))
        self.loops.start(f"claim {self.plural}", self._claim, self._wait)
        seconds = self._context.settings.lease_seconds / RENEWALS_PER_LEASE
        self.loops.every(seconds, f"renew {self.plural}", self._renew)

    async def stop(self) -> None:
        """Stop working; whoever starts next goes on at once."""
        self._stack.close()
        await self.loops.stop()
        await self._drop(list(self._workers))
        with contextlib.suppress(*NO_DATABASE):
            await rows.release(self._context, self.table, self.owner)

    def _woken(self, topic: str) -> None:
        if topic == "*" or self._concerns(topic):
            self._look_now.set()

    async def _claim(self) -> None:
        self._look_now.clear()
        for lease in await self._claimed():
            # A lease of ours that ran out: whatever worked under it may write no more.
            await self._drop([lease.row_id])
            task = asyncio.create_task(self._work(lease), name=f"work on {lease.row_id}")
            self._workers[lease.row_id] = task
            task.add_done_callback(lambda done, row_id=lease.row_id: self._ended(row_id, done))  # type: ignore[misc] # bound now, on purpose

    async def _wait(self) -> None:
        """Wait until there may be work: somebody wished some, a try is due, or another server died."""
        seconds = CLAIM_SECONDS
        due = select(func.min(self.table.retry_at)).where(*self.waiting, self.table.lease_owner.is_(None))
        with contextlib.suppress(*NO_DATABASE):
            async with self._context.db.read() as session:
                moment = await session.scalar(due)
            if moment is not None:
                seconds = min(seconds, max(self.shortest_pause, (moment - self._context.clock.now()).total_seconds()))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._look_now.wait()

    def _ended(self, row_id: str, task: asyncio.Task[None]) -> None:
        if self._workers.get(row_id) is task:
            del self._workers[row_id]
        if not task.cancelled() and (error := task.exception()) is not None:
            # A defect, or no database to write to: the lease runs out, and the work is claimed again.
            log.error("worker.died", row=row_id, exc_info=error)
        self._look_now.set()

    async def _drop(self, row_ids: Sequence[str]) -> None:
        tasks = [self._workers[row_id] for row_id in row_ids if row_id in self._workers]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _renew(self) -> None:
        working = set(self._workers)
        if not working:
            self._renewed = time.monotonic()
            return
        try:
            kept = await rows.renew(self._context, self.table, self.owner, self.table.id.in_(working))
        except NO_DATABASE:
            self._context.metrics.renew_failures.inc()
            if time.monotonic() - self._renewed > self._context.settings.lease_seconds:
                # Nobody knows whether they are still ours; writes are fenced, but calls to a cloud are not.
                await self._drop(list(self._workers))
            raise
        self._renewed = time.monotonic()
        await self._drop(list(working - kept))
