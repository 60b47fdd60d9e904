"""WebSockets between a browser and a dashboard, message by message."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

from websockets.client import ClientProtocol
from websockets.exceptions import WebSocketException
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from ropewalk.errors import ClusterError
from ropewalk.server.gateway.proxy import Target

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from ropewalk.backends.tunnel import Tunnel
    from ropewalk.server.gateway.passes import Visit
    from ropewalk.server.gateway.upstreams import Upstream

MAX_MESSAGE = 16 * 2**20
"""Bytes; a plot of Dask's largest graphs is below 1 MiB."""
OPEN_SECONDS = 20.0
CHECK_SECONDS = 15.0
"""A page that stays open is asked again this often whether it still may."""
GOING_AWAY = 1001


async def carry(
    upstream: Upstream,
    visit: Visit,
    scope: Scope,
    receive: Receive,
    send: Send,
    *,
    allowed: Callable[[], Awaitable[bool]],
    stopping: asyncio.Event,
) -> None:
    """Carry messages until either side ends, the server is *stopping*, or it is not *allowed* any more.

    Raises:
        RopewalkError: the dashboard took no WebSocket; nothing was accepted.
    """
    target = Target(scope, visit)
    with upstream.in_use():
        async with upstream.socket(target.worker) as tunnel:
            peer = _Peer(tunnel, target, scope.get("subprotocols", []))
            try:
                async with asyncio.timeout(OPEN_SECONDS):
                    await peer.open()
            except (OSError, TimeoutError, WebSocketException) as exc:
                raise ClusterError("The dashboard does not take this WebSocket.") from exc
            await receive()  # websocket.connect
            await send({"type": "websocket.accept", "subprotocol": peer.subprotocol})
            await _until_one_ends(_inward(peer, receive), _outward(peer, send), _watch(allowed, stopping))
            with contextlib.suppress(Exception):  # the browser may have gone first, which servers tell in several ways
                await send({"type": "websocket.close", "code": GOING_AWAY})


class _Peer:
    """The dashboard's end of a WebSocket."""

    def __init__(self, tunnel: Tunnel, target: Target, subprotocols: list[str]) -> None:
        self._tunnel = tunnel
        self._protocol = ClientProtocol(
            parse_uri(f"ws://{target.authority}{target.path.decode('latin-1')}"),
            origin=f"http://{target.authority}",  # type: ignore[arg-type] # a NewType of theirs
            subprotocols=[Subprotocol(name) for name in subprotocols] or None,
            max_size=MAX_MESSAGE,
        )

    @property
    def subprotocol(self) -> str | None:
        """Which of those that were offered the dashboard chose."""
        return self._protocol.subprotocol

    async def open(self) -> None:
        self._protocol.send_request(self._protocol.connect())
        await self._flush()
        while self._protocol.state is State.CONNECTING and self._protocol.handshake_exc is None:
            await self._receive()
        if self._protocol.handshake_exc is not None:
            raise self._protocol.handshake_exc

    async def messages(self) -> AsyncIterator[tuple[bool, bytes]]:
        """Yield whether it is text, and the bytes, of each message; ends when the connection does."""
        text, parts = True, list[bytes]()
        while True:
            # First those that came together with the answer to the handshake.
            for event in self._protocol.events_received():
                if not isinstance(event, Frame) or event.opcode not in _DATA:
                    continue
                text = event.opcode is Opcode.TEXT if event.opcode is not Opcode.CONT else text
                parts.append(bytes(event.data))
                if event.fin:
                    yield text, b"".join(parts)
                    parts = []
            if self._protocol.state is not State.OPEN:
                return
            await self._receive()

    async def send(self, data: str | bytes) -> None:
        if isinstance(data, str):
            self._protocol.send_text(data.encode())
        else:
            self._protocol.send_binary(data)
        await self._flush()

    async def close(self) -> None:
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(GOING_AWAY)
            await self._flush()

    async def _receive(self) -> None:
        data = await self._tunnel.read()
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()
        await self._flush()  # answers to pings and to the close

    async def _flush(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                await self._tunnel.write(data)


_DATA = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


async def _inward(peer: _Peer, receive: Receive) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        text = message.get("text")
        await peer.send(message["bytes"] if text is None else text)
    await peer.close()


async def _outward(peer: _Peer, send: Send) -> None:
    async for text, data in peer.messages():
        if text:
            await send({"type": "websocket.send", "text": data.decode()})
        else:
            await send({"type": "websocket.send", "bytes": data})


async def _watch(allowed: Callable[[], Awaitable[bool]], stopping: asyncio.Event) -> None:
    while await allowed():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                await stopping.wait()


async def _until_one_ends(*works: Awaitable[None]) -> None:
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
