"""The byte stream inside a connection to a scheduler."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ropewalk.backends import wire
from ropewalk.backends.tunnel import CHUNK, WINDOW, Tunnel
from tests.support.waiting import eventually

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@pytest.fixture
async def streams() -> AsyncIterator[tuple[Streams, Streams]]:
    """Both ends of a connection."""
    left, right = socket.socketpair()
    ends = (await asyncio.open_connection(sock=left), await asyncio.open_connection(sock=right))
    yield ends
    for _, writer in ends:
        writer.close()
        await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def tunnels(streams: tuple[Streams, Streams]) -> AsyncIterator[tuple[Tunnel, Tunnel]]:
    """Both ends of a tunnel."""
    ends = Tunnel(*streams[0]), Tunnel(*streams[1])
    yield ends
    for end in ends:
        await end.close()


async def _read_all(tunnel: Tunnel) -> bytes:
    parts = []
    while data := await tunnel.read():
        parts.append(data)
    return b"".join(parts)


async def test_bytes_come_out_as_they_went_in_both_ways_at_once(tunnels: tuple[Tunnel, Tunnel]) -> None:
    sent = bytes(range(256)) * (3 * WINDOW // 256)

    async def send(tunnel: Tunnel) -> None:
        await tunnel.write(sent)
        await tunnel.write_eof()

    left, right = tunnels
    results = await asyncio.gather(send(left), send(right), _read_all(left), _read_all(right))
    assert results[2] == results[3] == sent


async def test_whoever_is_not_read_stops_at_the_window(tunnels: tuple[Tunnel, Tunnel]) -> None:
    left, right = tunnels
    writing = asyncio.create_task(left.write(b"x" * 4 * WINDOW))
    await eventually(lambda: len(right._buffer) == WINDOW)
    assert not writing.done()
    await right.write(b"still open")
    assert await left.read() == b"still open", "the other way is not held up"
    read = 0
    while read < 4 * WINDOW:
        read += len(await right.read(CHUNK))
    await writing


async def test_an_end_is_read_after_what_came_before_it(tunnels: tuple[Tunnel, Tunnel]) -> None:
    left, right = tunnels
    await left.write(b"last")
    await left.write_eof()
    assert (await right.read(), await right.read(), right.readable) == (b"last", b"", True)


async def test_a_connection_that_breaks_ends_reading_and_writing(tunnels: tuple[Tunnel, Tunnel]) -> None:
    left, right = tunnels
    await left.close()
    with pytest.raises(wire.WireError):
        await right.read()
    with pytest.raises(wire.WireError):
        await right.write(b"x")


@pytest.mark.parametrize("message", [{"data": "text"}, {"credit": "much"}, {"data": b"x" * (2 * WINDOW + 1)}])
async def test_whoever_breaks_the_rules_is_cut_off(streams: tuple[Streams, Streams], message: dict[str, Any]) -> None:
    tunnel = Tunnel(*streams[0])
    await wire.write(streams[1][1], message)
    with pytest.raises(wire.WireError):
        await tunnel.read()
    await tunnel.close()
