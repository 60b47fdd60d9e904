"""All that happened to a cluster: its events, and what its nodes have logged."""

from __future__ import annotations

from collections.abc import Iterable

from distributed.utils import Log, Logs

from ropewalk.client import calls
from ropewalk.client.failure import read_log
from ropewalk.client.http import AsyncApi
from ropewalk.client.view import own_name
from ropewalk.schemas.clusters import ClusterDetail, Node, NodeRole
from ropewalk.schemas.common import Event

__all__ = ["read_events", "read_logs"]


async def read_events(api: AsyncApi, detail: ClusterDetail) -> list[Event]:
    """Return all events, the earliest first."""
    found: list[Event] = []
    while True:
        after = found[-1].id if found else None
        page = await api(calls.list_events(detail.account, detail.id, after=after))
        found += page
        if not page:
            return found


async def read_logs(
    api: AsyncApi, detail: ClusterDetail, *, cluster: bool, scheduler: bool, workers: bool | Iterable[str]
) -> Logs:
    """Return the logs of the nodes by name.

    Args:
        api: Where to ask.
        detail: The cluster, with its nodes.
        cluster: Include what happened to the cluster as a whole.
        scheduler: Include the scheduler's log.
        workers: Include all workers, none, or those of these names or addresses.
    """
    logs = Logs()
    if cluster:
        events = await read_events(api, detail)
        logs["Cluster"] = Log("\n".join(f"{event.time:%Y-%m-%d %H:%M:%S} {event.message}" for event in events))
    chosen = workers if isinstance(workers, bool) else set(workers)
    for node in detail.nodes:
        is_scheduler = node.role is NodeRole.SCHEDULER
        if scheduler if is_scheduler else _is_chosen(node, chosen):
            log = await read_log(api, detail.account, detail.id, node.name)
            logs["Scheduler" if is_scheduler else node.name] = Log(log)
    return logs


def _is_chosen(node: Node, chosen: bool | set[str]) -> bool:
    return chosen if isinstance(chosen, bool) else bool(chosen & {node.name, node.address or "", own_name(node)})
