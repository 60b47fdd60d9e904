"""``ropewalk.Cluster``: a Dask cluster object whose nodes the control plane runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Self, TypeVar, cast

import dask.config
from dask.utils import parse_timedelta
from distributed.client import Client
from distributed.core import Status, rpc
from distributed.deploy.cluster import Cluster as DaskCluster
from distributed.objects import SchedulerInfo
from distributed.security import Security
from distributed.utils import Logs, LoopRunner, NoOpAwaitable
from tornado.ioloop import IOLoop

from ropewalk.client import calls, config, history, options, progress, view
from ropewalk.client import versions as version_check
from ropewalk.client.adaptive import RemoteAdaptive, adaptive_range
from ropewalk.client.connect import open_cluster, security_of
from ropewalk.client.credentials import Forwarder, check_choice, send
from ropewalk.client.environment.sync import Software
from ropewalk.client.failure import start_error
from ropewalk.client.http import AsyncApi
from ropewalk.client.options import UNSET, Unset, WaitFor
from ropewalk.client.start import Starter
from ropewalk.client.watch import PASSING, Watch, checkpoint
from ropewalk.errors import (
    ClusterGoneError,
    ClusterStartError,
    InputError,
    NotFoundError,
    RopewalkError,
)
from ropewalk.schemas.clusters import (
    ClusterCreate,
    ClusterDetail,
    ClusterScale,
    ClusterState,
    ClusterUpdate,
    Cost,
    NodeState,
)
from ropewalk.schemas.common import Event

__all__ = ["Cluster"]

T = TypeVar("T")

logger = logging.getLogger("ropewalk.client")

QUIET_POLL = 30.0
"""Seconds between two looks at a cluster that runs and tells of no events."""

EXPLAIN_SECONDS = 10.0
"""For collecting the reasons of a failure, or for a last message to a scheduler."""

TICKET_SECONDS = 30.0
"""A ticket to the dashboard is good for a minute; whoever gets one from us has at least half of that."""

DEFAULT_PATIENCE = 60.0
"""Seconds to wait for the end of a cluster, where nobody gave a number (``async with``, ``Client.shutdown``)."""


class Cluster(DaskCluster):
    """A Dask cluster that the Ropewalk server runs.

    Everything that is not given is taken from Dask's configuration (``ropewalk.cluster.<argument>``), then from the
    cluster configuration (template) that ``configuration`` names, then from the server.

    A live cluster of the same ``name`` is re-attached: it is not rescaled, and not stopped by :meth:`close`.

    Args:
        n_workers: How many workers, 4 by default; or ``[minimum, maximum]`` for a cluster that adapts to its work.
        name: ``name`` or ``account/name``; by default one is made of your user name and random characters.
        account: Where it runs and who pays; by default ``ropewalk.account`` in the configuration, or your own.
        configuration: Name of a cluster configuration that fills in what is not given.
        software: Name of a software environment; by default your own packages, as they are here.
        worker_cpu: CPU cores of a worker (1).
        worker_memory: Memory of a worker, in bytes or as ``"4 GiB"`` (the default).
        worker_gpu: GPUs of a worker (0).
        worker_class: Class of the workers, or its import path (``distributed.Nanny``).
        worker_options: Keyword arguments of the worker class.
        scheduler_cpu: CPU cores of the scheduler (1).
        scheduler_memory: Memory of the scheduler (4 GiB).
        scheduler_options: Keyword arguments of ``distributed.Scheduler``.
        container: Image of the nodes, where they run in containers; by default that of the cloud account.
        package_sync: Whether nodes get the packages of this program where neither an environment nor an image is
            named: True by default. It costs nothing where nodes run from the very files that this program runs from.
        spot_policy: ``"on-demand"`` (the default), ``"spot"`` for workers on capacity that the cloud may take back, or
            ``"spot_with_fallback"`` for that where there is some, and on demand where there is none.
        environ: Environment variables of every node.
        idle_timeout: Stop after so long without tasks (``"20 minutes"``); None: never.
        no_client_timeout: Stop after so long without a client; None: never (the default).
        cluster_timeout: Stop at this age; None: never (the default).
        tags: Tags of what is made in the cloud.
        backend_options: Options of the cloud account's backend.
        credentials: For data in AWS: ``"account"`` (the default), what the cloud account gives to nodes, in AWS its
            task role; ``"local"``, tokens of this program's own AWS credentials too, which expire within the hour and
            are renewed for as long as it runs; None: nothing is lent.
        wait_for_workers: What to wait for at the start: True for all workers, False for none, a number of them, or a
            fraction (0.3 by default).
        timeout: How long the start may take (``"5 minutes"``); then it fails and the cluster is stopped.
        shutdown_on_close: Whether :meth:`close` stops the cluster. By default yes if this call created it.
        asynchronous: For use in coroutines: ``await Cluster(asynchronous=True)`` or ``async with``.
        loop: The Tornado loop to use; by default one is found or started.
        show_progress: Show what is waited for: True also where there is neither a terminal nor a notebook, False never.
        quiet: Show and log nothing.
        versions: What to do when packages here and there differ: ``"warn"``, ``"error"`` or ``"ignore"``.
        server: Address of the Ropewalk server, if not the configured one.
        token: Token for it, if not the configured one.

    Raises:
        InputError: an argument is wrong.
        ClusterStartError: the cluster did not start; says which node failed, why, and the end of its log.
        ClusterUnreachableError: it runs, but its scheduler cannot be reached from here; says which hop failed.
        VersionMismatchError: packages differ, and ``versions="error"``.
        RopewalkError: the server said no, or is not there.
    """

    _lend: str | None = None
    """Whose AWS credentials go to the workers; a cluster that was only re-attached has what it was given."""

    def __init__(
        self,
        n_workers: int | Sequence[int] | None = None,
        *,
        name: str | None = None,
        account: str | None = None,
        configuration: str | None = None,
        software: str | None = None,
        worker_cpu: float | None = None,
        worker_memory: int | str | None = None,
        worker_gpu: int | None = None,
        worker_class: str | type | None = None,
        worker_options: Mapping[str, Any] | None = None,
        scheduler_cpu: float | None = None,
        scheduler_memory: int | str | None = None,
        scheduler_options: Mapping[str, Any] | None = None,
        container: str | None = None,
        package_sync: bool | None = None,
        spot_policy: str | None = None,
        environ: Mapping[str, str] | None = None,
        idle_timeout: float | str | Unset | None = UNSET,
        no_client_timeout: float | str | Unset | None = UNSET,
        cluster_timeout: float | str | Unset | None = UNSET,
        tags: Mapping[str, str] | None = None,
        backend_options: Mapping[str, Any] | None = None,
        credentials: str | Unset | None = UNSET,
        wait_for_workers: WaitFor | None = None,
        timeout: float | str | None = None,
        shutdown_on_close: bool | None = None,
        asynchronous: bool = False,
        loop: IOLoop | None = None,
        show_progress: bool | None = None,
        quiet: bool = False,
        versions: str | None = None,
        server: str | None = None,
        token: str | None = None,
    ) -> None:
        account, name = config.split_name(options.from_config("name", name), account)
        sizes = {
            "n_workers": n_workers,
            "name": name,
            "configuration": configuration,
            "software": software,
            "worker_cpu": worker_cpu,
            "worker_memory": worker_memory,
            "worker_gpu": worker_gpu,
            "worker_class": worker_class,
            "worker_options": worker_options,
            "scheduler_cpu": scheduler_cpu,
            "scheduler_memory": scheduler_memory,
            "scheduler_options": scheduler_options,
            "container": container,
            "spot_policy": spot_policy,
            "environ": environ,
            "idle_timeout": idle_timeout,
            "no_client_timeout": no_client_timeout,
            "cluster_timeout": cluster_timeout,
            "tags": tags,
            "backend_options": backend_options,
        }
        self._lend = check_choice(config.get("cluster.credentials") if credentials is UNSET else credentials)
        self._prepare(
            options.build_request(sizes),
            account=account,
            attach_only=False,
            package_sync=bool(options.from_config("package_sync", package_sync)),
            wait_for_workers=wait_for_workers,
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            asynchronous=asynchronous,
            loop=loop,
            show_progress=show_progress,
            quiet=quiet,
            versions=versions,
            server=server,
            token=token,
        )

    @classmethod
    def from_name(
        cls,
        name: str,
        account: str | None = None,
        *,
        wait_for_workers: WaitFor | None = False,
        timeout: float | str | None = None,
        shutdown_on_close: bool | None = None,
        asynchronous: bool = False,
        loop: IOLoop | None = None,
        show_progress: bool | None = None,
        quiet: bool = False,
        versions: str | None = None,
        server: str | None = None,
        token: str | None = None,
    ) -> Self:
        """Return the live cluster of that name; never makes one. Arguments as in the class.

        Raises:
            NotFoundError: there is none.
        """
        account, name_only = config.split_name(name, account)
        if name_only is None:
            raise InputError("A name is needed.", advice="`ropewalk cluster list` shows them.", field="name")
        self = cls.__new__(cls)
        self._prepare(
            ClusterCreate(name=name_only),
            account=account,
            attach_only=True,
            package_sync=False,
            wait_for_workers=wait_for_workers,
            timeout=timeout,
            shutdown_on_close=shutdown_on_close,
            asynchronous=asynchronous,
            loop=loop,
            show_progress=show_progress,
            quiet=quiet,
            versions=versions,
            server=server,
            token=token,
        )
        return self

    def _prepare(
        self,
        request: ClusterCreate,
        *,
        account: str | None,
        attach_only: bool,
        package_sync: bool,
        wait_for_workers: WaitFor | None,
        timeout: float | str | None,
        shutdown_on_close: bool | None,
        asynchronous: bool,
        loop: IOLoop | None,
        show_progress: bool | None,
        quiet: bool,
        versions: str | None,
        server: str | None,
        token: str | None,
    ) -> None:
        """Take note of what is wanted; and unless coroutines are going to await it, start."""
        self._request = request
        self._wait = options.parse_wait(options.from_config("wait_for_workers", wait_for_workers))
        self._timeout = options.parse_seconds(config.get("timeout") if timeout is None else timeout, "timeout")
        self._versions = config.get("versions") if versions is None else versions
        version_check.check_action(self._versions)
        login = config.current_login(server=server, token=token)
        self._server = login.server
        self._api = AsyncApi(login.server, login.require_token())
        self._progress = progress.Progress(progress.choose(show=show_progress, quiet=quiet))
        self._software = Software(
            self._api,
            sync=package_sync,
            versions=str(self._versions),
            step=self._progress.step,
            say=self._said,
            patient=self._be_patient,
        )
        self._starter = Starter(
            self._api,
            login,
            request,
            account=account,
            attach_only=attach_only,
            progress=self._progress,
            software=self._software,
            on_event=self._on_event,
            on_change=self._on_change,
        )
        self._detail: ClusterDetail | None = None
        self._shutdown_on_close = options.from_config("shutdown_on_close", shutdown_on_close)
        self._starting: asyncio.Task[None] | None = None
        self._limit: asyncio.Timeout | None = None
        self._over = asyncio.Event()
        self._ending = asyncio.Lock()
        self._background: set[asyncio.Task[Any]] = set()
        self.security: Security | None = None
        self._ticketed: tuple[float, str] | None = None
        self._forwarder: Forwarder | None = None
        super().__init__(asynchronous=asynchronous, loop=loop, quiet=quiet, name=request.name or "")
        if not asynchronous:
            self._start_and_wait()

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

    # Start.

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
        connection = await self._starter.connection()
        version_check.report(connection.versions, self._versions)
        self.security = security_of(connection)
        patience = min(self._timeout, _connect_timeout())
        self.scheduler_comm: rpc = await open_cluster(connection, self.security, patience, self._progress.step)
        checkpoint()
        await super()._start()
        checkpoint()
        await self._software.bring(self.scheduler_comm, self._request)
        if self._lend == "local":
            self._forwarder = Forwarder(lambda token: send(self.scheduler_comm, token))
            await self._forwarder.start()
            checkpoint()
        self.name = self.detail.name  # the scheduler's copy may be an older program's
        await self._starter.workers(self._wait, lambda: len(self.scheduler_info["workers"]))
        if self._shutdown_on_close is None:
            self._shutdown_on_close = self._starter.created
        if not self._shutdown_on_close:
            self._disclaim()
        if self._starter.watch is not None:
            self._starter.watch.poll = QUIET_POLL

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

    # What goes on while it runs.

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

    def _keep(self, task: asyncio.Task[Any]) -> None:
        """Hold a reference: the event loop itself does not."""
        self._background.add(task)
        task.add_done_callback(self._background.discard)

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

    # End.

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

    def _disclaim(self) -> None:
        """There is nothing left for the end of the program to stop."""
        if self._starter.claim is not None:
            self._starter.claim.leave()

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

    # What it can do.

    def _run(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
        """Run a method that needs only the server: on the cluster's loop, and after its end on one of its own."""
        if self.asynchronous:
            return function(*args)
        if self._loop_runner.is_started():
            return self.sync(function, *args)
        return LoopRunner().run_sync(self._afterwards, function, *args)

    async def _afterwards(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
        try:
            return await function(*args)
        finally:
            await self._api.aclose()

    def _act(self, function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> Any:
        """As :meth:`_run`; but in coroutines it begins at once, since Dask's own methods need not be awaited either."""
        if not self.asynchronous:
            return self._run(function, *args)
        task = asyncio.create_task(function(*args))
        self._keep(task)
        return task

    def scale(self, n: int) -> Any:
        """Ask for *n* workers; ends adaptive scaling. Workers that go hand their results to others first.

        Returns when the server has accepted it (:meth:`wait_for_workers` waits for workers). Awaitable in coroutines.
        """
        return self._act(self._scale, options.parse_scale(n))

    async def _scale(self, request: ClusterScale) -> None:
        detail = self.detail
        self._on_change(await self._api(calls.scale_cluster(detail.account, detail.id, request)))

    def set_keepalive(self, duration: float | str | None) -> Any:
        """Stop after so long without tasks (``"2 hours"``, or seconds), counted anew from the last task; None: never.

        The scheduler itself sees to it, so it holds when this program and the server have ended.
        """
        return self.set_limits(idle_timeout=duration)

    def set_limits(
        self,
        *,
        idle_timeout: float | str | Unset | None = UNSET,
        no_client_timeout: float | str | Unset | None = UNSET,
        cluster_timeout: float | str | Unset | None = UNSET,
    ) -> Any:
        """Change the times after which the cluster ends by itself; what is not given stays as it is.

        Args:
            idle_timeout: Stop after so long without tasks; None: never.
            no_client_timeout: Stop after so long without a client; None: never.
            cluster_timeout: Stop at this age, counted from its start; None: never.
        """
        given = {
            "idle_timeout": idle_timeout,
            "no_client_timeout": no_client_timeout,
            "cluster_timeout": cluster_timeout,
        }
        return self._act(self._update, options.parse_limits(given))

    async def _update(self, request: ClusterUpdate) -> None:
        detail = self.detail
        self._on_change(await self._api(calls.update_cluster(detail.account, detail.id, request)))

    def adapt(  # type: ignore[override]  # returns our own kind of handle
        self,
        Adaptive: Any = None,  # noqa: N803 - Dask's name, to refuse it by name
        *,
        minimum: int | None = None,
        maximum: int | None = None,
        **kwargs: Any,
    ) -> RemoteAdaptive:
        """Let the number of workers follow the work, between *minimum* (0) and *maximum*.

        The scheduler itself decides, so it goes on when this program ends.
        """
        others = kwargs if Adaptive is None else {"Adaptive": Adaptive, **kwargs}
        request = options.parse_scale(adaptive_range(minimum, maximum, others))
        accepted = self._act(self._scale, request)
        low, high = request.n_workers if isinstance(request.n_workers, tuple) else (0, 0)
        return RemoteAdaptive(self, low, high, accepted)

    def get_logs(self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True) -> Any:
        """Return the logs of the nodes by name, also of nodes and clusters that have ended.

        Args:
            cluster: Include what happened to the cluster as a whole.
            scheduler: Include the scheduler's log.
            workers: Include all workers, none, or those of these names or addresses.
        """
        return self._run(self._get_logs, cluster, scheduler, workers)

    async def _get_logs(
        self, cluster: bool = True, scheduler: bool = True, workers: bool | Iterable[str] = True
    ) -> Logs:
        detail = await self._refresh()
        return await history.read_logs(self._api, detail, cluster=cluster, scheduler=scheduler, workers=workers)

    def refresh(self) -> Any:
        """Ask the server how the cluster is, and return that (a :class:`~ropewalk.schemas.clusters.ClusterDetail`)."""
        return self._run(self._refresh)

    async def _refresh(self) -> ClusterDetail:
        detail = await self._api(calls.get_cluster(self.detail.account, self.detail.id))
        self._on_change(detail)
        return detail

    def cost(self) -> Any:
        """Return what the cluster costs by the hour now, and has cost so far."""
        return self._run(self._cost)

    async def _cost(self) -> Cost:
        return await self._api(calls.get_cost(self.detail.account, self.detail.id))

    def events(self) -> Any:
        """Return all that happened to the cluster, as a list of events."""
        return self._run(self._events)

    async def _events(self) -> list[Event]:
        return await history.read_events(self._api, self.detail)

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> Any:
        """Wait until *n_workers* workers have joined.

        Raises:
            WorkerStartTimeoutError: they have not within *timeout* (a TimeoutError of Dask's).
            ClusterGoneError: the cluster ended meanwhile.
        """
        if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 1:
            raise ValueError(f"`n_workers` must be a positive integer. Instead got {n_workers}.")
        seconds = None if timeout is None else options.parse_seconds(timeout, "timeout")
        return self.sync(self._wait_for_workers, n_workers, seconds)

    async def _wait_for_workers(self, n_workers: int = 0, timeout: float | None = None) -> None:  # noqa: ASYNC109 - Dask's
        waiting = asyncio.create_task(super()._wait_for_workers(n_workers, timeout))
        over = asyncio.create_task(self._over.wait())
        try:
            await asyncio.wait({waiting, over}, return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
                return
            raise ClusterGoneError(f"Cluster {self.name!r} is {self.state}.", details={"reason": self.detail.reason})
        finally:
            waiting.cancel()
            over.cancel()

    def get_client(self) -> Client:
        """Return a Dask client of this cluster: the current one if it is of this cluster, else a new one."""
        with suppress(ValueError):
            current: Client = Client.current()
            if current.cluster is self:
                return current
        return Client(self, asynchronous=self.asynchronous)

    # What it looks like.

    @property
    def detail(self) -> ClusterDetail:
        """The server's view as last seen; :meth:`refresh` looks again."""
        if self._detail is None:
            raise ClusterGoneError("The cluster has not started.", advice="Await it first, or use `async with`.")
        return self._detail

    @property
    def account(self) -> str | None:
        """The account that the cluster belongs to; None before it has started."""
        return None if self._detail is None else self._detail.account

    @property
    def state(self) -> str:
        """pending, starting, ready, stopping, stopped or failed, as last seen."""
        return str(ClusterState.PENDING if self._detail is None else self._detail.state)

    @property
    def shutdown_on_close(self) -> bool:
        """Whether :meth:`close` stops the cluster."""
        return bool(self._shutdown_on_close)

    @property
    def dashboard_link(self) -> str:
        """Address that opens the dashboard in a browser, or an empty text.

        With a ticket that works once, within a minute; for half of that the same one is returned, since widgets ask
        often. In coroutines, which must not wait here, and when the server does not answer: without a ticket, for
        browsers that have opened it before. :meth:`new_dashboard_link` always has one.
        """
        link = self._detail.dashboard_link if self._detail else None
        if not link or not link.startswith(("http://", "https://")):
            return ""
        if self.asynchronous or self.status != Status.running:
            return link
        if self._ticketed is None or time.monotonic() - self._ticketed[0] > TICKET_SECONDS:
            try:
                self._ticketed = (time.monotonic(), self._run(self._new_dashboard_link))
            except (RopewalkError, OSError):
                return link
        return self._ticketed[1]

    def new_dashboard_link(self) -> Any:
        """Return a new link that opens the dashboard in one browser, once, within a minute. Awaitable in coroutines."""
        return self._run(self._new_dashboard_link)

    async def _new_dashboard_link(self) -> str:
        detail = self.detail
        return (await self._api(calls.open_dashboard(detail.account, detail.id))).url

    @property
    def plan(self) -> set[str]:
        """Names of the workers that are meant to be."""
        workers = view.workers(self._detail)
        return {node.name for node in workers if node.state.live and node.state is not NodeState.STOPPING}

    @property
    def requested(self) -> set[str]:
        """Names of the workers that the backend was asked for."""
        return {node.name for node in view.workers(self._detail) if node.state in (NodeState.STARTING, NodeState.READY)}

    @property
    def observed(self) -> set[str]:
        """Names of the workers that have joined the scheduler."""
        known = {view.own_name(node): node.name for node in view.workers(self._detail)}
        return {known.get(worker["name"], worker["name"]) for worker in self.scheduler_info["workers"].values()}

    def _scaling_status(self) -> str:
        return view.scaling_table(self._detail, len(self.scheduler_info["workers"]))

    def _repr_html_(self, cluster_status: str | None = None) -> str:
        return str(super()._repr_html_(cluster_status or view.status_rows(self._detail)))

    def __repr__(self) -> str:
        if self._detail is None or self.status != Status.running:
            return f"Cluster({self.name!r}, {self.state if self._detail else 'not started'})"
        return str(super().__repr__())


_ENDING = (ClusterState.STOPPING, ClusterState.STOPPED, ClusterState.FAILED)


def _ignore(event: Event) -> None:
    """Take no notice."""


def _duration(seconds: float) -> str:
    return f"{seconds / 60:g} minutes" if seconds > 60 and seconds % 60 == 0 else f"{seconds:g} s"


def _connect_timeout() -> float:
    return float(parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"), default="seconds"))
