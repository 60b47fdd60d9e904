"""What a cluster object shows of the server's view: names of workers, and rows of its table in notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable

from ropewalk.schemas.clusters import ClusterDetail, Node, NodeRole

__all__ = ["own_name", "scaling_table", "status_rows", "workers"]


def workers(detail: ClusterDetail | None) -> list[Node]:
    """Return the workers, those that have ended included."""
    return [node for node in (detail.nodes if detail else []) if node.role is NodeRole.WORKER]


def own_name(node: Node) -> str:
    """Return what a node calls itself, where the cloud names nodes."""
    return node.cloud_id.rpartition("/")[2] if node.cloud_id else node.name


def scaling_table(detail: ClusterDetail | None, here: int) -> str:
    """Return a table in HTML: how the cluster scales, and how many workers of those wanted are *here*."""
    mode, wanted = "Manual", 0
    if detail is not None:
        wanted = detail.n_workers
        if detail.minimum is not None:
            mode = f"Adaptive, {detail.minimum} to {detail.maximum}"
    count = str(here) if here == wanted else f"{here} / {wanted}"
    return f"<table>{_rows([('Scaling mode', mode), ('Workers', count)])}</table>"


def status_rows(detail: ClusterDetail | None) -> str:
    """Return rows in HTML that Dask's own table of a cluster does not have."""
    if detail is None:
        return ""
    cells = [("Account", detail.account), ("State", str(detail.state))]
    if detail.reason:
        cells.append(("Reason", detail.reason))
    if detail.cost.per_hour or detail.cost.so_far:
        price = f"{detail.cost.per_hour:.2f} {detail.cost.currency}/hr, {detail.cost.so_far:.2f} so far"
        cells.append(("Cost", price))
    return _rows(cells)


def _rows(cells: Iterable[tuple[str, str]]) -> str:
    left = '<td style="text-align: left;">'
    return "".join(
        f"<tr>{left}<strong>{html.escape(name)}:</strong> {html.escape(text)}</td></tr>" for name, text in cells
    )
