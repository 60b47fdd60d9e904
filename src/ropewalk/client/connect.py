"""From a connection description to an open, mutually authenticated channel to a scheduler; and if not, why not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from contextlib import suppress
from typing import Any, cast

from distributed.comm import connect as dask_connect
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.core import rpc
from distributed.security import Security

from ropewalk.errors import ClusterUnreachableError
from ropewalk.schemas.clusters import Connection

__all__ = ["diagnose", "open_scheduler", "security_of"]

HOP_SECONDS = 5.0
"""For one hop of a diagnosis. A TCP connection takes at most a second round the world; this allows two retries."""


def security_of(connection: Connection) -> Security:
    """Return the TLS settings of a client of that one cluster; the keys stay in memory."""
    return Security(
        require_encryption=True,
        tls_ca_file=connection.ca,
        tls_client_cert=connection.cert,
        tls_client_key=connection.key,
    )


async def open_scheduler(address: str, security: Security, patience: float) -> rpc:
    """Return a channel to the scheduler at *address*, connected within *patience* seconds.

    Raises:
        ClusterUnreachableError: says which hop failed: name, TCP, TLS or Dask's own greeting.
    """
    arguments = security.get_connection_args("client")
    channel = rpc(address, timeout=patience, connection_args=arguments)
    try:
        # Dask's own time-out does not cover the exchange of greetings.
        async with asyncio.timeout(patience + 1):
            comm = await channel.live_comm()
    except OSError as exc:
        await channel.close_rpc()
        raise await diagnose(address, arguments, exc) from exc
    except BaseException:
        await channel.close_rpc()
        raise
    pool: dict[Any, bool] = cast("Any", channel.comms)
    pool[comm] = True  # back to the pool: the next call uses it
    return channel


async def diagnose(address: str, arguments: dict[str, Any], failure: BaseException) -> ClusterUnreachableError:
    """Walk the hops to *address* one by one and return what is wrong with the first that fails."""
    host, port = parse_host_port(parse_address(address)[1])
    where = f"{host}:{port}"
    try:
        found = await asyncio.wait_for(_resolve(host, port), HOP_SECONDS)
    except OSError as exc:
        return _error("dns", f"the name {host!r} cannot be resolved ({_text(exc)})", _ADVICE["dns"], address)
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), HOP_SECONDS)
    except OSError as exc:
        return _tcp_error(exc, where, found, address)
    await _drop(writer)
    try:
        await asyncio.wait_for(_tls(host, port, arguments["ssl_context"]), HOP_SECONDS)
    except OSError as exc:
        return _tls_error(exc, where, address)
    try:
        await asyncio.wait_for(_greet(address, arguments), HOP_SECONDS)
    except OSError as exc:
        why = f"TLS with {where} works, but no Dask scheduler answers there ({_text(exc)})"
        return _error("dask", why, _ADVICE["dask"], address)
    return _error("dask", f"the connection failed ({_text(failure)}), and works now", "Try again.", address)


_ADVICE = {
    "dns": "Check the name server of this machine; a cluster in a private network may need its VPN.",
    "refused": "The scheduler has ended or is not there yet: `ropewalk cluster show` and `ropewalk cluster logs` tell.",
    "dropped": "A firewall, a security group or a missing route drops the packets on the way.",
    "private": "That is a private address: only machines of the same network, or with a VPN into it, reach it.",
    "tls": "Something in between answers instead of the scheduler (a proxy?), or TLS is cut off on the way.",
    "certificate": "Another program or another cluster answers there; connect again to get the present address.",
    "dask": "The scheduler may be overloaded or stuck: look at its log with `ropewalk cluster logs`.",
}


def _error(hop: str, why: str, advice: str, address: str) -> ClusterUnreachableError:
    return ClusterUnreachableError(
        f"The scheduler at {address} cannot be reached: {why}.",
        advice=advice,
        details={"hop": hop, "address": address},
    )


def _tcp_error(exc: BaseException, where: str, found: list[str], address: str) -> ClusterUnreachableError:
    if isinstance(exc, ConnectionRefusedError):
        return _error("tcp", f"{where} refused the connection", _ADVICE["refused"], address)
    private = [each for each in found if _is_private(each)]
    if isinstance(exc, TimeoutError):  # comes first: it is an OSError, too
        why = f"{where} did not answer within {HOP_SECONDS:g} s"
    else:
        why = f"no connection to {where} ({_text(exc)})"
    return _error("tcp", why, _ADVICE["private" if private else "dropped"], address)


def _tls_error(exc: BaseException, where: str, address: str) -> ClusterUnreachableError:
    if isinstance(exc, ssl.SSLCertVerificationError):
        why = f"the certificate shown by {where} is not of this cluster ({exc.verify_message})"
        return _error("tls", why, _ADVICE["certificate"], address)
    return _error("tls", f"{where} is there, but TLS with it failed ({_text(exc)})", _ADVICE["tls"], address)


def _is_private(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return parsed.is_private and not parsed.is_loopback


def _text(exc: BaseException) -> str:
    if isinstance(exc, TimeoutError) and not str(exc):
        return "no answer in time"
    return (str(exc) or type(exc).__name__).replace("\n", " ")[:300]


async def _resolve(host: str, port: int) -> list[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return sorted({str(each[4][0]) for each in found})


async def _tls(host: str, port: int, context: ssl.SSLContext) -> None:
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname="")
    await _drop(writer)


async def _greet(address: str, arguments: dict[str, Any]) -> None:
    comm = await dask_connect(address, timeout=HOP_SECONDS, **arguments)
    await comm.close()


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
