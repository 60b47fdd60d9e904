"""The backend itself: everything that can block happens in threads, everything that waits happens here."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

from dask.utils import format_bytes

from ropewalk.backends.local import housekeeping, launcher, loglimit, logs, machine, ports, sight
from ropewalk.backends.local.cgroups import Cgroups
from ropewalk.backends.local.filesystem import explain, explained
from ropewalk.backends.local.guard import Guard
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.isolation import Isolation, Verdict
from ropewalk.backends.local.launcher import Plan, Start
from ropewalk.backends.local.parent import NODE_PROGRAM
from ropewalk.backends.local.processes import Identity, Table
from ropewalk.backends.local.spawner import Spawner
from ropewalk.backends.local.stopping import Stopping
from ropewalk.backends.local.watch import Watch
from ropewalk.backends.port import (
    Answer,
    Capabilities,
    LaunchRequest,
    LaunchResult,
    LogChunk,
    NodeHandle,
    NodeLaunch,
    NodeShape,
    Observation,
    Resource,
    Sighting,
)
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import CheckReport, HostedSettings
from ropewalk.schemas.clusters import GIB, NodeRole

STOP_GRACE = 5.0
"""Seconds that a node has for an orderly end. Dask's Nanny gives its worker 5 s at the most of its own."""

_LAUNCH_PATIENCE = 10.0
"""Seconds to wait for somebody else who is starting the same node, before the caller is told to try again."""
_LAUNCH_PAUSE = 0.02
_CLEAN_UP_PAUSE = 0.05

_T = TypeVar("_T")


class LocalBackend:
    """Runs nodes as processes of this machine: as users of their own where that is possible, else as the server's.

    Several servers may use the same *root* at once, one after the other or side by side.

    Args:
        root: Directory of all nodes; made when needed.
        installation: Id of the installation; nodes of others are never touched.
        settings: What the operator decided.
        program: The node program.
        stop_grace: Seconds between asking a node to end and ending it by force.
        spawner: Starts the processes; by default one of its own, with a warm parent.
        interpreter: The Python that runs the node program; this one's by default.
    """

    def __init__(
        self,
        root: Path,
        installation: str,
        settings: HostedSettings,
        *,
        program: Path = NODE_PROGRAM,
        stop_grace: float = STOP_GRACE,
        spawner: Spawner | None = None,
        interpreter: str = sys.executable,
    ) -> None:
        self._root = root.expanduser().absolute()
        self._installation = installation
        self._settings = settings
        self._spawner = spawner or Spawner(interpreter=interpreter)
        self._owns_spawner = spawner is None
        isolation = Isolation(self._root, settings, program.absolute(), interpreter)
        self._guard = Guard(isolation, Cgroups(installation), settings)
        self._plan = Plan(
            program.absolute(),
            settings.listen_host,
            settings.contact_host,
            self._spawner,
            self._guard,
            interpreter,
        )
        self._grace = stop_grace
        self._memory = machine.total_memory()
        self._watch = Watch(self._departed)
        self._homes: dict[str, NodeHome] = {}
        self._stopping: dict[str, Stopping] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._change = asyncio.Event()
        self._warming: dict[Spawner, asyncio.Task[None]] = {}
        self._holding: asyncio.Task[None] | None = None

    @property
    def kind(self) -> str:
        return "local"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(scheduler_address_first=True, launch_batch=1000)

    def validate(self, shape: NodeShape, role: NodeRole, options: Mapping[str, Any]) -> None:
        for option in options:
            raise FixItError(
                f"Clusters on the server's own machine have no backend option {option[:60]!r}.",
                field=f"backend_options.{option[:60]}",
                advice="Leave it out.",
            )
        if shape.gpu:
            raise FixItError(
                "Clusters on the server's own machine cannot be given GPUs.",
                field=f"{role}_gpu",
                advice=f"Leave {role}_gpu out, or use a cloud account that has GPUs.",
            )
        if shape.memory > self._memory:
            raise FixItError(
                f"A {role} with {format_bytes(shape.memory)} of memory does not fit on the server's machine, which has "
                f"{format_bytes(self._memory)}.",
                field=f"{role}_memory",
                advice=f"Ask for at most {format_bytes(self._memory)}.",
            )

    def hourly_price(
        self,
        shape: NodeShape,
        *,
        spot: bool = False,  # noqa: ARG002 - the port's
        options: Mapping[str, Any] | None = None,  # noqa: ARG002 - the port's
    ) -> tuple[float, str]:
        settings = self._settings
        price = shape.cpu * settings.core_hour_price + shape.memory / GIB * settings.gib_hour_price
        return price, settings.currency

    def price_note(self, *, spot: bool = False, options: Mapping[str, Any] | None = None) -> str | None:  # noqa: ARG002 - the port's
        """Return nothing: the operator chose the rates."""
        return None

    async def check(self) -> CheckReport:
        await self._begin_warming()  # a server asks this first
        return await asyncio.to_thread(machine.check, self._root, self._settings.listen_host, self._guard)

    async def isolation(self) -> Verdict:
        """Say whether each account's nodes run as a user of their own; about a second at the first time.

        Raises:
            TryAgainError: The machine is too busy to find out.
        """
        return await asyncio.to_thread(self._guard.isolation.verdict)

    async def user(self, account: str) -> int | None:
        """Return the user, and group, id that the nodes of an account run as; None: the server's own.

        Raises:
            FixItError: Accounts must be isolated, and cannot be.
            TryAgainError: The id cannot be written down, or it is not known yet whether accounts can be isolated.
        """
        with explained("Recording the user of an account", self._root):
            return await asyncio.to_thread(self._guard.isolation.uid, account)

    async def prepare(self) -> AsyncIterator[Resource]:
        """Make the directory of all nodes."""
        with explained("Making the directory of all nodes", self._root):
            await asyncio.to_thread(self._root.mkdir, 0o700, parents=True, exist_ok=True)
        yield Resource("directory", str(self._root))

    async def teardown(self, resources: Sequence[Resource]) -> AsyncIterator[Resource]:
        """Remove the directory with all logs.

        Raises:
            FixItError: nodes still run.
        """
        running = await self.inventory()
        if running:
            raise FixItError(
                f"{len(running)} nodes still run, {running[0].name} among them.",
                advice="Stop all clusters first.",
            )
        for resource in resources:
            if resource.kind == "directory" and resource.id == str(self._root):
                with explained("Removing the directory of all nodes", self._root):
                    await asyncio.to_thread(_remove_tree, self._root)
                yield resource

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        await self._warmed(request.interpreter)
        starts = {node.name: self._start(request, node) for node in request.nodes}
        table = Table()
        results: dict[str, LaunchResult] = {}
        address = request.scheduler
        # The scheduler first: some 10 ms later its port is reserved, and the workers are all started side by side.
        for node in request.nodes:
            if node.role is NodeRole.SCHEDULER:
                results[node.name] = await self._launch(starts[node.name], table)
                address = results[node.name].address or address
        workers = [node for node in request.nodes if node.role is NodeRole.WORKER]
        if workers and address is None:
            results |= {node.name: LaunchResult(node.name, error=_no_scheduler()) for node in workers}
        elif address is not None:
            # By the address on this machine: clients' way in may not be open from here.
            inside = ports.join(ports.reachable(self._plan.listen_host), ports.port_of(address))
            launches = (self._launch(replace(starts[node.name], scheduler=inside), table) for node in workers)
            results |= {result.name: result for result in await asyncio.gather(*launches)}
        await self._watch_running([starts[name].home for name, result in results.items() if result.cloud_id])
        return [results[node.name] for node in request.nodes]

    def _start(self, request: LaunchRequest, node: NodeLaunch) -> Start:
        if request.cluster.installation != self._installation:
            raise FixItError("The cluster is of another installation.", field="installation")
        handle = NodeHandle(node.name, request.cluster.id, node.role)
        return Start(self._home(handle), node, request.cluster.account, None, request.interpreter)

    async def _launch(self, start: Start, table: Table) -> LaunchResult:
        deadline = time.monotonic() + _LAUNCH_PATIENCE
        while True:
            result = await asyncio.to_thread(launcher.launch, self._plan, start, table)
            if result is not None:
                return result
            if time.monotonic() > deadline:
                error = TryAgainError(f"Somebody else is starting {start.node.name} at this moment.")
                return LaunchResult(start.node.name, error=error)
            await asyncio.sleep(_LAUNCH_PAUSE)
            table = Table()

    async def stop(self, nodes: Sequence[NodeHandle]) -> None:
        homes = [self._home(node) for node in nodes]
        fault = await asyncio.to_thread(_forbid, homes)
        for home in homes:
            if home.tag.name not in self._stopping:
                self._begin_stopping(home)
        # Those that run were asked all the same: a full disk must not keep them.
        if fault is not None:
            raise fault

    def _begin_stopping(self, home: NodeHome) -> None:
        name = home.tag.name
        stopping = self._stopping[name] = Stopping(home, self._grace)

        async def run() -> None:
            try:
                await stopping.run()
            finally:
                self._stopping.pop(name, None)
                self._changed_now()

        self._spawn(run())

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        homes = [self._home(node) for node in nodes]
        sightings = await asyncio.to_thread(_look_all, homes)
        await self._watch_running(
            [home for home in homes if sightings[home.tag.name].answer is Answer.RUNNING],
        )
        return Observation(sightings)

    async def changed(self) -> None:
        """Return when something may have changed. One task at a time waits, and each change ends one wait."""
        await self._change.wait()
        self._change.clear()

    async def inventory(self) -> Sequence[NodeHandle]:
        """List what lives, by lock, record and tag; on the way, remove logs that are older than they are kept."""
        await self._begin_warming()
        await self.housekeeping()
        return await self._file_work("Reading the directory of all nodes", self._living)

    async def housekeeping(self, now: datetime | None = None) -> None:
        """Remove what is left of nodes that ended longer ago than the operator keeps logs."""
        kept = timedelta(days=self._settings.log_retention_days).total_seconds()
        before = (now.timestamp() if now else time.time()) - kept
        await self._file_work("Removing old logs", lambda: housekeeping.remove_expired(self._root, before))
        await self._file_work("Cleaning up after nodes", self._guard.clean_up)

    async def logs(self, node: NodeHandle, cursor: str | None = None, limit: int = 1_000_000) -> LogChunk:
        home = self._home(node)

        def read() -> LogChunk:
            # First whether it is gone, then its log: otherwise its last words could come in between.
            gone = sight.look(home, Table()).answer is Answer.GONE
            return logs.read(home.log, cursor, limit, gone=gone)

        return await self._file_work("Reading a node's log", read)

    async def connect(self, scheduler: NodeHandle, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect on this machine, whatever host the contact address names."""
        recorded = await self._file_work("Reading a node's record", self._home(scheduler).address)
        port = ports.port_of(recorded or address)
        host = ports.reachable(self._plan.listen_host)
        try:
            return await asyncio.open_connection(host, port)
        except OSError as exc:
            raise TryAgainError(
                f"The scheduler {scheduler.name} does not accept connections at {host}:{port}: {exc.strerror or exc}.",
                advice="It may still be starting, or have ended; its log says which.",
            ) from exc

    async def close(self) -> None:
        self._watch.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._owns_spawner:
            await asyncio.to_thread(self._spawner.close)

    async def _begin_warming(self) -> None:
        """See to it that there will be a process to fork nodes from, of the kind that they need."""
        with contextlib.suppress(TryAgainError):  # of which kind is not known yet
            self._spawner.start(isolated=(await self.isolation()).isolated)

    async def _warmed(self, interpreter: str | None) -> None:
        """Wait for that process, if it will soon be there; all launches wait in one thread."""
        await self._begin_warming()
        spawner = self._spawner.of(interpreter)
        if spawner.imports:
            warming = self._warming.get(spawner)
            if warming is None:
                warming = self._warming[spawner] = self._spawn(asyncio.to_thread(spawner.wait_imported))
                warming.add_done_callback(lambda _: self._warming.pop(spawner, None))
            await asyncio.shield(warming)

    def _home(self, handle: NodeHandle) -> NodeHome:
        return NodeHome.of(self._root, self._installation, handle)

    def _living(self) -> list[NodeHandle]:
        return housekeeping.living(self._root, self._installation)

    async def _file_work(self, doing: str, work: Callable[[], _T]) -> _T:
        with explained(doing, self._root):
            return await asyncio.to_thread(work)

    async def _watch_running(self, homes: Sequence[NodeHome]) -> None:
        for home, identity in await asyncio.to_thread(_identities, homes):
            self._homes[home.tag.name] = home
            self._watch.add(home.tag.name, identity)
        if self._homes and (self._holding is None or self._holding.done()):
            self._holding = self._spawn(self._hold_logs())

    async def _hold_logs(self) -> None:
        """Keep the logs of running nodes within their limit, as long as there are any."""
        while self._homes:
            await asyncio.sleep(loglimit.CHECK_SECONDS)
            await self._hold([home.log for home in self._homes.values()])

    async def _hold(self, logs: Sequence[Path]) -> None:
        await asyncio.to_thread(loglimit.hold, logs, self._settings.log_limit_mib * 2**20)

    def _departed(self, name: str) -> None:
        stopping = self._stopping.get(name)
        if stopping is not None:
            stopping.wake()
        self._spawn(self._clean_up(self._homes.pop(name)))

    async def _clean_up(self, home: NodeHome) -> None:
        """Remove keys and data of a node that has ended at once, then tell."""
        while True:
            sightings = await asyncio.to_thread(_look_all, [home])
            if sightings[home.tag.name].answer is not Answer.RUNNING:
                break
            await asyncio.sleep(_CLEAN_UP_PAUSE)
        self._changed_now()
        await self._hold([home.log])  # it may have written much since the last look

    def _changed_now(self) -> None:
        self._change.set()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _no_scheduler() -> TryAgainError:
    return TryAgainError("Workers were not started, because their scheduler could not be.", delay=1.0)


def _remove_tree(root: Path) -> None:
    if root.exists():
        shutil.rmtree(root)


def _forbid(homes: Sequence[NodeHome]) -> TryAgainError | FixItError | None:
    fault: TryAgainError | FixItError | None = None
    for home in homes:
        try:
            home.forbid()
        except OSError as exc:
            error = explain(exc, "Recording that a node was asked to stop", home.path)
            fault = error if isinstance(error, TryAgainError | FixItError) else fault
    return fault


def _look_all(homes: Sequence[NodeHome]) -> dict[str, Sighting]:
    table = Table()
    sightings = {}
    for home in homes:
        try:
            sightings[home.tag.name] = sight.look(home, table)
        except OSError as exc:
            fault = explain(exc, "Looking at a node", home.path)
            sightings[home.tag.name] = Sighting(home.tag.name, Answer.UNKNOWN, reason=str(fault))
    return sightings


def _identities(homes: Sequence[NodeHome]) -> list[tuple[NodeHome, Identity]]:
    found = []
    for home in homes:
        try:
            identity = home.identity()
        except OSError:
            continue  # the next look tries again
        if identity is not None:
            found.append((home, identity))
    return found
