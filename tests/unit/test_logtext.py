"""Logs in pieces: nothing lost, nothing twice, no character torn."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ropewalk.backends.logtext import cut, offset_of, room


def pieces(log: bytes, limit: int, *, gone: bool) -> tuple[str, int, bool]:
    text, offset = "", 0
    while True:
        chunk = cut(log[offset : offset + room(limit)], offset, limit, gone=gone)
        assert offset_of(chunk.cursor) - offset <= max(limit, 4)
        text, moved, offset = text + chunk.text, offset_of(chunk.cursor) - offset, offset_of(chunk.cursor)
        if not moved or chunk.complete:
            return text, offset, chunk.complete


@given(st.text(), st.integers(1, 50))
def test_pieces_make_the_whole(text: str, limit: int) -> None:
    raw = text.encode()
    assert pieces(raw, limit, gone=True) == (text, len(raw), True)
    assert pieces(raw, limit, gone=False) == (text, len(raw), False)


@given(st.binary(max_size=100), st.integers(1, 20))
def test_any_bytes_are_read_to_the_end(raw: bytes, limit: int) -> None:
    text, offset, complete = pieces(raw, limit, gone=True)
    assert (offset, complete) == (len(raw), True)
    assert text == raw.decode(errors="replace")


def test_half_a_character_waits_for_the_rest_unless_the_node_is_gone() -> None:
    half = "é".encode()[:1]
    waiting = cut(b"a" + half, 0, 100, gone=False)
    assert (waiting.text, waiting.cursor, waiting.complete) == ("a", "1", False)
    final = cut(b"a" + half, 0, 100, gone=True)
    assert (final.text, final.cursor, final.complete) == ("a\N{REPLACEMENT CHARACTER}", "2", True)


def test_a_piece_that_is_not_the_last_is_not_complete() -> None:
    chunk = cut(b"123456", 0, 5, gone=True)
    assert (chunk.text, chunk.cursor, chunk.complete) == ("12345", "5", False)
