"""Compressing a stream on all processors, to the same bytes however many there are.

The stream is cut into blocks of a fixed size, each compressed for itself but with the end of the one before as its
dictionary, which costs some 0.1 % of the size. Put together they are one gzip stream, as by pigz: any program reads it.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO

__all__ = ["Gzip", "compressing"]

BLOCK = 2**20
"""Bytes that are compressed at a time: some 20 ms, so that handing them to a thread costs nothing."""
_WINDOW = 2**15
"""How far back zlib looks."""
_HEADER = b"\x1f\x8b\x08" + bytes(5) + b"\x04\xff"
"""Of gzip: deflate, with neither flags, time nor name; 4: between fastest and best; 255: of no certain system."""


class Gzip:
    """What is written to it goes compressed to *target*; knows the digests of both. Not for several threads.

    Args:
        target: Gets the compressed bytes.
        level: Of zlib.
        pool: Whose threads compress.
    """

    def __init__(self, target: IO[bytes], level: int, pool: ThreadPoolExecutor) -> None:
        self._target = target
        self._level = level
        self._pool = pool
        self._ahead = 2 * (os.cpu_count() or 1)
        self._waiting: deque[Future[bytes]] = deque()
        self._pending = bytearray()
        self._window = b""
        self._size = self._crc = 0
        self._plain, self._outer = hashlib.sha256(), hashlib.sha256()
        self._put(_HEADER)

    @property
    def digest(self) -> str:
        """Of what was written to the target."""
        return f"sha256:{self._outer.hexdigest()}"

    @property
    def diff_id(self) -> str:
        """Of what is compressed in it."""
        return f"sha256:{self._plain.hexdigest()}"

    def write(self, data: bytes) -> None:
        """Add *data*."""
        self._pending += data
        while len(self._pending) > BLOCK:
            self._block(bytes(self._pending[:BLOCK]), last=False)
            del self._pending[:BLOCK]

    def finish(self) -> None:
        """Write what is left; nothing can be added any more."""
        self._block(bytes(self._pending), last=True)
        while self._waiting:
            self._put(self._waiting.popleft().result())
        self._put(self._crc.to_bytes(4, "little") + (self._size % 2**32).to_bytes(4, "little"))

    def _block(self, data: bytes, *, last: bool) -> None:
        self._waiting.append(self._pool.submit(_deflate, data, self._window, self._level, last))
        self._window = data[-_WINDOW:]
        self._plain.update(data)
        self._crc = zlib.crc32(data, self._crc)
        self._size += len(data)
        while self._waiting and (len(self._waiting) > self._ahead or self._waiting[0].done()):
            self._put(self._waiting.popleft().result())

    def _put(self, data: bytes) -> None:
        self._outer.update(data)
        self._target.write(data)


@contextmanager
def compressing(target: IO[bytes], level: int) -> Iterator[Gzip]:
    """Give a stream to write to; it is complete after the block."""
    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="deflate") as pool:
        stream = Gzip(target, level, pool)
        yield stream
        stream.finish()


def _deflate(data: bytes, window: bytes, level: int, last: bool) -> bytes:
    packer = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zdict=window)
    # A block that is not the last ends at a byte, so that the next can follow.
    return packer.compress(data) + packer.flush(zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH)
