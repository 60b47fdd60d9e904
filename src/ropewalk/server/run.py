"""Running a server until somebody stops it: one process, one event loop, orderly at both ends."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime

import psutil
import structlog
import uvicorn
from fastapi import FastAPI

from ropewalk._version import __version__
from ropewalk.errors import SettingsError
from ropewalk.server.app import create_app
from ropewalk.server.clock import SystemClock
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.cloud_accounts.report import reported
from ropewalk.server.context import Context
from ropewalk.server.datadir import announced, make_data_dir, only_server
from ropewalk.server.db.engine import Database
from ropewalk.server.gateway.passthrough import Gateway
from ropewalk.server.gateway.sockets import MAX_MESSAGE
from ropewalk.server.logs import configure_logs
from ropewalk.server.settings import Settings
from ropewalk.server.setup import check_schema, open_vault, prepare
from ropewalk.server.wakeups import Wakeups

DRAIN_SECONDS = 10
"""How long requests may take to end once the server is asked to stop; streams end at once."""
BACKLOG = 2048
GATEWAY_PORT = 8786
"""Where people look for a Dask scheduler."""
OPEN_FILES = 65_536
_ANY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound

log = structlog.get_logger(__name__)


class _Server(uvicorn.Server):
    """Uvicorn without its handling of signals, which ends the process before we have put things in order."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


def run(settings: Settings, *, migrate_now: bool = False, ready: Callable[[Settings], None]) -> None:
    """Serve until SIGTERM or SIGINT; clusters keep running afterwards.

    Args:
        settings: What to serve.
        migrate_now: Bring an older PostgreSQL database to this version's schema.
        ready: Called with the settings that hold (the port is known by now) once requests are answered.

    Raises:
        RopewalkError: It cannot start.
    """
    configure_logs(settings.log_level, settings.log_format)
    make_data_dir(settings)
    _raise_open_files()
    with only_server(settings), _listening(settings) as listener:
        if settings.host in _ANY_ADDRESS and "public_url" not in settings.model_fields_set:
            log.warning("public_url.unset", hint="other machines cannot use it: set public_url to what users type")
        settings = settings.on_port(listener.getsockname()[1])
        with _gateway_listening(settings) as gateway:
            settings = settings.with_gateway(gateway.getsockname()[1])
            asyncio.run(_serve(settings, listener, gateway, migrate_now=migrate_now, ready=ready))


async def _serve(
    settings: Settings,
    listener: socket.socket,
    gateway: socket.socket,
    *,
    migrate_now: bool,
    ready: Callable[[Settings], None],
) -> None:
    began = time.monotonic()
    app = create_app(settings, migrate_now=migrate_now)
    config = uvicorn.Config(
        app,
        lifespan="off",  # entered here: what goes wrong in it is an error of the command, not a line in a log
        log_config=None,
        access_log=False,
        server_header=False,
        ws="websockets-sansio",  # dashboards are live
        ws_max_size=MAX_MESSAGE,
        ws_per_message_deflate=False,
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    with ExitStack() as stack:

        def started() -> None:
            stack.enter_context(announced(settings, datetime.now(UTC)))
            log.info(
                "server.ready",
                url=settings.public_url,
                gateway=settings.gateway_address,
                seconds=round(time.monotonic() - began, 2),
            )
            ready(settings)

        server = _Server(config, started)
        _stop_on_signals(server, app)
        log.info("server.starting", version=__version__, data_dir=str(settings.data_dir))
        async with (
            app.router.lifespan_context(app),
            reported(app.state.context),
            _gateway(app.state.context, gateway),
        ):
            await server.serve(sockets=[listener])
            log.info("server.stopping")
    log.info("server.stopped", hint="clusters keep running; the next start takes them over")


@asynccontextmanager
async def _gateway(context: Context, listener: socket.socket) -> AsyncIterator[None]:
    """Carry clients to clusters for the time of the block."""
    gateway = Gateway(context)
    await gateway.start(listener)
    try:
        yield
    finally:
        await gateway.stop()


def _stop_on_signals(server: uvicorn.Server, app: FastAPI) -> None:
    """Stop *server* on SIGTERM and SIGINT, in order; a second SIGINT does not wait for open requests."""

    def stop(number: signal.Signals) -> None:
        context: Context | None = getattr(app.state, "context", None)
        if context is not None:
            context.stopping.set()
            context.wakeups.wake_all()
        server.handle_exit(number, None)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


@contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    """Take the port, so that it is known and nobody else gets it; requests are accepted later."""
    listener = _bind(settings.host, settings.port)
    try:
        yield listener
    finally:
        listener.close()


@contextmanager
def _gateway_listening(settings: Settings) -> Iterator[socket.socket]:
    """Take the gateway's port: the one that was asked for, or else the usual one or any."""
    if settings.gateway_port is not None:
        listener = _bind(settings.gateway_host, settings.gateway_port, "gateway_")
    else:
        try:
            listener = _bind(settings.gateway_host, GATEWAY_PORT, "gateway_")
        except SettingsError as exc:
            if exc.field != "gateway_port":
                raise
            listener = _bind(settings.gateway_host, 0, "gateway_")
            log.warning("gateway.port_taken", port=GATEWAY_PORT, hint="set gateway_port to one that stays the same")
    try:
        yield listener
    finally:
        listener.close()


def _raise_open_files() -> None:
    """Use all the open files that the machine allows: each connection through the gateway takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _bind(host: str, port: int, prefix: str = "") -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError):
        raise SettingsError(
            f"The host {host!r} is not an address of this machine.",
            advice="Use 127.0.0.1 for this machine only, or 0.0.0.0 for all its addresses.",
            field=f"{prefix}host",
        ) from None
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Connections of a server that was just stopped linger; they must not keep the port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as exc:
        listener.close()
        raise _not_bound(host, port, exc, prefix) from None
    return listener


def _not_bound(host: str, port: int, exc: OSError, prefix: str) -> SettingsError:
    field = f"{prefix}port"
    flag = f"--{field.replace('_', '-')}"
    if isinstance(exc, PermissionError):
        return SettingsError(
            f"Port {port} may not be taken by this user: {exc.strerror}.",
            advice=f"Use {flag} with a number above 1023.",
            field=field,
        )
    other = f"Use another one with {flag}, or {flag} 0 for any that is free."
    user = _port_user(port)
    if user is None:
        why = f"Port {port} of {host} cannot be taken: {exc.strerror}."
        return SettingsError(why, advice=f"See who has it: ss -ltnp 'sport = :{port}'. {other}", field=field)
    return SettingsError(
        f"Port {port} of {host} is in use already, by {user}.", advice=f"Stop that, or: {other}", field=field
    )


def _port_user(port: int) -> str | None:
    """Return the process that listens on *port*, if this user may know."""
    with contextlib.suppress(psutil.Error, OSError):
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr[1:] == (port,) and connection.pid:
                return f"{psutil.Process(connection.pid).name()} (process {connection.pid})"
    return None


@asynccontextmanager
async def maintenance(settings: Settings, *, migrate_now: bool = False) -> AsyncIterator[Context]:
    """Give a context without a server around it, for the commands that work on the database directly."""
    make_data_dir(settings)
    clock, db = SystemClock(), Database(settings.database_url)
    backends = Backends()
    try:
        await check_schema(db, migrate_now=migrate_now)
        vault = await open_vault(settings, db, clock.now())
        backends.bind(db, settings, vault)
        context = Context(settings, db, vault, clock, backends, Wakeups(db))
        await prepare(context)
        yield context
    finally:
        try:
            await backends.close()
        finally:
            await db.close()
