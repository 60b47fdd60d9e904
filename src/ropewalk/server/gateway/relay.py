"""Carrying bytes both ways between two streams until both have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

__all__ = ["Relay"]

CHUNK = 256 * 1024
"""Bytes read at once, and kept for a side that does not take them before the other side is no longer read."""


class Relay:
    """Two streams, and what flows between them.

    Args:
        client: Who came.
        upstream: Who is asked.
        count: Called with the direction (``in``: towards the cluster) and the number of bytes of each piece.
    """

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        count: Callable[[str, int], None],
    ) -> None:
        self._client, self._upstream = client, upstream
        self._count = count
        self._loop = asyncio.get_running_loop()
        self.used_at = self._loop.time()
        """When a byte last moved, by the event loop's clock."""

    async def run(self) -> None:
        """Carry until both sides have ended, or one broke: then both are cut off at once.

        Cancelled, it leaves cutting off to :meth:`abort`.
        """
        pumps = [
            self._loop.create_task(self._pump("in", self._client[0], self._upstream[1])),
            self._loop.create_task(self._pump("out", self._upstream[0], self._client[1])),
        ]
        try:
            done, _ = await asyncio.wait(pumps, return_when=asyncio.FIRST_EXCEPTION)
            if all(pump.exception() is None for pump in done):
                await self._part()
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.abort()

    def abort(self) -> None:
        """Cut off both sides now."""
        for _, writer in (self._client, self._upstream):
            writer.transport.abort()

    async def _pump(self, direction: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            self.used_at = self._loop.time()
            self._count(direction, len(data))
            writer.write(data)
            await writer.drain()  # who reads slowly slows down who writes, and nobody else
        # Half-closed: the other direction goes on. A side that cannot be told of the end otherwise is closed.
        if writer.can_write_eof():
            writer.write_eof()
        else:
            writer.close()

    async def _part(self) -> None:
        """Both have ended: close when the last bytes are out."""
        for _, writer in (self._client, self._upstream):
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in (self._client, self._upstream)))
