"""The program of a node: runs one Dask scheduler or one worker, and protects the purse by itself.

It needs the standard library and ``distributed``, nothing of Ropewalk, so that any image with Dask in it can run it.

Run it as ``python main.py CONFIG.json``, with ``-`` for a configuration on standard input, or without an argument for
one in the environment variable ``ROPEWALK_NODE_CONFIG``. The configuration is a JSON object:

=================  ================================================================================
``v``              1
``installation``   id of the Ropewalk installation; for logs and tags, as are the next three
``cluster``        id of the cluster
``cluster_name``   its name
``node``           name of this node
``role``           ``scheduler`` or ``worker``
``listen``         ``tls://host:port`` to listen on; port 0 for workers
``contact``        ``tls://host:port`` that others use, where that differs from ``listen``
``scheduler``      workers only: the scheduler's address
``tls``            ``ca``, ``cert`` and ``key`` as PEM text
``nthreads``       threads of a worker
``memory_limit``   bytes of a worker
``worker_class``   import path of the worker's class
``options``        keyword arguments of the scheduler or worker; what is listed here wins over them
``limits``         ``idle_timeout``, ``no_client_timeout``, ``cluster_timeout``: seconds or null
``adaptive``       ``minimum`` and ``maximum`` number of workers, or null
``directory``      where to keep temporary files
``start_seconds``  seconds in which a worker must find its scheduler; default 300
=================  ================================================================================

On ECS it is not run so, but by the few lines of ``backends/aws/definitions.py``, which call :func:`run_on_ecs` with a
configuration without ``node``, ``listen`` and ``directory``, and with ``port``.

The exit status says why it ended; see the constants below. SIGTERM ends it in order.

The control plane talks to the scheduler through a few handlers that :class:`Link` adds to the scheduler's own port.
They answer only to the certificate that carries the control plane's name, and exchange plain values only, because the
control plane refuses to unpickle.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.metadata
import json
import logging
import os
import platform
import signal
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping
from typing import Any

import dask
from distributed import Nanny, Scheduler, Security
from distributed.comm import Comm, connect, get_address_host, get_address_host_port
from distributed.core import Server, Status
from distributed.diagnostics.plugin import SchedulerPlugin

EXIT_OK = 0
EXIT_NO_SCHEDULER = 69
"""A worker did not find its scheduler (EX_UNAVAILABLE)."""
EXIT_CRASH = 70
"""An exception; the log has it (EX_SOFTWARE)."""
EXIT_CANNOT_LISTEN = 71
"""The address to listen on is taken or not of this machine (EX_OSERR)."""
EXIT_CONFIG = 78
"""The configuration is unusable (EX_CONFIG)."""
EXIT_IDLE = 80
EXIT_NO_CLIENT = 81
EXIT_LIFETIME = 82
EXIT_CLIENT = 83
"""A client told the scheduler to close."""

EXIT_FILE = "exit-status"
"""In the node's directory, once it has ended by itself: its exit status as a decimal number."""

CONTROL_NAME = "ropewalk-control"
"""Common name of the certificate that may use the handlers of :class:`Link`."""
SCHEDULER_NAME = "ropewalk-scheduler"
"""Common name of the certificate that may ask a worker for its dashboard."""

TUNNEL_CHUNK = 2**16
TUNNEL_WINDOW = 2**20
"""Bytes on their way in one direction of a tunnel that the other side has not consumed; as in backends/tunnel.py."""
TUNNEL_CONNECT_SECONDS = 10.0
TUNNEL_CLOSE_SECONDS = 5.0

STATUS_SECONDS = 10.0
"""A status is sent at least this often, so that both sides notice a dead connection."""
GATHER_SECONDS = 0.1
"""Changes within this time after a status go out as the next one. Each makes the control plane look, write and tell,
which would cost a cluster that starts, and whose workers join one by one, the processor time that it needs itself."""
TICK_SECONDS = 1.0
"""How often limits and the adaptive target are looked at."""
SHRINK_TICKS = 3
"""An adaptive target falls only after it was lower for so many ticks, as `wait_count` in Dask's own Adaptive."""
GROW_STEP = 10
"""Workers that an adaptive target may always grow by at one look; from there on it doubles, second by second."""
STOP_SECONDS = 0.5
"""A worker's process that was asked to end is ended by force after this time (a Nanny waits 80 % of it)."""
START_SECONDS = 300
"""A worker gives up when it found no scheduler for so long."""

METADATA_TRIES = 5
METADATA_SECONDS = 2.0
"""ECS's metadata endpoint is next to the task, but may answer a moment later than the task runs."""

PACKAGES = (
    *("dask", "distributed", "cloudpickle", "msgpack", "toolz", "tornado", "lz4", "blosc"),
    *("numpy", "pandas", "pyarrow", "xarray", "scipy", "scikit-learn", "numba"),
)
"""Whose versions should match between client and cluster."""

logger = logging.getLogger("distributed.ropewalk")


class ConfigError(Exception):
    """The configuration is unusable."""


def read_config(argv: list[str], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the configuration named by the command line or the environment."""
    try:
        if len(argv) > 1 and argv[1] != "-":
            with open(argv[1], encoding="utf-8") as file:  # noqa: PTH123 - pathlib costs start-up time
                text = file.read()
        else:
            text = sys.stdin.read() if len(argv) > 1 else environ["ROPEWALK_NODE_CONFIG"]
        config = json.loads(text)
        for key in ("node", "role", "listen", "tls", "directory"):
            config[key]
    except KeyError as exc:
        raise ConfigError(f"{exc} is missing") from None
    except (OSError, ValueError, TypeError) as exc:
        raise ConfigError(f"{type(exc).__name__}: cannot read it") from None
    if config.get("v") != 1 or config["role"] not in ("scheduler", "worker"):
        raise ConfigError("it is of another version of Ropewalk, or its role is unknown")
    return dict(config)


def security(tls: Mapping[str, str]) -> Security:
    """Return mutual TLS for every role that this process plays, with its one certificate."""
    cert = {f"tls_{role}_cert": tls["cert"] for role in ("scheduler", "worker", "client")}
    key = {f"tls_{role}_key": tls["key"] for role in ("scheduler", "worker", "client")}
    return Security(tls_ca_file=tls["ca"], require_encryption=True, **cert, **key)


def versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of Python and of the *packages* that are installed, without importing them.

    What is imported says so itself; reading the metadata of all took an eighth of a scheduler's start.
    """
    found = {"python": platform.python_version()}
    for name in packages:
        module = sys.modules.get(name)
        own = None if module is None else vars(module).get("__version__")  # not by a __getattr__, which may import
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = own if isinstance(own, str) else importlib.metadata.version(name)
    return found


class Limits:
    """Decides when a cluster has to end by itself. Pure: told the time and what is going on.

    Args:
        limits: ``idle_timeout``, ``no_client_timeout``, ``cluster_timeout`` in seconds; absent or None: no such limit.
        now: A monotonic time in seconds.
    """

    def __init__(self, limits: Mapping[str, float | None], now: float) -> None:
        self.limits = dict(limits)
        self._started = self._busy = self._client = now

    def exceeded(self, now: float, *, idle: bool, clients: int) -> tuple[str, int] | None:
        """Return the reason and exit status if a limit is exceeded."""
        if not idle:
            self._busy = now
        if clients:
            self._client = now
        for name, since, code in (
            ("cluster_timeout", self._started, EXIT_LIFETIME),
            ("no_client_timeout", self._client, EXIT_NO_CLIENT),
            ("idle_timeout", self._busy, EXIT_IDLE),
        ):
            limit = self.limits.get(name)
            if limit is not None and now - since >= limit:
                return name, code
        return None


class Target:
    """Smooths an adaptive target.

    It rises at once, but to at most twice itself (or :data:`GROW_STEP` more); it falls only after it was lower for
    :data:`SHRINK_TICKS` looks, and by at most half. A wrong guess of how long tasks take then costs little.
    """

    def __init__(self, bounds: Mapping[str, int] | None) -> None:
        self.bounds = bounds
        self.value: int | None = None
        self._lower = 0

    def update(self, wanted: int) -> bool:
        """Take one look at what the scheduler wants; returns whether the target changed."""
        before = self.value
        if self.bounds is None:
            self.value = None
            return before is not None
        wanted = max(self.bounds["minimum"], min(self.bounds["maximum"], wanted))
        self._lower = self._lower + 1 if self.value is not None and wanted < self.value else 0
        if self.value is None:
            self.value = self.bounds["minimum"]
        if wanted > self.value:
            self.value = min(wanted, self.value + max(self.value, GROW_STEP))
        elif self._lower >= SHRINK_TICKS:
            self.value, self._lower = max(wanted, self.value // 2), 0
        # Bounds may have changed since.
        self.value = max(self.bounds["minimum"], min(self.bounds["maximum"], self.value))
        return self.value != before


class Link(SchedulerPlugin):
    """What the control plane may ask of a scheduler, and what the scheduler does on its own."""

    name = "ropewalk-link"

    def __init__(self, scheduler: Scheduler, config: Mapping[str, Any]) -> None:
        self.scheduler = scheduler
        self.closing: str | None = None
        self.exit_code = EXIT_CLIENT
        self.retired: set[str] = set()
        self.limits = Limits(config.get("limits") or {}, time.monotonic())
        self.target = Target(config.get("adaptive"))
        self._watchers: set[asyncio.Event] = set()
        self._versions = versions()
        for op in ("watch", "choose", "retire", "configure"):
            scheduler.handlers[f"ropewalk_{op}"] = getattr(self, op)
        self._dashboard = Dashboard(scheduler)

    # Hooks of SchedulerPlugin: each is a reason to tell those who watch.

    def add_worker(self, *_args: Any, **_kwargs: Any) -> None:
        self._tell()

    def remove_worker(self, *_args: Any, **_kwargs: Any) -> None:
        self._tell()

    def add_client(self, *_args: Any, **_kwargs: Any) -> None:
        self._tell()

    def remove_client(self, *_args: Any, **_kwargs: Any) -> None:
        self._tell()

    async def before_close(self) -> None:
        """Say why before the scheduler closes its connections; it waits for those that are still in use."""
        self.closing = self.closing or "client"
        self._tell()
        self._dashboard.close()

    def _tell(self) -> None:
        for event in self._watchers:
            event.set()

    # Handlers.

    async def watch(self, comm: Comm) -> None:
        """Send a status at once, at every change, and at least every :data:`STATUS_SECONDS`, until one says the end."""
        _authorise(comm)
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            while not comm.closed():
                changed.clear()
                status = self.status()
                await comm.write(status)
                if status["closing"]:
                    return
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), STATUS_SECONDS)
                await asyncio.sleep(GATHER_SECONDS)
        except OSError:
            logger.info("The control plane went away")
        finally:
            self._watchers.discard(changed)

    async def choose(self, comm: Comm, n: int) -> dict[str, Any]:
        """Return the names of *n* workers that cost least to remove; running work counts, then stored data."""
        _authorise(comm)
        chosen = self.scheduler.workers_to_close(n=n, attribute="name")
        busy = [ws for ws in self.scheduler.workers.values() if ws.name not in set(chosen)]
        busy.sort(key=lambda ws: (len(ws.processing), ws.nbytes))
        return {"names": [str(name) for name in [*chosen, *(ws.name for ws in busy)][:n]]}

    async def retire(self, comm: Comm, names: list[str]) -> dict[str, Any]:
        """Move what the named workers hold to others, then close them. Returns those for which that worked."""
        _authorise(comm)
        present = [ws.name for ws in self.scheduler.workers.values() if ws.name in set(names)]
        gone = set(names) - set(present)
        moved = await self.scheduler.retire_workers(names=present, close_workers=True) if present else {}
        self.retired |= gone | {str(worker["name"]) for worker in moved.values()}
        self._tell()
        return {"retired": sorted(self.retired & set(names))}

    async def configure(
        self,
        comm: Comm,
        adaptive: Mapping[str, int] | None = None,
        limits: Mapping[str, float | None] | None = None,
    ) -> dict[str, Any]:
        """Change the bounds of the adaptive target (None: not adaptive) and, where given, limits."""
        _authorise(comm)
        self.target.bounds = adaptive
        self.limits.limits.update(limits or {})
        self.tick()
        self._tell()
        return {"ok": True}

    def status(self) -> dict[str, Any]:
        """Return what the control plane needs to know, as plain values."""
        workers = {str(ws.name): ws.address for ws in self.scheduler.workers.values()}
        return {
            "v": 1,
            "workers": sorted(workers),
            "addresses": workers,
            "closing": self.closing,
            "clients": self._clients(),
            "target": self.target.value,
            "dashboard_port": _dashboard_port(self.scheduler),
            "versions": self._versions,
            "retired": sorted(self.retired),
        }

    # What the scheduler does on its own, with the control plane alive or not.

    def tick(self) -> None:
        """Look at the limits and the adaptive target."""
        if self.closing is None and self.scheduler.status == Status.running:
            wanted = self.scheduler.adaptive_target() if self.target.bounds else 0
            if self.target.update(wanted):
                self._tell()
            over = self.limits.exceeded(time.monotonic(), idle=self._idle(), clients=self._clients())
            if over is not None:
                self.end(*over)

    def end(self, reason: str, exit_code: int) -> None:
        """Close the cluster, and let those who watch know why first."""
        self.closing, self.exit_code = reason, exit_code
        logger.info("The cluster ends: %s", reason)
        self._tell()
        asyncio.get_running_loop().call_later(
            2 * GATHER_SECONDS,
            lambda: asyncio.ensure_future(self.scheduler.close(reason=f"ropewalk-{reason}")),
        )

    def stop(self) -> None:
        """Note that a signal ends the scheduler."""
        if self.closing is None:
            self.closing, self.exit_code = "stop", EXIT_OK

    def _clients(self) -> int:
        return sum(1 for key in self.scheduler.clients if key != "fire-and-forget")

    def _idle(self) -> bool:
        busy = any(ws.processing for ws in self.scheduler.workers.values())
        return self.scheduler.idle_since is not None and not busy


def _authorise(comm: Comm, name: str = CONTROL_NAME) -> None:
    cert = comm.extra_info.get("peercert") or {}
    names = [value for part in cert.get("subject", ()) for key, value in part if key == "commonName"]
    if names != [name]:
        raise PermissionError(f"only {name} may ask this")


def _dashboard_port(node: Server) -> int | None:
    server = getattr(node, "http_server", None)
    return getattr(server, "port", None)


# Dashboards. They listen on loopback only; their bytes go through the mutually authenticated ports.


class Dashboard:
    """Answers ``ropewalk_tunnel``: turns the connection into a byte stream to a dashboard, and to nothing else.

    The scheduler carries to its own HTTP server, or passes on to the worker (or its nanny) that is named; those carry
    to their own. Messages are ``{"data": bytes}``, ``{"eof": True}``, and ``{"credit": n}`` for bytes that were
    consumed: Dask's connections queue without bound what is written to them, so each side stops at
    :data:`TUNNEL_WINDOW`.
    """

    def __init__(self, server: Server) -> None:
        self._server: Any = server
        self._comms: set[Comm] = set()
        handler = self.scheduler_tunnel if isinstance(server, Scheduler) else self.worker_tunnel
        server.handlers["ropewalk_tunnel"] = handler

    async def scheduler_tunnel(self, comm: Comm, worker: str | None = None) -> None:
        """Carry to the scheduler's dashboard, or to that of the worker whose HTTP server is ``host:port``."""
        _authorise(comm)
        with self._kept(comm):
            if worker is None:
                await _carry(comm, _dashboard_port(self._server))
                return
            for state in self._server.workers.values():
                port = state.services.get("dashboard")
                if f"{state.host}:{port}" == worker:
                    await self._pass_on(comm, state.nanny or state.address, port)
                    return
            await _refuse(comm, "there is no such worker")

    async def worker_tunnel(self, comm: Comm, port: int) -> None:
        """Carry to this worker's dashboard: for a nanny, that of its worker process."""
        _authorise(comm, SCHEDULER_NAME)
        with self._kept(comm):
            own = _dashboard_port(self._server) or (
                port if _listens(getattr(self._server, "pid", None), port) else None
            )
            await _carry(comm, own)

    def close(self) -> None:
        """End all tunnels at once: a server that closes would wait until everything in them was taken."""
        for comm in list(self._comms):
            comm.abort()

    @contextlib.contextmanager
    def _kept(self, comm: Comm) -> Iterator[None]:
        self._comms.add(comm)
        try:
            yield
        except OSError:
            logger.debug("A tunnel broke", exc_info=True)
        finally:
            self._comms.discard(comm)
            comm.abort()

    async def _pass_on(self, comm: Comm, address: str, port: int) -> None:
        try:
            peer = await connect(address, timeout=TUNNEL_CONNECT_SECONDS, **self._server.connection_args)
        except OSError as exc:
            await _refuse(comm, f"the worker cannot be reached: {type(exc).__name__}")
            return
        try:
            await peer.write({"op": "ropewalk_tunnel", "reply": False, "port": port})
            await _until_one_ends(comm, _forward(comm, peer), _forward(peer, comm))
        finally:
            peer.abort()


async def _forward(source: Comm, sink: Comm) -> None:
    # The ends keep to the window, so no more than that is queued here.
    while True:
        await sink.write(await source.read())


async def _carry(comm: Comm, port: int | None) -> None:
    """Carry bytes between *comm* and a port of this machine's loopback address until either ends."""
    if port is None:
        await _refuse(comm, "there is no dashboard")
        return
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await _refuse(comm, "the dashboard does not answer")
        return
    try:
        await comm.write({"ok": True})
        window, arrived = _Window(), asyncio.Queue[bytes]()
        works = (_outward(comm, reader, window), _inward(comm, arrived, window), _feed(comm, arrived, writer))
        await _until_one_ends(comm, *works)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


class _Window:
    """Counts what may still be sent."""

    def __init__(self) -> None:
        self._free = TUNNEL_WINDOW
        self._more = asyncio.Event()

    async def take(self, size: int) -> None:
        while self._free <= 0:
            self._more.clear()
            await self._more.wait()
        self._free -= size

    def give(self, size: int) -> None:
        self._free += size
        self._more.set()


async def _outward(comm: Comm, reader: asyncio.StreamReader, window: _Window) -> None:
    while data := await reader.read(TUNNEL_CHUNK):
        await window.take(len(data))
        await comm.write({"data": data})
    await comm.write({"eof": True})


async def _inward(comm: Comm, arrived: asyncio.Queue[bytes], window: _Window) -> None:
    # Reads on whatever the dashboard does: credit comes this way, too.
    while True:
        message = await comm.read()
        window.give(message.get("credit", 0))
        if data := message.get("data"):
            arrived.put_nowait(data)
        if message.get("eof"):
            arrived.put_nowait(b"")


async def _feed(comm: Comm, arrived: asyncio.Queue[bytes], writer: asyncio.StreamWriter) -> None:
    while data := await arrived.get():
        writer.write(data)
        await writer.drain()
        await comm.write({"credit": len(data)})
    writer.write_eof()
    await asyncio.Event().wait()  # the answer is still to come


async def _until_one_ends(comm: Comm, *works: Coroutine[Any, Any, None]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # Before the others are cancelled: that aborts the connection that they read, with what is still to be sent.
        with contextlib.suppress(OSError, asyncio.TimeoutError):
            await asyncio.wait_for(comm.close(), TUNNEL_CLOSE_SECONDS)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _refuse(comm: Comm, why: str) -> None:
    await comm.write({"error": why})
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(comm.close(), TUNNEL_CLOSE_SECONDS)


def _listens(pid: int | None, port: int) -> bool:
    """Return whether the process listens on *port*: a nanny carries to its own worker and to nobody else."""
    import psutil  # noqa: PLC0415 - comes with distributed; only dashboards of workers need it

    try:
        connections = psutil.Process(pid).net_connections("tcp") if pid else []
    except psutil.Error:
        return False
    return any(c.status == psutil.CONN_LISTEN and c.laddr.port == port for c in connections)


def _import(path: str) -> Any:
    module, _, name = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as exc:
        raise ConfigError(f"worker_class {path!r} cannot be imported here: {exc}") from None


def _bracketed(host: str) -> str:
    """Return *host* as Dask's servers take it: addresses of IPv6 as in a URL."""
    return f"[{host}]" if ":" in host else host


async def run_scheduler(config: Mapping[str, Any]) -> int:
    """Run a scheduler until it closes; returns the exit status."""
    host, port = get_address_host_port(config["listen"])
    kwargs: dict[str, Any] = {"dashboard": True, **(config.get("options") or {})}
    kwargs |= {
        "host": _bracketed(host),
        "port": port,
        "protocol": "tls",
        "security": security(config["tls"]),
        "contact_address": config.get("contact"),
        # Loopback only: the control plane brings the dashboard to browsers.
        "dashboard_address": "127.0.0.1:0",
        # Link does this, with the reason kept.
        "idle_timeout": None,
    }
    try:
        scheduler = Scheduler(**kwargs)
    except TypeError as exc:
        raise ConfigError(f"scheduler_options do not fit distributed.Scheduler: {exc}") from None
    link = Link(scheduler, config)
    scheduler.add_plugin(link)
    asked = _asked_to_stop()
    try:
        await scheduler
    except (OSError, RuntimeError) as exc:
        # distributed wraps what a start raised.
        cause = exc if isinstance(exc, OSError) else exc.__cause__
        if not isinstance(cause, OSError):
            raise
        logger.error("Cannot listen on %s: %s", config["listen"], cause)  # noqa: TRY400 - the sentence is enough
        return EXIT_CANNOT_LISTEN
    await _until_closed(scheduler, "scheduler", asked, tick=link.tick, on_stop=link.stop)
    return link.exit_code


async def run_worker(config: Mapping[str, Any]) -> int:
    """Run a worker until it closes; returns the exit status."""
    cls = _import(config.get("worker_class") or "distributed.Nanny")
    kwargs: dict[str, Any] = {**(config.get("options") or {})}
    kwargs |= {
        "name": config["node"],
        "host": _bracketed(get_address_host(config["listen"])),
        "protocol": "tls",
        "security": security(config["tls"]),
        "contact_address": config.get("contact"),
        "memory_limit": config["memory_limit"],
        "local_directory": config["directory"],
        "death_timeout": config.get("start_seconds", START_SECONDS),
        # Every worker serves HTTP; without an address it would do so on all interfaces, in plain text.
        "dashboard_address": "127.0.0.1:0",
    }
    kwargs.setdefault("nthreads", config["nthreads"])
    kwargs.setdefault("dashboard", True)
    try:
        worker = cls(config["scheduler"], **kwargs)
    except TypeError as exc:
        raise ConfigError(f"worker_options do not fit {cls.__name__}: {exc}") from None
    Dashboard(worker)
    asked = _asked_to_stop()
    begin = asyncio.ensure_future(worker.start())
    await asyncio.wait([begin, asyncio.ensure_future(asked.wait())], return_when=asyncio.FIRST_COMPLETED)
    try:
        # A worker may wait long for its scheduler: asked to stop meanwhile, it does not go on waiting.
        await (_close(worker) if asked.is_set() and not begin.done() else begin)
    except (OSError, RuntimeError) as exc:
        if not isinstance(exc, OSError) and not isinstance(exc.__cause__, OSError):
            raise
        logger.error("No scheduler at %s: %s", config["scheduler"], exc)  # noqa: TRY400 - the sentence is enough
        return EXIT_NO_SCHEDULER
    await _until_closed(worker, "worker", asked)
    return EXIT_OK


def _asked_to_stop() -> asyncio.Event:
    """Return an event that a signal to stop sets, from now on."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked.set)
    return asked


def _nothing() -> None:
    """Do nothing: a worker has nobody to tell."""


async def _until_closed(
    server: Server,
    what: str,
    asked: asyncio.Event,
    *,
    tick: Callable[[], None] | None = None,
    on_stop: Callable[[], None] = _nothing,
) -> None:
    """Wait until *server* has closed, or close it when it is *asked* to stop."""
    tasks = [asyncio.ensure_future(server.finished()), asyncio.ensure_future(asked.wait())]
    try:
        while not any(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=TICK_SECONDS if tick else None, return_when=asyncio.FIRST_COMPLETED)
            if tick:
                tick()
    finally:
        for task in tasks:
            task.cancel()
    if asked.is_set():
        logger.info("The %s was asked to stop", what)
        on_stop()
        await _close(server)


async def _close(server: Server) -> None:
    """Close *server* because it was asked to stop.

    Workers are asked when their results are elsewhere already, or when the whole cluster ends, so nothing is worth
    waiting for. A worker that its scheduler closes at the same time first tells its Nanny, so the Nanny has to listen
    until the worker has ended: its own way, to listen no more and then to wait for it, lets each wait for the other.
    """
    reason = "ropewalk-stop"
    if isinstance(server, Scheduler):
        await server.close(reason=reason)
        return
    if isinstance(server, Nanny):
        server.close_gracefully(reason=reason)  # from here on, a worker that ends is not replaced
        await server.kill(timeout=STOP_SECONDS, reason=reason)
    await server.close(reason=reason, timeout=STOP_SECONDS)


def note_exit(directory: str, status: int) -> None:
    """Leave the exit status where a control plane finds it that was not there when this process ended."""
    try:
        with open(os.path.join(directory, EXIT_FILE), "w", encoding="ascii") as file:  # noqa: PTH118, PTH123 - as above
            file.write(str(status))
    except OSError as exc:
        logger.warning("The exit status could not be written down: %s", exc)


def on_ecs(config: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Complete a configuration by what only the task knows: its id, which is the node's name, and its address."""
    uri = environ.get("ECS_CONTAINER_METADATA_URI_V4")
    if uri is None:
        raise ConfigError("ECS_CONTAINER_METADATA_URI_V4 is not set: this is no task of ECS")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever proxy the user has set
    for attempt in range(METADATA_TRIES):
        try:
            with opener.open(f"{uri}/task", timeout=METADATA_SECONDS) as answer:
                name, address = _task_of(json.load(answer))
        except (OSError, ValueError, KeyError, IndexError, TypeError) as exc:
            logger.info("ECS's metadata do not tell id and address yet: %r", exc)
            time.sleep(0.2 * 2**attempt)
            continue
        listen = f"tls://{address}:{config['port']}"
        return {**config, "node": name, "listen": listen, "directory": tempfile.mkdtemp(prefix="ropewalk-")}
    raise ConfigError("ECS's metadata do not tell id and address of this task")


def _task_of(task: Mapping[str, Any]) -> tuple[str, str]:
    """Read id and address from what the metadata endpoint says of the task."""
    addresses = [a for c in task["Containers"] for n in c.get("Networks", ()) for a in n.get("IPv4Addresses", ())]
    return str(task["TaskARN"]).rpartition("/")[2], str(addresses[0])


def run_on_ecs(config: Mapping[str, Any]) -> int:
    """Run the node that a configuration and the task's metadata describe; returns the exit status."""
    return _run(lambda: on_ecs(config, os.environ))


def main(argv: list[str], environ: Mapping[str, str]) -> int:
    """Run the node that the configuration describes; returns the exit status."""
    return _run(lambda: read_config(argv, environ))


def _run(read: Callable[[], dict[str, Any]]) -> int:
    try:
        config = read()
        dask.config.set({"temporary-directory": config["directory"]})
        os.chdir(config["directory"])
        status = asyncio.run(run_scheduler(config) if config["role"] == "scheduler" else run_worker(config))
        note_exit(config["directory"], status)
        return status  # noqa: TRY300 - what comes next is about errors
    except ConfigError as exc:
        logger.error("The node's configuration is unusable: %s", exc)  # noqa: TRY400 - the sentence is enough
        return EXIT_CONFIG
    except Exception:
        logger.exception("The node failed")
        return EXIT_CRASH


if __name__ == "__main__":
    sys.exit(main(sys.argv, os.environ))
