"""Connecting to a scheduler: which hop failed, told against real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest
from distributed import Scheduler
from distributed.security import Security

from ropewalk.client import connect
from ropewalk.client.connect import open_scheduler, security_of
from ropewalk.errors import ClusterUnreachableError
from ropewalk.schemas.clusters import Connection
from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="module")
def pems() -> Security:
    security: Security = Security.temporary()
    return security


def connection(pems: Any, address: str = "tls://127.0.0.1:1") -> Connection:
    return Connection(
        scheduler_address=address,
        ca=str(pems.tls_ca_file),
        cert=str(pems.tls_client_cert),
        key=str(pems.tls_client_key),
        versions={},
    )


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No hop that works fails because the machine is busy."""
    monkeypatch.setattr(connect, "HOP_SECONDS", PATIENCE)


@asynccontextmanager
async def scheduler(pems: Security) -> AsyncIterator[str]:
    async with Scheduler(
        host="127.0.0.1", port=0, protocol="tls", security=pems, dashboard=False, dashboard_address=":0"
    ) as running:
        yield running.address


async def failure(address: str, pems: Security, patience: float = 0.5) -> ClusterUnreachableError:
    with pytest.raises(ClusterUnreachableError) as caught:
        await open_scheduler(address, security_of(connection(pems)), patience)
    assert address in str(caught.value)
    assert caught.value.advice
    return caught.value


def test_keys_stay_in_memory_and_are_not_shown(pems: Security) -> None:
    security = security_of(connection(pems))
    assert security.require_encryption
    assert "PRIVATE KEY" not in repr(security)


async def test_a_scheduler_is_connected_to_with_mutual_tls(pems: Security) -> None:
    async with scheduler(pems) as address:
        channel = await open_scheduler(address, security_of(connection(pems)), PATIENCE)
        try:
            assert (await channel.identity())["type"] == "Scheduler"
        finally:
            await channel.close_rpc()


async def test_a_name_that_is_not_known_is_the_first_hop(pems: Security) -> None:
    error = await failure("tls://no-such-host.invalid:8786", pems)
    assert error.details["hop"] == "dns"
    assert "no-such-host.invalid" in str(error)


async def test_a_port_that_nobody_listens_on_is_the_second_hop(pems: Security) -> None:
    with kept_port() as closed:
        error = await failure(f"tls://127.0.0.1:{closed}", pems)
    assert error.details["hop"] == "tcp"
    assert "refused" in str(error)


@pytest.mark.parametrize(("host", "advice"), [("127.0.0.1", "firewall"), ("10.1.2.3", "private address")])
async def test_packets_that_are_dropped_are_told(
    pems: Security, monkeypatch: pytest.MonkeyPatch, host: str, advice: str
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(connect, "HOP_SECONDS", 0.05)
    monkeypatch.setattr(asyncio, "open_connection", never)
    error = await connect.diagnose(f"tls://{host}:8786", {}, TimeoutError())
    assert error.details["hop"] == "tcp"
    assert "did not answer" in str(error)
    assert advice in str(error)


async def test_something_else_that_answers_is_the_third_hop(pems: Security) -> None:
    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(f"tls://127.0.0.1:{port}", pems)
    assert error.details["hop"] == "tls"
    assert "proxy" in str(error)


async def test_another_clusters_certificate_is_told(pems: Security) -> None:
    async with scheduler(Security.temporary()) as address:
        error = await failure(address, pems)
    assert error.details["hop"] == "tls"
    assert "is not of this cluster" in str(error)


async def test_a_scheduler_that_does_not_greet_is_the_last_hop(pems: Security, monkeypatch: pytest.MonkeyPatch) -> None:
    greet = connect._greet

    def hurried(address: str, arguments: dict[str, Any]) -> Coroutine[Any, Any, None]:
        monkeypatch.setattr(connect, "HOP_SECONDS", 0.3)  # not before: TLS works, however long it takes
        return greet(address, arguments)

    monkeypatch.setattr(connect, "_greet", hurried)
    context = pems.get_listen_args("scheduler")["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    quit_ = asyncio.Event()

    async def mute(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await quit_.wait()
        writer.close()

    async with await asyncio.start_server(mute, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(f"tls://127.0.0.1:{port}", pems)
        quit_.set()
    assert error.details["hop"] == "dask"
    assert "no Dask scheduler answers" in str(error)


async def test_a_fault_that_has_passed_is_told_as_that(pems: Security) -> None:
    async with scheduler(pems) as address:
        arguments = security_of(connection(pems)).get_connection_args("client")
        error = await connect.diagnose(address, arguments, OSError("a blip"))
    assert "works now" in str(error)
    assert "a blip" in str(error)
