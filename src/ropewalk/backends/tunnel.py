"""A byte stream inside a connection to a scheduler: plain messages, with back-pressure both ways.

After the tunnel is open, either side sends ``{"data": bytes}``, then ``{"eof": True}`` when it has no more, and
``{"credit": n}`` when it has consumed *n* bytes. A side has at most :data:`WINDOW` bytes on their way that the other
has not consumed, so that neither a slow browser nor a slow dashboard makes anyone hold more than that. The scheduler's
side is in ``node/main.py``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ropewalk.backends import wire

CHUNK = 2**16
"""Bytes of one message at the most."""
WINDOW = 2**20
"""Bytes on their way. A round trip of 100 ms still leaves 10 MiB/s, more than a dashboard needs."""


class Tunnel:
    """One end of a byte stream, over a connection on which nothing else is said.

    Args:
        reader: Where the connection's messages come from.
        writer: Where they go.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._buffer = bytearray()
        self._ended = False
        self._broken: OSError | None = None
        self._credit = WINDOW
        self._owed = 0
        self._news = asyncio.Condition()
        self._pump = asyncio.create_task(self._run(), name="tunnel")

    @property
    def readable(self) -> bool:
        """Whether :meth:`read` would return at once: there are bytes, or there will never be any more."""
        return bool(self._buffer) or self._ended

    async def read(self, most: int = CHUNK) -> bytes:
        """Return what has come, at most *most* bytes; nothing at the end.

        Raises:
            wire.WireError: the connection broke.
        """
        async with self._news:
            await self._news.wait_for(lambda: self.readable)
            data = bytes(self._buffer[:most])
            del self._buffer[:most]
        if not data and self._broken is not None:
            raise self._broken
        self._owed += len(data)
        if self._owed >= WINDOW // 4 and not self._ended:
            owed, self._owed = self._owed, 0
            await wire.write(self._writer, {"credit": owed})
        return data

    async def write(self, data: bytes) -> None:
        """Send *data*; returns when all of it is on its way.

        Raises:
            wire.WireError: the connection broke.
        """
        view = memoryview(data)
        while view:
            async with self._news:
                await self._news.wait_for(lambda: self._credit > 0 or self._ended)
                if self._ended:
                    raise self._broken or wire.WireError("the tunnel has ended")
                size = min(len(view), self._credit, CHUNK)
                self._credit -= size
            await wire.write(self._writer, {"data": bytes(view[:size])})
            view = view[size:]

    async def write_eof(self) -> None:
        """Say that nothing more will be sent."""
        await wire.write(self._writer, {"eof": True})

    async def leave(self) -> None:
        """Stop using the connection, without ending it."""
        self._pump.cancel()
        await asyncio.gather(self._pump, return_exceptions=True)

    async def close(self) -> None:
        """End the tunnel and its connection."""
        await self.leave()
        self._writer.transport.abort()

    async def _run(self) -> None:
        try:
            while await self._take(await wire.read(self._reader)):
                pass
        except OSError as exc:
            self._broken = exc
        finally:
            async with self._news:
                self._ended = True
                self._news.notify_all()

    async def _take(self, message: Any) -> bool:
        """Take one message; returns whether more can follow."""
        if not isinstance(message, dict):
            raise wire.WireError("not a message of a tunnel")
        data, credit = message.get("data", b""), message.get("credit", 0)
        if not isinstance(data, bytes) or not isinstance(credit, int) or len(data) + len(self._buffer) > 2 * WINDOW:
            raise wire.WireError("the peer does not keep to the rules of tunnels")
        async with self._news:
            self._buffer += data
            self._credit += credit
            self._news.notify_all()
        return not message.get("eof")
