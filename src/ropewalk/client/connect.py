"""From a connection description to an open, mutually authenticated channel to a scheduler; and if not, why not."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast
from weakref import WeakKeyDictionary

from distributed.comm import connect as dask_connect
from distributed.comm.addressing import parse_address, parse_host_port
from distributed.core import rpc
from distributed.security import Security

from ropewalk.errors import ClusterUnreachableError
from ropewalk.schemas.clusters import Connection

__all__ = ["diagnose", "open_cluster", "open_scheduler", "security_of"]

HOP_SECONDS = 5.0
"""For one hop of a diagnosis. A TCP connection takes at most a second round the world; this allows two retries."""


DIRECT_SECONDS = 5.0
"""For the scheduler's own address, where there is another way: a firewall that drops packets never says so."""


class ClusterSecurity(Security):
    """TLS settings of a client of one cluster; they say which cluster is meant, so that a gateway can route."""

    def __init__(self, server_name: str | None, **settings: Any) -> None:
        super().__init__(**settings)
        self.server_name = server_name

    def get_connection_args(self, role: str) -> dict[str, Any]:
        """Return what Dask's connectors take, with the server name to ask for."""
        made = _made.setdefault(self, {})
        if role not in made:
            made[role] = super().get_connection_args(role)
        return made[role] | {"server_hostname": self.server_name}


_made: WeakKeyDictionary[ClusterSecurity, dict[str, dict[str, Any]]] = WeakKeyDictionary()
"""By role. Each takes milliseconds, and a start asks for several. Not kept in the objects, which may be copied."""


def security_of(connection: Connection) -> Security:
    """Return the TLS settings of a client of that one cluster; the keys stay in memory."""
    return ClusterSecurity(
        connection.server_name,
        require_encryption=True,
        tls_ca_file=connection.ca,
        tls_client_cert=connection.cert,
        tls_client_key=connection.key,
    )


async def open_cluster(connection: Connection, security: Security, patience: float, say: Callable[[str], None]) -> rpc:
    """Return a channel to a cluster's scheduler: at its own address where that can be, else through the gateway.

    Args:
        connection: What the server said.
        security: Of :func:`security_of`.
        patience: Seconds for the last way that is tried.
        say: Told which way is tried.

    Raises:
        ClusterUnreachableError: says which hop failed, of each way.
    """
    gateway = connection.gateway_address
    failure: ClusterUnreachableError | None = None
    if connection.direct or gateway is None:
        say(f"Connecting to {connection.scheduler_address}")
        try:
            limit = patience if gateway is None else min(patience, DIRECT_SECONDS)
            return await open_scheduler(connection.scheduler_address, security, limit)
        except ClusterUnreachableError as exc:
            if gateway is None or exc.details["hop"] not in _OTHER_WAY_HELPS:
                raise
            failure = exc
    say(f"Connecting through the gateway {gateway}")
    try:
        return await open_scheduler(str(gateway), security, patience)
    except ClusterUnreachableError as exc:
        raise _through_gateway(exc, failure) from exc


_OTHER_WAY_HELPS = ("dns", "tcp")
_ALERTS = {
    "TLSV1_UNRECOGNIZED_NAME": "it knows no live cluster of that name: this one has ended, or is not ready yet",
    "TLSV1_ALERT_INTERNAL_ERROR": "it cannot reach the scheduler behind it: the server's log says why",
}


def _through_gateway(exc: ClusterUnreachableError, direct: ClusterUnreachableError | None) -> ClusterUnreachableError:
    """Return the error of a failed way through the gateway; the scheduler's own address may have failed before."""
    alert = _ALERTS.get(str(exc.details.get("tls_reason")))
    if alert is None:
        message = exc.message.replace("The scheduler at", "The gateway at", 1)
    else:
        message = f"The gateway at {exc.details['address']} refused: {alert}."
    if direct is not None:
        message = f"{message} Its own address failed, too: {direct.message}"
    hop = "gateway" if alert is None else "gateway-to-scheduler"
    return ClusterUnreachableError(message, advice=exc.advice, details={**exc.details, "hop": hop})


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
        name = arguments.get("server_hostname") or ""
        await asyncio.wait_for(_tls(host, port, arguments["ssl_context"], name), HOP_SECONDS)
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
    error = _error("tls", f"{where} is there, but TLS with it failed ({_text(exc)})", _ADVICE["tls"], address)
    error.details["tls_reason"] = getattr(exc, "reason", None)
    return error


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


async def _tls(host: str, port: int, context: ssl.SSLContext, name: str) -> None:
    _, writer = await asyncio.open_connection(host, port, ssl=context, server_hostname=name)
    await _drop(writer)


async def _greet(address: str, arguments: dict[str, Any]) -> None:
    comm = await dask_connect(address, timeout=HOP_SECONDS, **arguments)
    await comm.close()


async def _drop(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with suppress(OSError):
        await writer.wait_closed()
