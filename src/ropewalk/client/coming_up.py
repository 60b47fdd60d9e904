"""How a cluster object comes up: from the request to joined workers; and how a start that fails cleans up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import suppress
from typing import Any, Self

import dask.config
from dask.utils import parse_timedelta
from distributed.core import Status, rpc

from ropewalk.client import versions as version_check
from ropewalk.client.connect import open_cluster, security_of
from ropewalk.client.core import EXPLAIN_SECONDS
from ropewalk.client.credentials import Forwarder, send
from ropewalk.client.failure import start_error
from ropewalk.client.looks import ClusterLooks
from ropewalk.client.watch import checkpoint
from ropewalk.errors import ClusterGoneError, ClusterStartError, ClusterUnreachableError, RopewalkError

__all__ = ["ClusterStart"]

logger = logging.getLogger("ropewalk.client")

QUIET_POLL = 30.0
"""Seconds between two looks at a cluster that runs and tells of no events."""


class ClusterStart(ClusterLooks):
    """The start."""

    def _start_and_wait(self) -> None:
        self._loop_runner.start()
        try:
            # Here and not on the loop's thread, so that a notebook shows it below the cell that runs.
            self._progress.open(self._title())
            self.sync(self._start)
        except BaseException:
            # Ctrl-C reaches this thread only; the start goes on in the loop's until it is told.
            try:
                self.sync(self._abandon)
            finally:
                self._loop_runner.stop()
            raise

    def _said(self, text: str) -> None:
        """Show what a build of a software environment says."""
        for line in text.splitlines():
            logger.debug("environment: %s", line)
            self._progress.note(line)

    def _be_patient(self, waits: bool) -> None:
        """Let the time for the start begin when packages are there: a build takes as long as it takes."""
        if self._limit is not None and not self._limit.expired():
            self._limit.reschedule(None if waits else asyncio.get_running_loop().time() + self._timeout)

    def _title(self) -> str:
        return f"Ropewalk cluster {self._request.name}" if self._request.name else "Ropewalk cluster"

    def __await__(self) -> Generator[Any, Any, Self]:
        return self._started().__await__()

    async def _started(self) -> Self:
        await self._start()
        return self

    async def _start(self) -> None:
        if self.status == Status.running:
            return
        if self.status in (Status.closing, Status.closed, Status.failed):
            raise ClusterGoneError(f"Cluster {self.name!r} is closed here.", advice="Make a new Cluster object.")
        if self._starting is None:
            self._starting = asyncio.create_task(self._start_once(), name="ropewalk-start")
        await self._starting

    async def _start_once(self) -> None:
        self.status = Status.starting
        self._progress.open(self._title())
        try:
            async with asyncio.timeout(self._timeout) as self._limit:
                await self._bring_up()
        except BaseException as exc:
            # Shielded: whoever cancels us again must not keep us from cleaning up.
            undoing = asyncio.create_task(self._undo(exc))
            self._keep(undoing)
            error = await asyncio.shield(undoing)
            if error is exc:
                raise
            raise error from (None if isinstance(exc, TimeoutError | RopewalkError) else exc)
        self._progress.close(self._ready_text())

    async def _bring_up(self) -> None:
        self._software.read_modules(self._request)
        connection = await self._starter.connection()
        version_check.report(connection.versions, self._versions)
        self.security = security_of(connection)
        patience = min(self._timeout, _connect_timeout())
        self.scheduler_comm: rpc = await open_cluster(connection, self.security, patience, self._progress.step)
        checkpoint()
        await super()._start()
        checkpoint()
        if self._lend == "local":
            self._forwarder = Forwarder(lambda token: send(self.scheduler_comm, token))
            await self._forwarder.start()
            checkpoint()
        self.name = self.detail.name  # the scheduler's copy may be an older program's
        await self._furnish()
        if self._shutdown_on_close is None:
            self._shutdown_on_close = self._starter.created
        if not self._shutdown_on_close:
            self._disclaim()
        if self._starter.watch is not None:
            self._starter.watch.poll = QUIET_POLL

    async def _furnish(self) -> None:
        """Bring modules, and wait for workers meanwhile, which notices when the cluster has failed."""
        bringing = asyncio.ensure_future(self._software.bring(self.scheduler_comm))
        try:
            await self._starter.workers(self._wait, lambda: len(self.scheduler_info["workers"]))
            tell = await bringing
        finally:
            bringing.cancel()
            await asyncio.gather(bringing, return_exceptions=True)
        tell()

    async def _undo(self, exc: BaseException) -> BaseException:
        """Clean up after a start that failed; return the error to raise."""
        self.status = Status.failed
        error = await self._explained(exc)
        name = self._starter.claim.name if self._starter.claim is not None else None
        failure = await self._starter.undo("Its start was abandoned.")
        if failure is not None:
            note = (
                f"The cluster {name!r} could not be stopped ({failure.message}); `ropewalk cluster stop {name}` does."
            )
            error.add_note(note)
            logger.warning(note)
        if self._forwarder is not None:
            await self._forwarder.stop()
        await super()._close()
        await self._api.aclose()
        shown = error.message.splitlines()[0] if isinstance(error, RopewalkError) else "Interrupted."
        self._progress.close(shown, failed=True)
        return error

    async def _explained(self, exc: BaseException) -> BaseException:
        """Add to the error what the server knows about the cause."""
        if isinstance(exc, TimeoutError):
            waiting = self._progress.waiting_for
            what = waiting[:1].lower() + waiting[1:]
            text = f"Cluster {self.name!r} did not start within {_duration(self._timeout)}. The last step: {what}."
        elif isinstance(exc, ClusterStartError):
            text = exc.message
        elif isinstance(exc, ClusterUnreachableError | OSError):
            # That its scheduler cannot be reached may be how a cluster's end shows first.
            ended = await self._starter.ended()
            if ended is None:
                return exc
            text = ended.message
        else:
            return exc
        if self._detail is None:
            return ClusterStartError(text, advice="`ropewalk diagnostics` shows whether the server answers.")
        with suppress(TimeoutError):
            async with asyncio.timeout(EXPLAIN_SECONDS):
                return await start_error(self._api, self._starter.detail, text)
        return ClusterStartError(text)

    async def _abandon(self) -> None:
        """Wait until a start that was interrupted has cleaned up."""
        if self._starting is None:
            self.status = Status.closed
            await self._api.aclose()
            return
        self._starting.cancel()
        await asyncio.wait({self._starting, *self._background})
        if not self._starting.cancelled():
            self._starting.exception()  # it is told by the interruption that brought us here

    def _ready_text(self) -> str:
        workers = len(self.scheduler_info["workers"])
        link = f"  Dashboard: {self.dashboard_link}" if self.dashboard_link else ""
        verb = "is ready" if self._starter.created else "is re-attached"
        return f"{self.name} {verb} with {workers} {'worker' if workers == 1 else 'workers'}.{link}"


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds > 60 and seconds % 60 == 0 else f"{seconds:g} s"


def _connect_timeout() -> float:
    return float(parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), default="seconds"))
