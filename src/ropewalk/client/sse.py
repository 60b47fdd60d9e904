"""Server-sent events, as far as Ropewalk's server sends them (HTML Living Standard, section 9.2), without I/O."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MAX_BUFFER", "EventStream", "ServerSentEvent"]

MAX_BUFFER = 8 * 2**20
"""Characters of one unfinished message; an event is a few hundred, so more than this is a fault of the peer."""


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """One message: its last ``id``, its ``event`` type and the joined ``data`` lines."""

    id: str | None
    event: str
    data: str


class EventStream:
    """Turns pieces of a ``text/event-stream`` body, cut anywhere, into messages.

    Comments (lines that begin with a colon, sent to keep the connection alive) and unknown fields are skipped.
    """

    def __init__(self) -> None:
        self._buffer = ""
        self._id: str | None = None
        self._event = ""
        self._data: list[str] = []

    def feed(self, text: str) -> list[ServerSentEvent]:
        """Take the next piece; return the messages that it completes.

        Raises:
            ValueError: a message grows without an end.
        """
        self._buffer += text
        if len(self._buffer) + sum(map(len, self._data)) > MAX_BUFFER:
            raise ValueError("a server-sent event without an end")
        # A carriage return at the end may be the first half of CR LF: it stays until the next piece.
        held = "\r" if self._buffer.endswith("\r") else ""
        body = self._buffer.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n")
        *lines, rest = body.split("\n")
        self._buffer = rest + held
        return [message for line in lines if (message := self._line(line))]

    def _line(self, line: str) -> ServerSentEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        elif name == "id" and "\0" not in value:
            self._id = value
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        data, event = self._data, self._event
        self._data, self._event = [], ""
        return ServerSentEvent(self._id, event or "message", "\n".join(data)) if data else None
