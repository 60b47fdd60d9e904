"""What goes on while a cluster runs, without anybody asking; and its end."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any, cast

from distributed.core import Status, rpc
from distributed.objects import SchedulerInfo
from distributed.utils import NoOpAwaitable

from ropewalk.client import calls, config, options
from ropewalk.client.coming_up import QUIET_POLL, ClusterStart
from ropewalk.client.core import EXPLAIN_SECONDS
from ropewalk.client.watch import PASSING, Watch
from ropewalk.errors import ClusterGoneError, NotFoundError, RopewalkError
from ropewalk.schemas.clusters import ClusterDetail, ClusterState
from ropewalk.schemas.common import Event

__all__ = ["ClusterLife"]

logger = logging.getLogger("ropewalk.client")

DEFAULT_PATIENCE = 60.0
"""Seconds to wait for the end of a cluster, where nobody gave a number (``async with``, ``Client.shutdown``)."""


class ClusterLife(ClusterStart):
    """Everything after the start, until it is closed."""

    def _on_event(self, event: Event) -> None:
        if self.status == Status.running and event.level in ("warning", "error") and not self.quiet:
            logger.warning("%s: %s", self.name, event.message)

    def _on_change(self, detail: ClusterDetail) -> None:
        self._detail = detail
        self.name = detail.name
        if self.status == Status.starting:
            self._progress.cluster(detail)
        elif self.status == Status.running and detail.state in _ENDING:
            self._keep(asyncio.create_task(self._gone(detail)))

    async def _gone(self, detail: ClusterDetail) -> None:
        """The cluster ended, and not because we closed it: say why, and let go of it."""
        if self.status != Status.running:
            return
        if not self.quiet:
            reason = f": {detail.reason}" if detail.reason else "."
            logger.warning("Cluster %s is %s%s", detail.name, detail.state, reason)
        self._disclaim()
        await self._close(stop=False)

    def _update_worker_status(self, op: str, msg: Any) -> None:
        super()._update_worker_status(op, msg)
        if self._starter.watch is not None:
            self._starter.watch.nudge()

    async def _watch_worker_status(self, comm: Any) -> None:
        """Follow workers that come and go; subscribe again if the connection breaks."""
        while comm is not None:
            await super()._watch_worker_status(comm)
            comm = await self._subscribe_again()

    async def _subscribe_again(self) -> Any:
        """Return a new subscription, or None when the cluster is closed."""
        delay = 0.5
        while self.status == Status.running:
            if self._starter.watch is not None:
                self._starter.watch.look()  # perhaps the scheduler is gone for good
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._over.wait()
                return None
            delay = min(2 * delay, QUIET_POLL)
            with suppress(OSError):
                comm = await self.scheduler_comm.live_comm()
                comm.name = "Cluster worker status"
                await comm.write({"op": "subscribe_worker_status"})
                self.scheduler_info = SchedulerInfo(await comm.read())
                self._watch_worker_status_comm = comm
                return comm
        return None

    # Its end.

    def close(self, timeout: float | str | None = None, *, wait: bool = True) -> Any:
        """Close the connection, and stop the cluster if this object created it (see ``shutdown_on_close``).

        Args:
            timeout: How long to wait for the cluster to have stopped (``ropewalk.close_timeout``, 1 minute). The server
                goes on stopping it after that.
            wait: Whether to wait at all.
        """
        return self._end(None, timeout, wait)

    def shutdown(self, timeout: float | str | None = None, *, wait: bool = True) -> Any:
        """Stop the cluster, whoever created it, and close. Arguments as in :meth:`close`."""
        return self._end(True, timeout, wait)

    def _end(self, stop: bool | None, timeout: float | str | None, wait: bool) -> Any:
        seconds = options.parse_seconds(config.get("close_timeout") if timeout is None else timeout, "timeout")
        over = self.status == Status.closed and not (stop and self._detail and self._detail.state.live)
        if over and not self._ending.locked() and not self._loop_runner.is_started():
            return NoOpAwaitable() if self.asynchronous else None
        if self.asynchronous:
            return self._close(stop, seconds if wait else None)
        try:
            self._run(self._close, stop, seconds if wait else None)
        finally:
            self._loop_runner.stop()
        return None

    async def _close(self, stop: bool | None = None, patience: float | None = DEFAULT_PATIENCE) -> None:
        """Close; stop the cluster if *stop*, or if it is None and we own it; wait *patience* seconds for its end."""
        if self.status in (Status.created, Status.starting):
            await self._abandon()
        stop = bool(self._shutdown_on_close) if stop is None else stop
        failure = None
        async with self._ending:
            asked = stop and self._detail is not None and self._detail.state.live
            if self.status not in (Status.closed, Status.failed):
                self.status = Status.closing  # before the scheduler goes, so that clients do not try to reconnect
            if asked:
                failure = await self._stop()
            await self._disconnect()
            if asked and failure is None and patience is not None:
                await self._wait_stopped(patience)
            await self._api.aclose()
        if failure is not None:
            raise failure

    async def _disconnect(self) -> None:
        self._over.set()
        if self._forwarder is not None:
            await self._forwarder.stop()
        if self._starter.watch is not None:
            await self._starter.watch.stop()
        await super()._close()

    async def _stop(self) -> RopewalkError | None:
        """Ask the server to stop it, or if there is no server, the scheduler. Return why neither could be asked."""
        detail = self.detail
        try:
            self._detail = await self._api(
                calls.stop_cluster(detail.account, detail.id, reason="Closed by the client.")
            )
        except (NotFoundError, ClusterGoneError):
            pass
        except RopewalkError as exc:
            if not isinstance(exc, PASSING) or not await self._terminate():
                return exc
            logger.warning("%s The scheduler was told to end the cluster instead.", exc.message)
            self._detail = detail.model_copy(update={"state": ClusterState.STOPPING})
        self._disclaim()
        return None

    async def _terminate(self) -> bool:
        """Tell the scheduler itself to end; workers follow it."""
        channel = cast("rpc | None", self.scheduler_comm)
        if channel is None:
            return False
        try:
            # No reply: a scheduler that closes waits for its connections, while we would wait for it.
            async with asyncio.timeout(EXPLAIN_SECONDS):
                await channel.terminate(reply=False)
        except OSError:
            return False
        return True

    async def _wait_stopped(self, patience: float) -> None:
        watch = Watch(self._api, self.detail, on_event=_ignore, on_change=self._on_change, poll=1.0)
        watch.start()
        try:
            async with asyncio.timeout(patience):
                while (await watch.changed()).state.live:
                    pass
        except (TimeoutError, RopewalkError):
            if not self.quiet:
                logger.warning(
                    "Cluster %s is still being stopped; the server goes on with it: `ropewalk cluster show %s`.",
                    self.name,
                    self.name,
                )
        finally:
            await watch.stop()


_ENDING = (ClusterState.STOPPING, ClusterState.STOPPED, ClusterState.FAILED)


def _ignore(event: Event) -> None:
    """Take no notice."""
