"""``ropewalk cluster logs`` and ``cluster events``: what nodes wrote and what happened, also as it goes on."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import options, output
from ropewalk.errors import NotFoundError

if TYPE_CHECKING:
    from ropewalk.cli.api import Session
    from ropewalk.schemas.clusters import LogPage

FOLLOW_SECONDS = 1.0
"""Between two looks for new lines; people do not read faster."""

Follow = Annotated[bool, typer.Option("--follow", "-f", help="Go on until the cluster has stopped, or Ctrl-C.")]


def logs(
    cluster: options.ClusterName,
    node: Annotated[str | None, typer.Option("--node", help="Only this node; default: all.")] = None,
    follow: Follow = False,
    tail: Annotated[int | None, typer.Option("--tail", min=0, help="Begin with the last N lines of each node.")] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Print what the nodes of a cluster wrote; also of nodes that have ended.

    With --json: one object of each node, with --follow one object a line for each piece.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, name = api.locate(cluster, account)
        found = api(calls.get_cluster(slug, name))
        reader = _Reader(api, slug, found.id, tail=tail)
        names = {n.name for n in found.nodes}
        # Events say "worker-1"; the node's whole name begins with the cluster's id.
        node = f"{found.id}-{node}" if f"{found.id}-{node}" in names else node
        if node is not None and node not in names:
            raise NotFoundError(
                f"The cluster {found.name} has no node {node!r}.",
                advice=f"Its nodes: {', '.join(n.name for n in found.nodes) or 'none yet'}.",
            )
        if follow:
            _follow(reader, node, as_json)
            return
        pages = [reader.all(n.name) for n in found.nodes if node in (None, n.name)]
    if as_json:
        output.dump(pages)
        return
    for page in pages:
        _print(page, prefixed=node is None)
    if not any(page.text for page in pages):
        output.note("Nothing has been written yet.")


def _follow(reader: _Reader, node: str | None, as_json: bool) -> None:
    while True:
        # The state is asked for before the logs: what is written until it has stopped is still read.
        live, names = reader.nodes()
        pages = [reader.all(name) for name in names if node in (None, name)]
        for page in pages:
            if page.text and as_json:
                output.dump(page, line=True)
            elif page.text:
                _print(page, prefixed=node is None)
        if not live or (pages and node is not None and reader.complete(node)):
            return
        time.sleep(FOLLOW_SECONDS)


def _print(page: LogPage, *, prefixed: bool) -> None:
    for line in page.text.splitlines():
        output.raw(f"{page.node}  {line}\n" if prefixed else f"{line}\n")


class _Reader:
    """Reads each node's log from where it stopped, page by page."""

    def __init__(self, api: Session, account: str, cluster: str, *, tail: int | None) -> None:
        self._api = api
        self._account = account
        self._cluster = cluster
        self._tail = tail
        self._cursors: dict[str, str] = {}
        self._complete: dict[str, LogPage] = {}

    def nodes(self) -> tuple[bool, list[str]]:
        """Return whether the cluster lives, and the names of its nodes."""
        from ropewalk.client import calls

        found = self._api(calls.get_cluster(self._account, self._cluster))
        return found.state.live, [node.name for node in found.nodes]

    def complete(self, node: str) -> bool:
        return node in self._complete

    def all(self, node: str) -> LogPage:
        """Return everything that the node wrote since the last call, as one page."""
        from ropewalk.client import calls

        if node in self._complete:
            return self._complete[node].model_copy(update={"text": ""})
        first = node not in self._cursors
        text = []
        while True:
            (page,) = self._api(calls.get_logs(self._account, self._cluster, node=node, cursor=self._cursors.get(node)))
            moved = self._cursors.get(node) != page.cursor
            self._cursors[node] = page.cursor
            text.append(page.text)
            if page.complete or not (page.text and moved):
                break
        whole = page.model_copy(update={"text": self._cut("".join(text)) if first else "".join(text)})
        if whole.complete:
            self._complete[node] = whole
        return whole

    def _cut(self, text: str) -> str:
        if self._tail is None:
            return text
        return "".join(text.splitlines(keepends=True)[-self._tail :]) if self._tail else ""


def events(
    cluster: options.ClusterName,
    follow: Follow = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Show a cluster's timeline. With --follow and --json: one event a line."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug, name = api.locate(cluster, account)
        if follow:
            for event in api.follow_events(slug, name):
                if as_json:
                    output.dump(event, line=True)
                else:
                    output.event(event)
            return
        found = api(calls.list_events(slug, name))
        while found and (page := api(calls.list_events(slug, name, after=found[-1].id))):
            found += page
    if as_json:
        output.dump(found)
    else:
        output.events(found, empty="Nothing has happened yet.")
