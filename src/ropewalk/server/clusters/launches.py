"""Launches of one cluster's nodes: the calls, and what they said until it is written down."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.backends.port import (
    Answer,
    Backend,
    ClusterRef,
    LaunchRequest,
    LaunchResult,
    Sighting,
)
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.clusters import NodeRole, NodeState
from ropewalk.server.clusters import store, wanted
from ropewalk.server.clusters.secret import open_secret
from ropewalk.server.context import Context
from ropewalk.server.db.models import Cluster, Node
from ropewalk.server.events import EventCode

__all__ = ["CALL_SECONDS", "Launches"]

CALL_SECONDS = 120.0
"""A call to a cloud that takes longer is given up and tried again; every call may be repeated."""
LAUNCH_RETRY_LIMIT = 60.0
"""Seconds between two launches of a node at the most."""

log = structlog.get_logger(__name__)


class Launches:
    """Calls a backend, and keeps what it said until the caller's next transaction has written it.

    Attributes:
        expected: What launches said of nodes: a first look that says the same is no news.
    """

    def __init__(self, context: Context) -> None:
        self.expected: dict[str, Sighting] = {}
        self._context = context
        self._said: Mapping[str, LaunchResult] = {}

    @property
    def untold(self) -> bool:
        """Whether there is something to write down."""
        return bool(self._said)

    async def call(
        self, backend: Backend, ref: ClusterRef, cluster: Cluster, nodes: Sequence[Node], scheduler: str | None
    ) -> None:
        """Launch *nodes*; *scheduler* is its address, where it has one.

        All batches go at once; only those that need the address of the scheduler in the first come after it.
        """
        secret = open_secret(self._context.vault, cluster)
        rest = wanted.batches(nodes, backend.capabilities.launch_batch)
        results: list[LaunchResult] = []
        if scheduler is None:
            first = wanted.request(ref, cluster, rest.pop(0), secret, scheduler=None)
            results += await self._launch(backend, first)
            scheduler = next((result.address for result in results if result.address), None)
        later = [wanted.request(ref, cluster, batch, secret, scheduler=scheduler) for batch in rest if scheduler]
        for answer in await asyncio.gather(*(self._launch(backend, request) for request in later)):
            results += answer
        self._keep(results)

    def record(
        self, session: AsyncSession, backend: Backend, cluster: Cluster, nodes: Sequence[Node], now: datetime
    ) -> None:
        """Write down what launches said; after the commit, :meth:`written` has to be called."""
        rows = {node.name: node for node in nodes}
        started: dict[str | None, list[str]] = defaultdict(list)
        for name, result in self._said.items():
            if result.error is None:
                started[result.note].append(name)
                _note_started(backend, cluster, rows[name], result, now)
            else:
                _note_refused(session, cluster, rows[name], result.error, now)
        for note, names in started.items():
            store.tell_nodes(session, cluster, now, EventCode.NODE_LAUNCHED, names, verb="started", reason=note)

    def written(self) -> None:
        """Forget what is written down."""
        self._said = {}

    def _keep(self, results: Sequence[LaunchResult]) -> None:
        self._said = {**self._said, **{result.name: result for result in results}}
        for result in results:
            if result.error is None:
                self.expected[result.name] = Sighting(result.name, Answer.RUNNING, result.cloud_id, result.address)

    async def _launch(self, backend: Backend, request: LaunchRequest) -> Sequence[LaunchResult]:
        """Launch; returns one result for each node, whatever the backend answers."""
        log.info("nodes.launching", nodes=[node.name for node in request.nodes])
        error: BackendError = TryAgainError("The cloud's answer did not tell of it.")
        said: dict[str, LaunchResult] = {}
        try:
            async with asyncio.timeout(CALL_SECONDS):
                answer = await backend.launch(request)
            said = {result.name: result for result in answer if isinstance(result, LaunchResult)}
        except BackendError as exc:
            error = exc
        except TimeoutError:
            error = TryAgainError(f"The cloud did not answer within {CALL_SECONDS:.0f} seconds.")
        except Exception as exc:
            # What took effect is not known; the same names are asked for again, which starts nothing twice.
            log.exception("launch.defect")
            error = TryAgainError(f"The backend failed with {type(exc).__name__}; the server's log says more.")
        results = [said.get(node.name) or LaunchResult(node.name, error=error) for node in request.nodes]
        self._count_refused(results)
        return results

    def _count_refused(self, results: Sequence[LaunchResult]) -> None:
        refused = {result.name: result.error for result in results if result.error is not None}
        for name, error in refused.items():
            self._context.metrics.reconcile_errors.labels(type(error).__name__).inc()
            self._context.metrics.retries.labels("launch").inc(isinstance(error, TryAgainError))
            log.warning("launch.refused", node=name, error=error.message)


def _note_started(backend: Backend, cluster: Cluster, node: Node, result: LaunchResult, now: datetime) -> None:
    node.state = NodeState.STARTING
    node.started_at = now
    node.cloud_id = result.cloud_id
    node.retry_at = None
    role = NodeRole(node.role)
    if role is NodeRole.SCHEDULER and result.address is not None:
        node.address = cluster.scheduler_address = result.address
    if result.spot is not None and result.spot is not wanted.spot(cluster, role):
        node.hourly_price, node.currency = wanted.price(backend, cluster, role, spot=result.spot)


def _note_refused(session: AsyncSession, cluster: Cluster, node: Node, error: BackendError, now: datetime) -> None:
    node.reason = str(error)
    if isinstance(error, FixItError):
        node.permanent = True
        if node.launch_attempts > 1:
            # This try was refused, but an earlier one may have taken effect: it must be seen to be gone.
            node.state, node.retry_at = NodeState.STOPPING, None
        else:
            node.state, node.stopped_at = NodeState.FAILED, now
    else:
        delay = error.delay if isinstance(error, TryAgainError) else 1.0
        wait = min(max(delay, 2.0 ** (node.launch_attempts - 1)), LAUNCH_RETRY_LIMIT)
        node.retry_at = now + timedelta(seconds=wait)
    store.tell_nodes(
        session,
        cluster,
        now,
        EventCode.NODE_LAUNCH_FAILED,
        [node.name],
        verb="could not be launched",
        reason=str(error),
        level="error" if isinstance(error, FixItError) else "warning",
    )
