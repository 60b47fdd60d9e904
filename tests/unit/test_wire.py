"""The bytes between control plane and scheduler: what is sent, what is understood, and above all what is refused."""

from __future__ import annotations

import asyncio
import pickle
import struct
from collections.abc import Mapping
from typing import Any

import msgpack
import pytest
from distributed.comm.utils import from_frames, to_frames
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.backends import wire

PLAIN: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def stream(data: bytes, *, ended: bool = True) -> asyncio.StreamReader:
    reader = asyncio.StreamReader()
    reader.feed_data(data)
    if ended:
        reader.feed_eof()
    return reader


async def dask_frames(message: Mapping[str, Any]) -> list[bytes]:
    frames = await to_frames(message)  # type: ignore[no-untyped-call] # distributed has no types here
    return [bytes(frame) for frame in frames]


def framed(*frames: bytes) -> bytes:
    head = struct.pack(f"<{1 + len(frames)}Q", len(frames), *map(len, frames))
    return struct.pack("<Q", len(head) + sum(map(len, frames))) + head + b"".join(frames)


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
def test_reads_what_it_wrote(message: Mapping[str, Any]) -> None:
    async def read() -> Any:
        return await wire.read(stream(wire.encode(message)))

    assert asyncio.run(read()) == message


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    async def read() -> None:
        try:
            await wire.read(stream(data))
        except wire.WireError:
            return

    asyncio.run(read())


@given(st.integers(0, 2**64 - 1), st.lists(st.integers(0, 2**64 - 1), max_size=4), st.binary(max_size=40))
def test_lengths_that_lie_are_a_message_or_refused(count: int, lengths: list[int], rest: bytes) -> None:
    body = struct.pack(f"<{1 + len(lengths)}Q", count, *lengths) + rest

    async def read() -> None:
        try:
            await wire.read(stream(struct.pack("<Q", len(body)) + body))
        except wire.WireError:
            return

    asyncio.run(read())


async def test_distributed_understands_what_is_sent() -> None:
    sent = wire.encode({"op": "ropewalk_choose", "n": 3, "reply": True})
    _, frames, length = struct.unpack_from("<QQQ", sent)
    assert frames == 1
    understood = await from_frames([sent[24 : 24 + length]])  # type: ignore[no-untyped-call] # as above
    assert understood == {"op": "ropewalk_choose", "n": 3, "reply": True}


async def test_what_distributed_sends_is_understood() -> None:
    message = {"v": 1, "workers": ["a", "b"], "closing": None, "nested": {"x": [1, 2.5, True]}}
    assert await wire.read(stream(framed(*await dask_frames(message)))) == message


async def test_a_message_in_pieces_is_awaited() -> None:
    data = wire.encode({"op": "x"})
    reader = stream(data[:9], ended=False)
    reading = asyncio.ensure_future(wire.read(reader))
    await asyncio.sleep(0)
    reader.feed_data(data[9:])
    assert await reading == {"op": "x"}


async def test_messages_follow_each_other() -> None:
    reader = stream(wire.encode({"n": 1}) + wire.encode({"n": 2}))
    assert [await wire.read(reader), await wire.read(reader)] == [{"n": 1}, {"n": 2}]


async def test_more_than_the_largest_message_is_refused_before_it_is_read() -> None:
    with pytest.raises(wire.WireError, match="refused"):
        await wire.read(stream(struct.pack("<Q", wire.MAX_MESSAGE + 1), ended=False))


@pytest.mark.parametrize("size", [0, 15])
async def test_less_than_a_header_is_refused(size: int) -> None:
    with pytest.raises(wire.WireError, match="refused"):
        await wire.read(stream(struct.pack("<Q", size) + bytes(size)))


@pytest.mark.parametrize("frames", [0, 65, 2**40])
async def test_an_odd_number_of_frames_is_refused(frames: int) -> None:
    body = struct.pack("<QQ", frames, 0)
    with pytest.raises(wire.WireError, match="refused"):
        await wire.read(stream(struct.pack("<Q", len(body)) + body))


async def test_an_end_in_the_middle_is_told() -> None:
    with pytest.raises(wire.WireError, match="closed"):
        await wire.read(stream(wire.encode({"op": "x"})[:-1]))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.fail, ("it was unpickled",))


async def test_a_pickle_is_never_loaded() -> None:
    with pytest.raises(wire.WireError):
        await wire.read(stream(framed(pickle.dumps(Bomb()))))


async def test_what_distributed_would_unpickle_stays_bytes() -> None:
    message = await wire.read(stream(framed(*await dask_frames({"x": Bomb()}))))
    assert not isinstance(message["x"], Bomb)


async def test_a_handshake_that_is_no_map_is_refused() -> None:
    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(framed(msgpack.packb([1, 2])))
        await reader.read()
        writer.close()

    server = await asyncio.start_server(peer, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        with pytest.raises(wire.WireError, match="handshake"):
            await wire.handshake(reader, writer)
        writer.close()
        await writer.wait_closed()
