"""Says why a cluster did not start: which node failed, why, and the end of its log."""

from __future__ import annotations

from contextlib import suppress

from ropewalk.client import calls
from ropewalk.client.http import AsyncApi, Steps
from ropewalk.errors import ClusterStartError, RopewalkError
from ropewalk.schemas.clusters import ClusterDetail, Node, NodeRole, NodeState

__all__ = ["log_steps", "read_log", "start_error"]

TAIL_LINES = 20
_BAD = (NodeState.FAILED, NodeState.LOST)


def guilty(nodes: list[Node]) -> Node | None:
    """Return the node to blame: a failed scheduler before a failed worker, the latest first; None if none failed.

    A node that was told to stop, because the others did, is not to blame however it took that.
    """
    failed = [node for node in nodes if node.state in _BAD]
    by_role = sorted(failed, key=lambda node: (node.role is NodeRole.SCHEDULER, node.stopped_at or node.created_at))
    return by_role[-1] if by_role else None


async def start_error(api: AsyncApi, detail: ClusterDetail, headline: str) -> ClusterStartError:
    """Return the error to raise; *headline* says what happened to the cluster as a whole."""
    node = guilty(detail.nodes) or _silent(detail.nodes)
    details: dict[str, object] = {"cluster": detail.id, "name": detail.name, "state": str(detail.state)}
    text = headline
    if node is not None:
        details |= {"node": node.name, "role": str(node.role), "exit_code": node.exit_code, "reason": node.reason}
        text += _who(node, headline)
        log = ""
        with suppress(RopewalkError):  # the log is an extra: without it there is still a reason
            log = await read_log(api, detail.account, detail.id, node.name)
        tail = log.rstrip().splitlines()[-TAIL_LINES:]
        if tail:
            details["log"] = tail
            text += "\n\nThe end of its log:\n" + "\n".join(f"  {line}" for line in tail)
    return ClusterStartError(
        text,
        advice=f"All of it: `ropewalk cluster logs {detail.account}/{detail.name}`.",
        details=details,
    )


def _who(node: Node, headline: str) -> str:
    """Say which node it was, and why unless the headline said that already."""
    if node.reason and node.reason in headline:
        return "" if node.name in headline else f" ({node.name})"
    return f" {node.role.capitalize()} {node.name} {_became(node)}."


def _silent(nodes: list[Node]) -> Node | None:
    """Return the scheduler if it is what does not come up, else a worker of which it is known why it waits."""
    waiting = [node for node in nodes if node.state in (NodeState.PENDING, NodeState.STARTING)]
    scheduler = next((node for node in waiting if node.role is NodeRole.SCHEDULER), None)
    return scheduler or next((node for node in waiting if node.reason), None)


def _became(node: Node) -> str:
    """Say what happened to a node, as the end of a sentence."""
    if node.state.live:
        return f"is still {node.state}" + (f": {node.reason.rstrip('.')}" if node.reason else "")
    exit_code = f" with exit code {node.exit_code}" if node.exit_code is not None else ""
    reason = f": {node.reason.rstrip('.')}" if node.reason else ""
    return f"is {node.state}{exit_code}{reason}"


async def read_log(api: AsyncApi, account: str, cluster: str, node: str) -> str:
    """Return all that a node has logged so far."""
    return await api.drive(log_steps(account, cluster, node))


def log_steps(account: str, cluster: str, node: str) -> Steps[str]:
    """The calls that read all that a node has logged so far."""
    text: list[str] = []
    cursor: str | None = None
    while True:
        pages = yield calls.get_logs(account, cluster, node=node, cursor=cursor)
        page = next((each for each in pages if each.node == node), None)
        if page is None:
            return "".join(text)
        text.append(page.text)
        if page.complete or not page.text or page.cursor == cursor:
            return "".join(text)
        cursor = page.cursor
