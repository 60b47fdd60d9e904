"""What the nodes of a cluster wrote: in pieces, as a backend gives them, and in lines, as people read them."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, field

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.backends.port import Backend, LogChunk
from ropewalk.errors import BackendError, NotFoundError
from ropewalk.schemas.clusters import LogPage, NodeState
from ropewalk.server.clusters import store
from ropewalk.server.clusters.leases import LIVE
from ropewalk.server.clusters.service import find
from ropewalk.server.context import Context
from ropewalk.server.db.models import Cluster, Node
from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["Line", "Reader", "Reading", "pages", "text_of"]

PIECE = 1_000_000
"""Bytes that are asked of a backend at once."""
AT_ONCE = 4
"""Nodes that are read at the same time: clouds limit how often they are asked (CloudWatch Logs: 25 times a second)."""
LONGEST_LINE = 4000
"""Characters of a line that a page shows; the download has all of it."""
LONGEST_REST = 64_000
"""Characters without a line's end after which they are taken for a line: programs that never end one."""

_NODE_GONE = frozenset(state.value for state in NodeState if not state.live)
_TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(?:[.,]\d{1,6})?")
"""How lines of Python's and Dask's loggers begin."""
_LEVEL = re.compile(r"\b(?:(?P<warning>WARNING|WARN)|(?P<error>ERROR|CRITICAL|FATAL))\b|^(?P<trace>Traceback \()")
_NOT_TEXT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Colours of terminals, and control characters."""


async def pages(
    context: Context,
    caller: AccountCaller,
    name: str,
    *,
    node: str | None = None,
    cursor: str | None = None,
    limit: int = PIECE,
) -> list[LogPage]:
    """Read the log of one node from *cursor*, or of all nodes from the beginning; *limit* bytes of each."""
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        nodes = await _started(session, row, node)
    backend = await context.backends.get(row.cloud_account_id)
    chunks = await asyncio.gather(
        *(backend.logs(store.handle(each), cursor if node is not None else None, limit) for each in nodes)
    )
    return [_page(each, chunk) for each, chunk in zip(nodes, chunks, strict=True)]


def _page(node: Node, chunk: LogChunk) -> LogPage:
    complete = chunk.complete and node.state in _NODE_GONE
    return LogPage(node=node.name, text=chunk.text, cursor=chunk.cursor, complete=complete)


async def _started(session: AsyncSession, row: Cluster, node: str | None) -> list[Node]:
    """Return the nodes that may have written something, or the one that is called *node*, in short or in full."""
    query = select(Node).where(Node.cluster_id == row.id, Node.launch_attempts > 0).order_by(Node.role, Node.name)
    nodes = list(await session.scalars(query))
    if node is None:
        return nodes
    nodes = [each for each in nodes if each.name in (node, f"{row.id}-{node}")]
    if not nodes:
        raise NotFoundError(
            f"The cluster {row.name!r} has no node {node[:60]!r} that was ever started.",
            advice="See its nodes with: ropewalk cluster show",
            field="node",
        )
    return nodes


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log, fit to be shown."""

    node: str
    """Without the cluster's id: ``worker-1``."""
    text: str
    time: str
    """As the line says it, or that of the line before; empty: none did so far. Sorts as text."""

    @property
    def level(self) -> str:
        """``error``, ``warning``, or nothing."""
        match = _LEVEL.search(self.text[:200])
        if match is None:
            return ""
        return "warning" if match["warning"] else "error"


@dataclass(frozen=True, slots=True)
class Reading:
    """What one look at the logs found."""

    lines: list[Line]
    found: int
    """Lines that there were; more than are in ``lines`` where not all could be kept."""
    complete: bool
    """Nothing more will follow."""
    problems: dict[str, str]
    """Why a node could not be read, by its name."""


@dataclass(slots=True)
class _Place:
    """Where the reading of a node's log stopped."""

    cursor: str | None = None
    rest: str = ""
    time: str = ""
    complete: bool = False

    def lines(self, chunk: LogChunk, *, last: bool) -> Iterable[str]:
        """Return the whole lines that the chunk completes; *last*: what is left is a line as well."""
        *whole, self.rest = (self.rest + chunk.text).split("\n")
        if self.rest and (last or len(self.rest) > LONGEST_REST):
            whole.append(self.rest)
            self.rest = ""
        return whole


@dataclass(slots=True)
class Reader:
    """Reads the lines of a cluster's logs, from where it stopped the last time; nodes that join are read, too.

    Args:
        context: The server's services.
        caller: Who reads.
        cluster_id: Of the cluster.
        node: Only this one; None: all.
        words: Only lines that have this text in them, in capital or small letters.
    """

    context: Context
    caller: AccountCaller
    cluster_id: str
    node: str | None = None
    words: str = ""
    _places: dict[str, _Place] = field(default_factory=dict)

    async def read(self, keep: int, before: int | None = None) -> Reading:
        """Read everything that is new, and return the last *keep* lines of it in the order in which they were written.

        Args:
            keep: How many lines.
            before: Of one node: stop before the line of this number, counted from 0.

        Raises:
            NotFoundError: There is no such cluster, or node.
        """
        async with self.context.db.read() as session:
            row = await find(session, self.caller.account_id, self.cluster_id)
            nodes = await _started(session, row, self.node)
        backend = await self.context.backends.get(row.cloud_account_id)
        turns, problems = asyncio.Semaphore(AT_ONCE), dict[str, str]()

        async def one(node: Node) -> tuple[list[Line], int]:
            async with turns:
                try:
                    return await self._one(backend, node, keep, before)
                except BackendError as exc:
                    problems[_short(node)] = str(exc)
                    return [], 0

        found = await asyncio.gather(*(one(node) for node in nodes))
        lines = sorted((line for some, _ in found for line in some), key=lambda line: line.time)
        complete = row.state not in LIVE and all(self._places[node.name].complete for node in nodes)
        return Reading(lines[-keep:], sum(count for _, count in found), complete, problems)

    async def _one(self, backend: Backend, node: Node, keep: int, before: int | None) -> tuple[list[Line], int]:
        kept: deque[Line] = deque(maxlen=keep)
        count = 0
        async with aclosing(self._lines(backend, node)) as lines:
            async for line in lines:
                if count == before:
                    break
                count += 1
                kept.append(line)
        return list(kept), count

    async def _lines(self, backend: Backend, node: Node) -> AsyncGenerator[Line, None]:
        """Give what the node wrote since the last look, and what has the words in it."""
        place = self._places.setdefault(node.name, _Place())
        name, words = _short(node), self.words.casefold()
        moved = not place.complete
        while moved and not place.complete:
            chunk = await backend.logs(store.handle(node), place.cursor, PIECE)
            moved = bool(chunk.text) and chunk.cursor != place.cursor
            place.cursor = chunk.cursor
            place.complete = chunk.complete and node.state in _NODE_GONE
            for raw in place.lines(chunk, last=place.complete):
                text = _clean(raw)
                match = _TIME.match(text)
                place.time = place.time if match is None else match[0].replace("T", " ").replace(",", ".")
                if words in text.casefold():
                    yield Line(name, text, place.time)


def _short(node: Node) -> str:
    return node.name.removeprefix(f"{node.cluster_id}-")


def _clean(raw: str) -> str:
    """Return a line as it would stand on a terminal: of a progress bar that rewrote itself, the last state."""
    text = _NOT_TEXT.sub("", raw.rstrip("\r").rpartition("\r")[2])
    return text if len(text) <= LONGEST_LINE else f"{text[:LONGEST_LINE]} …"


async def text_of(context: Context, caller: AccountCaller, name: str, node: str | None) -> AsyncIterator[str]:
    """Return everything that the nodes wrote, as they wrote it, node after node; of several, each under its name.

    Raises:
        NotFoundError: There is no such cluster, or node; told before anything is sent.
    """
    async with context.db.read() as session:
        row = await find(session, caller.account_id, name)
        nodes = await _started(session, row, node)
    backend = await context.backends.get(row.cloud_account_id)
    return _texts(backend, nodes, titled=node is None)


async def _texts(backend: Backend, nodes: list[Node], *, titled: bool) -> AsyncIterator[str]:
    for node in nodes:
        if titled:
            yield f"==> {_short(node)} <==\n"
        cursor, moved, text = None, True, ""
        try:
            while moved:
                chunk = await backend.logs(store.handle(node), cursor, PIECE)
                moved = bool(chunk.text) and chunk.cursor != cursor and not chunk.complete
                cursor, text = chunk.cursor, chunk.text or text
                yield chunk.text
        except BackendError as exc:
            yield f"[This log cannot be read now: {exc}]\n"
        if titled:
            yield "\n" if text.endswith("\n") else "\n\n"
