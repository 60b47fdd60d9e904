"""What the rows of a cluster want: of a backend when nodes are launched, and of the scheduler that runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ropewalk.backends.port import Backend, ClusterRef, LaunchRequest, NodeLaunch, NodeShape
from ropewalk.schemas.clusters import NodeRole
from ropewalk.server.clusters.secret import ClusterSecret
from ropewalk.server.db.models import Cluster, Node
from ropewalk.server.environments.venvs import interpreter_of


def adaptive_bounds(cluster: Cluster) -> dict[str, int] | None:
    """Return the bounds between which the cluster adapts; None: it does not."""
    if cluster.minimum is None or cluster.maximum is None:
        return None
    return {"minimum": cluster.minimum, "maximum": cluster.maximum}


LIMITS = ("idle_timeout", "no_client_timeout", "cluster_timeout")


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a scheduler is told that may change while it runs."""

    adaptive: Mapping[str, int] | None
    limits: Mapping[str, float | None]


def wishes(cluster: Cluster) -> Wishes:
    """Return what the cluster's scheduler should act on now."""
    return Wishes(adaptive_bounds(cluster), {name: cluster.spec[name] for name in LIMITS})


def price(backend: Backend, cluster: Cluster, role: NodeRole, *, spot: bool) -> tuple[float, str]:
    """Return what a node costs an hour, and in which currency."""
    shape = NodeShape(cluster.spec[f"{role}_cpu"], cluster.spec[f"{role}_memory"])
    return backend.hourly_price(shape, spot=spot, options=cluster.spec.get("backend_options"))


def batches(nodes: Sequence[Node], size: int) -> list[Sequence[Node]]:
    """Return *nodes* in batches of *size* at the most, the scheduler in the first."""
    ordered = sorted(nodes, key=lambda node: node.role != NodeRole.SCHEDULER)
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def request(
    ref: ClusterRef, cluster: Cluster, nodes: Sequence[Node], secret: ClusterSecret, *, scheduler: str | None
) -> LaunchRequest:
    """Return the request that launches *nodes*; *scheduler* is its address, unless it is one of them."""
    return LaunchRequest(
        cluster=ref,
        nodes=[node_launch(ref, cluster, node, secret) for node in nodes],
        scheduler=None if nodes[0].role == NodeRole.SCHEDULER else scheduler,
        options=cluster.spec.get("backend_options") or {},
        image=cluster.image or cluster.spec.get("container"),
        interpreter=None if cluster.venv is None else str(interpreter_of(Path(cluster.venv))),
        tags=cluster.tags,
    )


def spot(cluster: Cluster, role: NodeRole) -> bool:
    """Say whether such a node should run on capacity that the cloud may take back; a scheduler never does."""
    return role is NodeRole.WORKER and cluster.spec.get("spot_policy", "on-demand") != "on-demand"


def node_launch(ref: ClusterRef, cluster: Cluster, node: Node, secret: ClusterSecret) -> NodeLaunch:
    """Return one node to launch, with the configuration that ``ropewalk/node/main.py`` documents."""
    role = NodeRole(node.role)
    own = _scheduler_config(cluster) if role is NodeRole.SCHEDULER else _worker_config(cluster, node)
    config: dict[str, Any] = {
        "v": 1,
        "installation": ref.installation,
        "cluster": cluster.id,
        "cluster_name": cluster.name,
        "node": node.name,
        "role": role.value,
        "tls": secret.certificates.for_role(role.value),
        **own,
    }
    gpu = int(cluster.spec.get("worker_gpu") or 0) if role is NodeRole.WORKER else 0
    shape = NodeShape(node.cpu, node.memory, gpu)
    return NodeLaunch(
        node.name,
        role,
        shape,
        config=config,
        environ=secret.environ,
        spot=spot(cluster, role),
        spot_fallback=cluster.spec.get("spot_policy") == "spot_with_fallback",
        attempt=node.launch_attempts,
    )


def _scheduler_config(cluster: Cluster) -> Mapping[str, Any]:
    spec = cluster.spec
    return {
        "options": spec["scheduler_options"],
        **asdict(wishes(cluster)),
    }


def _worker_config(cluster: Cluster, node: Node) -> Mapping[str, Any]:
    spec = cluster.spec
    return {
        "options": spec["worker_options"],
        "worker_class": spec["worker_class"],
        "nthreads": max(1, int(node.cpu)),
        "memory_limit": node.memory,
    }
