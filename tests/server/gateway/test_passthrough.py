"""The gateway to schedulers, on real sockets: who is carried where, who is refused, that nothing is mixed or lost."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field

import pytest
from fastapi import FastAPI

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.backends.port import NodeHandle
from ropewalk.backends.simulated import server_context
from ropewalk.errors import TryAgainError
from ropewalk.schemas.clusters import Connection
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.clusters.connector import tls_context
from ropewalk.server.clusters.secret import open_secret
from ropewalk.server.db.models import Cluster
from ropewalk.server.gateway import passthrough, routes
from ropewalk.server.gateway.passthrough import Gateway
from ropewalk.server.gateway.routes import Route, Routes
from tests.server.gateway.conftest import Dashboards
from tests.support.waiting import PATIENCE, eventually

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]

UNKNOWN = b"\x15\x03\x03\x00\x02\x02\x70"
UNREACHABLE = b"\x15\x03\x03\x00\x02\x02\x50"


class Elsewhere(MemoryBackend):
    """Clusters in memory whose schedulers' ports are a program of the test's."""

    def __init__(self, cloud: MemoryCloud) -> None:
        super().__init__(cloud)
        self.port: int | None = None
        self.refuse: Exception | None = None
        self.asked: list[str] = []

    async def connect(self, scheduler: NodeHandle, address: str) -> Stream:
        task = asyncio.current_task()
        if task is None or task.get_name() != "gateway-connection":
            # The control plane's own, which come when they like, and are neither carried nor counted here.
            return await super().connect(scheduler, address)
        self.asked.append(scheduler.cluster)
        if self.refuse is not None:
            raise self.refuse
        if self.port is None:
            return await super().connect(scheduler, address)
        return await asyncio.open_connection("127.0.0.1", self.port)


@dataclass
class Scheduler:
    """A server that stands for a scheduler's port: plain TCP, or TLS."""

    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
    ssl: ssl.SSLContext | None = None
    port: int = 0
    ended: int = 0
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Scheduler]:
        server = await asyncio.start_server(self._accepted, "127.0.0.1", 0, backlog=2048, ssl=self.ssl)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for task in self.tasks:
                task.cancel()
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._run(reader, writer))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def _run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self.serve(reader, writer)
        finally:
            self.ended += 1
            writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def answer_after_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()
    writer.write(f"{len(data)} bytes".encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def deaf(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await asyncio.Event().wait()


def hello(name: str | None) -> bytes:
    """Return the first message of a TLS client that asks for *name*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


@dataclass
class Door:
    """The gateway, and clusters behind it."""

    gateway: Gateway
    port: int
    clusters: Dashboards
    backend: Elsewhere
    opened: list[asyncio.StreamWriter] = field(default_factory=list)

    async def open(self) -> Stream:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer

    async def ask(self, name: str | None) -> Stream:
        """Connect and ask for *name*; what follows is the test's."""
        reader, writer = await self.open()
        writer.write(hello(name))
        return reader, writer

    async def said_to(self, data: bytes, *, end: bool = False) -> bytes:
        """Return everything that somebody gets who sends *data*."""
        reader, writer = await self.open()
        writer.write(data)
        if end:
            writer.write_eof()
        try:
            return await asyncio.wait_for(reader.read(), PATIENCE)
        finally:
            writer.transport.abort()

    async def connection(self, name: str) -> Connection:
        answer = await self.clusters.ada.client.get(f"/api/v1/accounts/ada/clusters/{name}/connection")
        assert answer.status_code == 200, answer.text
        return Connection.model_validate(answer.json())


@pytest.fixture
def backend(cloud: MemoryCloud) -> Elsewhere:
    return Elsewhere(cloud)


@pytest.fixture
def backends(backend: Elsewhere) -> Backends:
    return Backends(overrides={"local": backend})


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "REFUSE_SECONDS", 0.05)
    # Who is slow is the machine.
    monkeypatch.setattr(passthrough, "HELLO_SECONDS", PATIENCE)
    monkeypatch.setattr(passthrough, "CONNECT_SECONDS", PATIENCE)


@pytest.fixture
async def door(app: FastAPI, dashboards: Dashboards, backend: Elsewhere, quick: None) -> AsyncIterator[Door]:
    listener = socket.create_server(("127.0.0.1", 0), backlog=2048)
    context = app.state.context
    context.settings = context.settings.with_gateway(listener.getsockname()[1])
    gateway = Gateway(context)
    await gateway.start(listener)
    made = Door(gateway, listener.getsockname()[1], dashboards, backend)
    yield made
    for writer in made.opened:
        writer.transport.abort()
    await gateway.stop()


async def _handshake(door: Door, connection: Connection, name: str | None) -> str:
    """Do TLS through the gateway with the certificate in *connection*; returns the common name of who answered."""
    context = tls_context(connection.model_dump())
    _, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=context, server_hostname=name or "")
    subject = dict(part[0] for part in writer.get_extra_info("peercert")["subject"])
    writer.transport.abort()
    return str(subject["commonName"])


async def test_the_connection_says_where_the_gateway_is_and_which_name_to_ask_for(door: Door) -> None:
    cluster = await door.clusters.cluster()
    connection = await door.connection("c")
    assert connection.gateway_address == f"tls://127.0.0.1:{door.port}"
    assert connection.server_name == f"scheduler.{cluster}.ropewalk"


async def test_a_client_meets_the_scheduler_itself_with_its_own_certificate(door: Door) -> None:
    await door.clusters.cluster()
    connection = await door.connection("c")
    assert await _handshake(door, connection, connection.server_name) == "ropewalk-scheduler"


async def test_each_name_leads_to_its_own_cluster(door: Door) -> None:
    first, second = await door.clusters.cluster("one"), await door.clusters.cluster("two")
    for name in ("one", "two", "one"):
        connection = await door.connection(name)
        # The certificate that answers is checked against the name and the authority of that cluster.
        assert await _handshake(door, connection, connection.server_name) == "ropewalk-scheduler"
    assert door.backend.asked[-3:] == [first, second, first]


async def test_a_certificate_of_one_cluster_is_useless_on_another(app: FastAPI, door: Door) -> None:
    await door.clusters.cluster("mine")
    theirs = await door.clusters.cluster("other")
    mine, other = await door.connection("mine"), await door.connection("other")
    async with app.state.context.db.read() as session:
        row = await session.get_one(Cluster, theirs)
    certificates = open_secret(app.state.context.vault, row).certificates
    async with Scheduler(echo, ssl=server_context(certificates.for_role("scheduler"))).running() as scheduler:
        door.backend.port = scheduler.port
        assert await _ping(door, other, other.server_name) == b"ping"
        # My key, but the other's authority: I would believe the scheduler, and it must not believe me.
        thief = mine.model_copy(update={"ca": other.ca})
        with contextlib.suppress(ssl.SSLError, ConnectionResetError, BrokenPipeError):
            assert await _ping(door, thief, other.server_name) == b"", "the scheduler answered"


async def _ping(door: Door, connection: Connection, name: str | None) -> bytes:
    """Return what comes back through TLS with the certificate in *connection*; nothing, if the connection ends."""
    context = tls_context(connection.model_dump())
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port, ssl=context, server_hostname=name)
    try:
        writer.write(b"ping")
        return await asyncio.wait_for(reader.read(4), PATIENCE)
    finally:
        writer.transport.abort()


async def test_whatever_is_not_for_a_live_cluster_gets_the_same_answer(door: Door) -> None:
    gone = await door.clusters.cluster("gone")
    stopped = await door.clusters.ada.client.delete("/api/v1/accounts/ada/clusters/gone")
    assert stopped.status_code == 200
    names = [
        "scheduler.c-aaaaaaaaaaaa.ropewalk",
        f"scheduler.{gone}.ropewalk",
        f"worker.{gone}.ropewalk",
        f"{gone}.ropewalk",
        f"scheduler.{gone}.ropewalk.evil.example",
        "example.org",
        None,
    ]
    answers = {name: await door.said_to(hello(name)) for name in names}
    assert answers == dict.fromkeys(names, UNKNOWN)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: scheduler\r\n\r\n",
        b"\x00" * 64,
        b"\x16\x03\x01\xff\xff" + b"\x01" * 20_000,
        b"SSH-2.0-OpenSSH_9.2\r\n",
        hello("scheduler.c-aaaaaaaaaaaa.ropewalk")[:-20],
        b"",
    ],
    ids=["http", "zeros", "a record too long", "ssh", "half a greeting", "nothing"],
)
async def test_what_is_not_tls_gets_that_answer_too(door: Door, data: bytes) -> None:
    assert await door.said_to(data, end=True) == UNKNOWN
    assert door.backend.asked == [], "it must not reach a cluster"


async def test_no_refusal_comes_before_its_time_whatever_its_reason(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passthrough, "REFUSE_SECONDS", 0.4)
    for data in (b"GET / HTTP/1.1\r\n\r\n", hello("scheduler.c-aaaaaaaaaaaa.ropewalk"), hello(None)):
        began = time.monotonic()
        assert await door.said_to(data) == UNKNOWN
        assert time.monotonic() - began >= 0.4


async def test_who_says_nothing_is_refused(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passthrough, "HELLO_SECONDS", 0.05)
    assert await door.said_to(b"") == UNKNOWN


async def test_a_scheduler_that_cannot_be_reached_is_told_from_an_unknown_name(door: Door) -> None:
    cluster = await door.clusters.cluster()
    door.backend.refuse = TryAgainError("no route", advice="wait")
    assert await door.said_to(hello(f"scheduler.{cluster}.ropewalk")) == UNREACHABLE
    door.backend.refuse = ConnectionRefusedError("refused")
    assert await door.said_to(hello(f"scheduler.{cluster}.ropewalk")) == UNREACHABLE


async def test_bytes_arrive_whole_and_in_order_both_ways(door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        greeting, blob = hello(name), bytes(range(256)) * 32_768
        reader, writer = await door.open()
        # The greeting in pieces: it may arrive in any number of packets.
        for piece in (greeting[:1], greeting[1:7], greeting[7:]):
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        sending = asyncio.create_task(_send(writer, blob))
        got = await asyncio.wait_for(reader.readexactly(len(greeting) + len(blob)), PATIENCE)
        await sending
        assert got == greeting + blob
        writer.transport.abort()


async def _send(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(data)
    await writer.drain()
    writer.write_eof()


async def test_one_side_may_end_while_the_other_goes_on(door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(answer_after_the_end).running() as scheduler:
        door.backend.port = scheduler.port
        greeting = hello(name)
        assert await door.said_to(greeting + b"x" * 1000, end=True) == f"{len(greeting) + 1000} bytes".encode()


async def test_a_side_that_does_not_read_holds_up_its_own_connection_only(door: Door) -> None:
    slow = await door.clusters.cluster("slow")
    quick = await door.clusters.cluster("quick")
    async with Scheduler(deaf).running() as scheduler, Scheduler(echo).running() as other:
        door.backend.port = scheduler.port
        _, writer = await door.ask(f"scheduler.{slow}.ropewalk")
        sent = await _send_until_held_up(writer)
        assert sent < 64 * 2**20, "it was taken without end: somebody keeps it in memory"
        door.backend.port = other.port
        greeting = hello(f"scheduler.{quick}.ropewalk")
        assert await door.said_to(greeting + b"still here", end=True) == greeting + b"still here"
        writer.transport.abort()


async def _send_until_held_up(writer: asyncio.StreamWriter) -> int:
    """Send until nothing more is taken; returns the bytes."""
    chunk = b"x" * 2**20
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 256 * 2**20:
            writer.write(chunk)
            async with asyncio.timeout(2):
                await writer.drain()
            sent += len(chunk)
    return sent


async def test_when_a_client_vanishes_its_connection_to_the_scheduler_ends(door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        reader, writer = await door.ask(name)
        await reader.readexactly(1)
        writer.transport.abort()
        await eventually(lambda: scheduler.ended == 1)
        await eventually(lambda: not door.gateway._open)


async def test_when_the_scheduler_dies_its_clients_are_told(door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"

    async def die(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    async with Scheduler(die).running() as scheduler:
        door.backend.port = scheduler.port
        reader, writer = await door.ask(name)
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.transport.abort()
        await eventually(lambda: not door.gateway._open)


async def test_a_connection_on_which_nothing_moves_is_ended_after_the_idle_time(app: FastAPI, door: Door) -> None:
    context = app.state.context
    context.settings = context.settings.model_copy(update={"gateway_idle_seconds": 0.2})
    listener = socket.create_server(("127.0.0.1", 0))
    gateway = Gateway(context)
    await gateway.start(listener)
    try:
        name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
        async with Scheduler(echo).running() as scheduler:
            door.backend.port = scheduler.port
            reader, writer = await asyncio.open_connection("127.0.0.1", listener.getsockname()[1])
            door.opened.append(writer)
            writer.write(hello(name))
            with contextlib.suppress(ConnectionResetError):
                await asyncio.wait_for(reader.read(), PATIENCE)
            await eventually(lambda: scheduler.ended == 1)
    finally:
        await gateway.stop()


async def test_no_more_connections_than_allowed_are_carried_at_once(app: FastAPI, door: Door) -> None:
    context = app.state.context
    context.settings = context.settings.model_copy(update={"gateway_connections": 1})
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        reader, writer = await door.ask(name)
        await reader.readexactly(1)
        with contextlib.suppress(ConnectionResetError):
            assert await door.said_to(hello(name)) == b""
        writer.transport.abort()
        await eventually(lambda: not door.gateway._open)
        assert await _echoed(door, name)


async def _echoed(door: Door, name: str) -> bytes:
    reader, writer = await door.open()
    greeting = hello(name)
    writer.write(greeting)
    got = await reader.readexactly(len(greeting))
    writer.transport.abort()
    return got


@pytest.fixture
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_thousand_connections_do_not_mix(door: Door, many_files: None) -> None:
    names = [f"scheduler.{await door.clusters.cluster(f'c{n}')}.ropewalk" for n in range(4)]
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        streams: list[tuple[bytes, Stream]] = []
        greetings = [hello(name) for name in names]
        for number in range(1000):
            said = greetings[number % 4] + f"I am number {number:04d}".encode()
            reader, writer = await door.open()
            writer.write(said)
            streams.append((said, (reader, writer)))
        # All are open now, and each gets back what it said itself.
        for expected, (reader, _) in streams:
            assert await asyncio.wait_for(reader.readexactly(len(expected)), PATIENCE) == expected
        assert len(door.gateway._relays) == 1000
        for _, (_, writer) in streams:
            writer.transport.abort()
        await eventually(lambda: not door.gateway._open and scheduler.ended == 1000)


async def test_stopping_ends_every_connection_and_leaves_no_task(door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        reader, writer = await door.ask(name)
        await reader.readexactly(1)
        _, silent = await door.open()
        await eventually(lambda: len(door.gateway._open) == 2)
        await door.gateway.stop()
        await eventually(lambda: scheduler.ended == 1)
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("gateway")]
        writer.transport.abort()
        silent.transport.abort()


async def test_a_crowd_that_asks_for_one_name_costs_one_look_into_the_database(
    app: FastAPI, door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    look_up = Routes._look_up

    async def counted(self: Routes, cluster_id: str) -> Route | None:
        looks.append(cluster_id)
        return await look_up(self, cluster_id)

    monkeypatch.setattr(Routes, "_look_up", counted)
    monkeypatch.setattr(routes, "KEPT_SECONDS", 3600.0)
    greeting = hello("scheduler.c-aaaaaaaaaaaa.ropewalk")
    answers = await asyncio.gather(*(door.said_to(greeting) for _ in range(50)))
    assert set(answers) == {UNKNOWN}
    assert looks == ["c-aaaaaaaaaaaa"]


async def test_what_it_carries_and_refuses_is_counted(app: FastAPI, door: Door) -> None:
    name = f"scheduler.{await door.clusters.cluster()}.ropewalk"
    async with Scheduler(echo).running() as scheduler:
        door.backend.port = scheduler.port
        got = await _echoed(door, name)
        await door.said_to(b"GET / HTTP/1.1\r\n\r\n")
        await door.said_to(hello("example.org"))
        metrics = app.state.context.metrics.render().decode()
    assert f'ropewalk_gateway_bytes_total{{direction="out"}} {float(len(got))}' in metrics
    assert 'ropewalk_gateway_refused_total{reason="not_tls"} 1.0' in metrics
    assert 'ropewalk_gateway_refused_total{reason="unknown_name"} 1.0' in metrics
