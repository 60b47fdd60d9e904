"""A scheduler that does no work, but speaks as a real one to the control plane: mutual TLS, then plain messages."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from ropewalk.backends import wire
from ropewalk.backends.changes import Changes
from ropewalk.backends.tunnel import CHUNK, Tunnel

CONTROL_NAME = "ropewalk-control"
"""Common name in the certificate of the control plane; no other is answered, as in ``node/main.py``."""

_STATUS_SECONDS = 10.0
"""A status is sent at least this often, as by ``node/main.py``."""


class Scheduled(Protocol):
    """The cluster that a simulated scheduler speaks for."""

    @property
    def changes(self) -> Changes: ...

    @property
    def dashboards(self) -> Mapping[str | None, tuple[str, int]]:
        """Where the HTTP servers of the scheduler (None) and of workers (``host:port``) really are."""

    def status(self) -> Mapping[str, Any] | None:
        """Return what the scheduler says of itself; None: it does not run."""

    def choose(self, count: int) -> list[str]:
        """Return the names of the workers to remove first."""

    def retire(self, names: list[str]) -> list[str]:
        """End workers in order; returns those for which that worked."""

    def configure(self, adaptive: Mapping[str, int] | None, limits: Mapping[str, Any]) -> None:
        """Take new bounds and limits."""


def server_context(tls: Mapping[str, str]) -> ssl.SSLContext:
    """Return mutual TLS with ``ca``, ``cert`` and ``key`` as PEM text."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=tls["ca"])
    # The ssl module reads certificates from files only.
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder) / "chain.pem"
        chain.touch(mode=0o600)
        chain.write_text(tls["cert"] + "\n" + tls["key"])
        context.load_cert_chain(chain)
    return context


async def serve(cluster: Scheduled, context: ssl.SSLContext, sock: socket.socket) -> None:
    """Serve one connection until either side ends it."""
    reader = asyncio.StreamReader()
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.get_running_loop().create_future()
    protocol = asyncio.StreamReaderProtocol(reader, lambda _, writer: accepted.set_result(writer))
    try:
        await asyncio.get_running_loop().connect_accepted_socket(lambda: protocol, sock, ssl=context)
    except OSError:
        sock.close()  # no TLS, or no certificate of this cluster
        return
    writer = await accepted
    try:
        if _control(writer):
            await _converse(cluster, reader, writer)
    except OSError:
        return  # the peer went away
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _control(writer: asyncio.StreamWriter) -> bool:
    subject = (writer.get_extra_info("peercert") or {}).get("subject", ())
    return [value for part in subject for key, value in part if key == "commonName"] == [CONTROL_NAME]


async def _converse(cluster: Scheduled, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    talk = asyncio.ensure_future(_talk(cluster, reader, writer))
    end = asyncio.ensure_future(_ended(cluster))
    try:
        await asyncio.wait({talk, end}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        talk.cancel()
        end.cancel()
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await talk


async def _ended(cluster: Scheduled) -> None:
    """Return when the scheduler does not run any more; its connections end with it."""
    version = cluster.changes.version
    while cluster.status() is not None:
        version = await cluster.changes.wait(version)


async def _talk(cluster: Scheduled, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await wire.handshake(reader, writer)
    while True:
        message = await wire.read(reader)
        if message.get("op") == "ropewalk_watch":
            await _watch(cluster, reader, writer)
            return
        if message.get("op") == "ropewalk_tunnel":
            await _tunnel(cluster, message.get("worker"), reader, writer)
            return
        await wire.write(writer, _answer(cluster, message))


async def _watch(cluster: Scheduled, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a status at once, at every change, and from time to time."""
    closed = asyncio.ensure_future(reader.read())
    told: Mapping[str, Any] | None = None
    try:
        while not closed.done():
            version = cluster.changes.version
            status = cluster.status()
            if status is None:
                return
            await wire.write(writer, status)
            told = status
            while told == cluster.status() and not closed.done():
                version, due = await _next(cluster.changes, version, closed)
                if due:
                    break
    finally:
        closed.cancel()


async def _next(changes: Changes, version: int, closed: asyncio.Future[bytes]) -> tuple[int, bool]:
    """Return the version after the next change, or that a status is due although nothing changed."""
    change = asyncio.ensure_future(changes.wait(version))
    both: set[asyncio.Future[Any]] = {change, closed}
    try:
        done, _ = await asyncio.wait(both, timeout=_STATUS_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        change.cancel()
    return (change.result() if change in done else version), not done


async def _tunnel(
    cluster: Scheduled, worker: str | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """Carry bytes to a dashboard; where there is none, a page of a few words stands for that of the scheduler."""
    place = cluster.dashboards.get(worker)
    if place is None and worker is not None:
        await wire.write(writer, {"error": "there is no such worker"})
        return
    await wire.write(writer, {"ok": True})
    tunnel = Tunnel(reader, writer)
    try:
        await (_page(tunnel) if place is None else _carry(tunnel, *place))
    finally:
        # Not the tunnel's own end, which would drop what is still to be sent.
        await tunnel.leave()


async def _page(tunnel: Tunnel) -> None:
    head = b""
    while b"\r\n\r\n" not in head and (data := await tunnel.read()):
        head += data
    page = b"# A simulated scheduler.\n"
    await tunnel.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        + f"Content-Length: {len(page)}\r\n\r\n".encode()
        + page
    )
    await tunnel.write_eof()


async def _carry(tunnel: Tunnel, host: str, port: int) -> None:
    reader, writer = await asyncio.open_connection(host, port)

    async def inward() -> None:
        while data := await tunnel.read():
            writer.write(data)
            await writer.drain()

    async def outward() -> None:
        while data := await reader.read(CHUNK):
            await tunnel.write(data)
        await tunnel.write_eof()

    works = [asyncio.ensure_future(inward()), asyncio.ensure_future(outward())]
    try:
        await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for work in works:
            work.cancel()
        await asyncio.gather(*works, return_exceptions=True)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _answer(cluster: Scheduled, message: Mapping[str, Any]) -> Mapping[str, Any]:
    match message.get("op"):
        case "ropewalk_choose":
            return {"names": cluster.choose(int(message["n"]))}
        case "ropewalk_retire":
            return {"retired": cluster.retire(list(message["names"]))}
        case "ropewalk_configure":
            cluster.configure(message.get("adaptive"), message.get("limits") or {})
            return {"ok": True}
        case op:
            return {"status": "error", "text": f"unknown operation {op!r}"}
