"""A byte stream to a port of a pod, through the API server: needs nothing but the kubeconfig.

The protocol is Kubernetes' ``v4.channel.k8s.io`` over a WebSocket: each message begins with the number of its channel,
0 for data and 1 for errors; the first message of each channel is the port's number. There is no half-close, and a pod
that dies looks like the end of its stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import aiohttp

from ropewalk.backends.kubernetes.api import Api, end_websocket
from ropewalk.errors import TryAgainError

PROTOCOL = "v4.channel.k8s.io"
CHUNK = 2**16
"""Bytes in one message to the pod."""
BUFFER = 2**20
"""Bytes that wait in either direction before the sender has to wait, too."""
OPEN_SECONDS = 10.0

_DATA, _ERROR = 0, 1


async def open_stream(api: Api, pod: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a plain byte stream to *port* of *pod*; TLS may be started on it.

    Raises:
        BackendError: the API server, the pod's machine or the pod refuses.
    """
    channel = await api.websocket("pods/portforward", pod, {"ports": port}, PROTOCOL)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            await _handshake(channel, pod, port)
    except BaseException as exc:
        await end_websocket(channel)
        if isinstance(exc, TimeoutError):
            raise _refused(pod, port, "it did not answer in time") from None
        raise
    return await _bridge(api, channel)


async def answers(api: Api, pod: str, port: int) -> bool:
    """Find out whether somebody speaks TLS at *port* of *pod*.

    A stream opens whether or not anybody listens, and says later and only by ending that nobody does: so a first one
    carries a greeting, and an answer to it proves that the next will be taken.

    Raises:
        BackendError: as :func:`open_stream`.
    """
    reader, writer = await open_stream(api, pod, port)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            writer.write(_greeting())
            return bool(await reader.read(1))
    except (OSError, TimeoutError):
        return False
    finally:
        writer.transport.abort()


def _greeting() -> bytes:
    """Return the first message of TLS, which proves nothing and shows nothing of us."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nobody is believed anything here
    outgoing = ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing).do_handshake()
    return outgoing.read()


async def _handshake(channel: Any, pod: str, port: int) -> None:
    """Take the first message of both channels."""
    for _ in range(2):
        message = await channel.receive()
        if message.type is not aiohttp.WSMsgType.BINARY or len(message.data) < 3:
            raise _refused(pod, port, "the stream ended at once")


def _refused(pod: str, port: int, why: str) -> TryAgainError:
    return TryAgainError(f"Port {port} of the pod {pod} cannot be reached through the API server: {why}.")


async def _bridge(api: Api, channel: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Return a stream whose other end is carried by *channel*.

    A pair of connected sockets: asyncio can start TLS on a stream only where it has a transport of its own, and the
    kernel's buffers give back-pressure both ways.
    """
    ours, theirs = socket.socketpair()
    try:
        inner = await asyncio.open_connection(sock=ours, limit=BUFFER)
        outer = await asyncio.open_connection(sock=theirs, limit=BUFFER)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    task = api.spawn(_carry(channel, *inner), name="kubernetes-portforward")
    # Also where it is cancelled before it ever began.
    task.add_done_callback(lambda _: inner[1].transport.abort())
    return outer


async def _carry(channel: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    tasks = [asyncio.ensure_future(_to_pod(channel, reader)), asyncio.ensure_future(_from_pod(channel, writer))]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        try:
            with contextlib.suppress(OSError):
                await writer.wait_closed()
        finally:
            await end_websocket(channel)


async def _to_pod(channel: Any, reader: asyncio.StreamReader) -> None:
    prefix = bytes([_DATA])
    while data := await reader.read(CHUNK):
        await channel.send_bytes(prefix + data)


async def _from_pod(channel: Any, writer: asyncio.StreamWriter) -> None:
    async for message in channel:
        if message.type is not aiohttp.WSMsgType.BINARY:
            return
        kind, data = message.data[0], message.data[1:]
        if kind == _ERROR and data:
            return  # nobody listens on that port, or no longer
        if kind == _DATA and data:
            writer.write(data)
            await writer.drain()
