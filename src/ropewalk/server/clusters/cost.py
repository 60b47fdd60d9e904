"""What clusters cost, by the prices that were in force when each node was made."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from ropewalk.backends.port import Backend, NodeShape
from ropewalk.schemas.clusters import ClusterSpec, Cost, CostEstimate, NodeState, total
from ropewalk.server.db.models import Node

_LIVE = frozenset(state.value for state in NodeState if state.live)


def cost(nodes: Iterable[Node], now: datetime) -> Cost:
    """Return the cost of all *nodes* of a cluster: from when the cloud accepted each until it was seen to be gone."""
    nodes = list(nodes)
    billed = [node for node in nodes if node.started_at is not None]
    return Cost(
        currency=nodes[0].currency if nodes else "USD",
        per_hour=total([node.hourly_price for node in billed if node.state in _LIVE]),
        so_far=total([node.hourly_price * _hours(node, now) for node in billed]),
    )


def _hours(node: Node, now: datetime) -> float:
    assert node.started_at is not None  # noqa: S101 - the caller left out nodes that never started
    return max(0.0, ((node.stopped_at or now) - node.started_at).total_seconds()) / 3600


def estimate(spec: ClusterSpec, backend: Backend) -> CostEstimate:
    """Return what a cluster would cost per hour."""
    options, spot = spec.backend_options, spec.spot_policy != "on-demand"
    scheduler, currency = backend.hourly_price(NodeShape(spec.scheduler_cpu, spec.scheduler_memory), options=options)
    shape = NodeShape(spec.worker_cpu, spec.worker_memory, spec.worker_gpu)
    worker, _ = backend.hourly_price(shape, spot=spot, options=options)
    least, most = (total([scheduler, worker * count]) for count in (spec.minimum, spec.maximum))
    text = _money(least, currency) if least == most else f"{_money(least, currency)} to {_money(most, currency)}"
    note = backend.price_note(spot=spot, options=options)
    return CostEstimate(currency=currency, per_hour=least, per_hour_maximum=most, text=text, note=note)


def _money(amount: float, currency: str) -> str:
    return f"${amount:.2f}/hr" if currency == "USD" else f"{amount:.2f} {currency}/hr"
