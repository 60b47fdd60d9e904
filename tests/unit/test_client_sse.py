"""Server-sent events, cut anywhere."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.client.sse import MAX_BUFFER, EventStream, ServerSentEvent

STREAM = ": hello\n\nid: 7\nevent: cluster.ready\ndata: {}\n\r\nid: 8\r\ndata: a\r\ndata: b\r\n\r\nretry: 5\ndata:c\r\r"
MESSAGES = [
    ServerSentEvent("7", "cluster.ready", "{}"),
    ServerSentEvent("8", "message", "a\nb"),
    ServerSentEvent("8", "message", "c"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_messages_are_the_same_wherever_the_stream_is_cut(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    stream = EventStream()
    found = [message for start, end in pairwise(edges) for message in stream.feed(STREAM[start:end])]
    # The last carriage return may be half of a CR LF: it counts when something follows.
    found += stream.feed("\n")
    assert found == MESSAGES


def test_a_message_without_data_is_none() -> None:
    assert EventStream().feed("id: 1\nevent: ping\n\n") == []


def test_an_unfinished_message_is_not_told() -> None:
    stream = EventStream()
    assert stream.feed("data: half") == []
    assert stream.feed(" of it\n\n") == [ServerSentEvent(None, "message", "half of it")]


def test_a_message_of_lines_without_an_end_is_refused() -> None:
    stream = EventStream()
    stream.feed("data: " + "x" * (MAX_BUFFER // 2) + "\n")
    with pytest.raises(ValueError, match="without an end"):
        stream.feed("data: " + "x" * (MAX_BUFFER // 2) + "\n")


def test_a_message_without_an_end_is_refused() -> None:
    stream = EventStream()
    with pytest.raises(ValueError, match="without an end"):
        stream.feed("data: " + "x" * MAX_BUFFER)


def test_an_id_with_a_nul_character_is_passed_over() -> None:
    assert EventStream().feed("id: 1\nid: 2\0\ndata: x\n\n") == [ServerSentEvent("1", "message", "x")]
