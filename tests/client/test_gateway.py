"""Reaching a cluster through the gateway: with Dask's own client, as second way, and what is said when that fails."""

from __future__ import annotations

import asyncio
import operator
from typing import Any

import pytest
from distributed import Client
from distributed.core import rpc
from distributed.security import Security

import ropewalk
from ropewalk.client import calls, coming_up, connect
from ropewalk.client.connect import open_cluster, security_of
from ropewalk.errors import ClusterUnreachableError
from ropewalk.schemas.clusters import Connection
from tests.client.conftest import LiveServer, configured
from tests.client.test_connect import connection, patient, pems, scheduler
from tests.support.ports import kept_port
from tests.support.waiting import PATIENCE

__all__ = ["patient", "pems"]  # fixtures


def test_dasks_client_works_through_the_gateway_as_it_does_directly(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def only_gateway(found: Connection, *rest: Any) -> rpc:
        return await open_cluster(found.model_copy(update={"direct": False}), *rest)

    monkeypatch.setattr(coming_up, "open_cluster", only_gateway)
    with configured(server), ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster:
        with server.api() as api:
            gateway = api(calls.get_connection("ada", cluster.name)).gateway_address
        assert gateway is not None
        assert cluster.scheduler_address == gateway
        with Client(cluster) as client:
            assert client.submit(sum, client.map(operator.neg, range(100))).result() == -4950
            blob = bytes(range(256)) * 40_000
            assert client.submit(len, client.scatter(blob)).result() == len(blob)
            assert client.gather(client.scatter(blob[::-1])) == blob[::-1]
        cluster.scale(2)
        with cluster.get_client() as client:
            client.wait_for_workers(2, timeout=60)


async def test_an_address_that_nobody_answers_at_leads_to_the_gateway(
    pems: Security, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connect, "DIRECT_SECONDS", 0.5)
    said: list[str] = []
    with kept_port() as closed:
        found = connection(pems, f"tls://127.0.0.1:{closed}")
        async with scheduler(pems) as address:
            found = found.model_copy(update={"gateway_address": address})
            channel = await open_cluster(found, security_of(found), PATIENCE, said.append)
            try:
                assert (await channel.identity())["type"] == "Scheduler"
            finally:
                await channel.close_rpc()
    assert said == [f"Connecting to {found.scheduler_address}", f"Connecting through the gateway {address}"]


async def test_a_scheduler_that_is_not_directly_reachable_is_not_tried_directly(pems: Security) -> None:
    said: list[str] = []
    async with scheduler(pems) as address:
        found = connection(pems, "tls://scheduler.namespace.svc:8786")
        found = found.model_copy(update={"gateway_address": address, "direct": False})
        channel = await open_cluster(found, security_of(found), PATIENCE, said.append)
        await channel.close_rpc()
    assert said == [f"Connecting through the gateway {address}"]


async def test_an_impostor_at_the_direct_address_is_no_reason_to_go_on_quietly(pems: Security) -> None:
    async with scheduler(Security.temporary()) as impostor, scheduler(pems) as gateway:
        found = connection(pems, impostor).model_copy(update={"gateway_address": gateway})
        with pytest.raises(ClusterUnreachableError, match="is not of this cluster"):
            await open_cluster(found, security_of(found), 5, lambda _: None)


async def _failure(pems: Security, answer: bytes | None, *, direct: bool = False) -> ClusterUnreachableError:
    async def say(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is not None:
            writer.write(answer)
        writer.close()

    with kept_port() as closed:
        return await _failure_of(pems, f"tls://127.0.0.1:{closed}", say, direct=direct)


async def _failure_of(pems: Security, address: str, say: Any, *, direct: bool) -> ClusterUnreachableError:
    async with await asyncio.start_server(say, "127.0.0.1", 0) as gateway:
        port = gateway.sockets[0].getsockname()[1]
        found = connection(pems, address)
        found = found.model_copy(update={"gateway_address": f"tls://127.0.0.1:{port}", "direct": direct})
        with pytest.raises(ClusterUnreachableError) as caught:
            await open_cluster(found, security_of(found), 0.5, lambda _: None)
    return caught.value


async def test_a_gateway_that_does_not_know_the_cluster_says_so(pems: Security) -> None:
    error = await _failure(pems, b"\x15\x03\x03\x00\x02\x02\x70")
    assert "knows no live cluster" in str(error)
    assert error.details["hop"] == "gateway-to-scheduler"


async def test_a_gateway_that_cannot_reach_the_scheduler_says_so(pems: Security) -> None:
    error = await _failure(pems, b"\x15\x03\x03\x00\x02\x02\x50")
    assert "cannot reach the scheduler behind it" in str(error)


async def test_when_both_ways_fail_both_reasons_are_told(pems: Security) -> None:
    error = await _failure(pems, b"HTTP/1.1 400 Bad Request\r\n\r\n", direct=True)
    assert error.message.startswith("The gateway at tls://127.0.0.1")
    assert "refused the connection" in error.message
    assert error.details["hop"] == "gateway"
    assert error.advice
