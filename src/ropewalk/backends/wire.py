"""The bytes that a Dask scheduler speaks, as far as the control plane needs them, without ever unpickling.

``distributed`` unpickles parts of what it receives whatever its ``deserialize`` option says. A scheduler runs its
user's code, so a control plane that used ``distributed`` to talk to it could be made to run that code too. This module
reads and writes only plain msgpack; anything else is refused.

A message is: its length (uint64, little-endian as on every platform that Dask supports), the number of frames, the
length of each frame, the frames. Ours have one frame: a msgpack map. The first message in each direction is the
handshake.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Mapping
from typing import Any

import msgpack

MAX_MESSAGE = 16 * 2**20
"""Bytes. A status message of 10,000 workers has about 0.5 MiB; more than this is a fault or an attack."""

_HANDSHAKE: Mapping[str, Any] = {"compression": None, "python": (3, 11, 0), "pickle-protocol": 5}


class WireError(OSError):
    """The peer sent something that is not a plain message, or went away."""


def encode(message: Mapping[str, Any]) -> bytes:
    """Return *message* as bytes to send."""
    frame: bytes = msgpack.packb(dict(message), use_bin_type=True)
    return struct.pack("<QQQ", 16 + len(frame), 1, len(frame)) + frame


async def read(reader: asyncio.StreamReader) -> Any:
    """Read one message.

    Raises:
        WireError: the stream ended, or what came is too large or not plain msgpack.
    """
    try:
        (size,) = struct.unpack("<Q", await reader.readexactly(8))
        if not 16 <= size <= MAX_MESSAGE:
            raise WireError(f"a message of {size} bytes was refused")
        body = await reader.readexactly(size)
        (frames,) = struct.unpack_from("<Q", body)
        if not 1 <= frames <= 64 or 8 + 8 * frames > size:
            raise WireError(f"a message of {frames} frames was refused")
        lengths = struct.unpack_from(f"<{frames}Q", body, 8)
        start = 8 + 8 * frames
        return msgpack.unpackb(body[start : start + lengths[0]], strict_map_key=False, raw=False)
    except (asyncio.IncompleteReadError, ConnectionError) as exc:
        raise WireError("the connection was closed") from exc
    except (ValueError, msgpack.UnpackException, struct.error) as exc:
        raise WireError(f"not a plain message: {type(exc).__name__}") from exc


async def write(writer: asyncio.StreamWriter, message: Mapping[str, Any]) -> None:
    """Send one message."""
    try:
        writer.write(encode(message))
        await writer.drain()
    except (ConnectionError, RuntimeError) as exc:
        raise WireError("the connection was closed") from exc


async def handshake(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
    """Exchange the first message, as either side; returns what the peer said of itself."""
    await write(writer, _HANDSHAKE)
    answer = await read(reader)
    if not isinstance(answer, dict):
        raise WireError("the peer's handshake is not a Dask one")
    return answer
