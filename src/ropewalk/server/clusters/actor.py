"""One cluster's loop: look, plan, write, act, record; again when something changed.

Everything that matters is in the database before a cloud is called, so that whoever takes over after a crash, at any
point, finds by name what may exist. What this object keeps in memory (sightings, the link) can be had again by looking.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.backends.port import (
    Backend,
    ClusterRef,
    NodeHandle,
    Sighting,
)
from ropewalk.errors import BackendError, SecretsError, TryAgainError, UnavailableError
from ropewalk.schemas.clusters import ClusterState, NodeRole, NodeState
from ropewalk.server.clusters import store, wanted
from ropewalk.server.clusters.launches import CALL_SECONDS, Launches
from ropewalk.server.clusters.leases import Lease, LeaseLostError, fenced
from ropewalk.server.clusters.links import Link
from ropewalk.server.clusters.naming import own_name, own_names
from ropewalk.server.clusters.plan import RETIRE_AGAIN, STOP_AGAIN, Action, ActionKind, plan
from ropewalk.server.clusters.secret import open_secret
from ropewalk.server.clusters.silence import Silence
from ropewalk.server.context import Context
from ropewalk.server.db.models import Cluster, Event, Node
from ropewalk.server.events import EventCode, record

FIRST_RETRY, LAST_RETRY = 1.0, 30.0
"""Seconds between tries when the database or the backend cannot be used."""
CHOOSE_AGAIN = timedelta(seconds=2)
"""Time until a scheduler that could spare no worker is asked again."""
STEPS_AT_ONCE = 20
"""Steps planned in one transaction at the most; three or four is usual."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an actor needs from the reconciler that runs it."""

    context: Context
    installation: str
    account: Callable[[str], str]
    """Slug of an account's id."""
    kick: Callable[[str], None]
    """Look at the nodes of a cloud account again."""
    passes: asyncio.Semaphore
    """Bounds how many clusters are worked on at once."""


class Actor:
    """Makes one cluster what its row says that it should be, for as long as the lease holds."""

    def __init__(self, lease: Lease, surroundings: Surroundings, backend: Backend) -> None:
        self.lease = lease
        self.state: ClusterState | None = None
        self.wakes = 0
        self._around = surroundings
        self._context = surroundings.context
        self._backend = backend
        self._wake = asyncio.Event()
        self._woken_at: float | None = None
        self._handles: dict[str, NodeHandle] = {}
        self._sightings: dict[str, Sighting] = {}
        self._link: Link | None = None
        self._stale_link = False
        self._told: wanted.Wishes | None = None
        self._silence: Silence | None = None
        self._worked = False
        self._launches = Launches(self._context)
        self._first: tuple[Cluster, Sequence[Node], Sequence[Action]] | None = None
        """What was decided, and written, together with the cluster."""
        self._retiring: set[str] = set()
        self._asked_to_stop: set[str] = set()
        self._choose_at: datetime | None = None
        self._background: set[asyncio.Task[None]] = set()

    # What others tell it.

    def wake(self) -> None:
        """Look again: something changed."""
        self.wakes += 1
        self._woken_at = self._woken_at or time.monotonic()
        self._wake.set()

    def use(self, backend: Backend) -> None:
        """Go on with another backend: the cloud account has new settings or credentials."""
        if backend is not self._backend:
            self._backend, self._stale_link = backend, True
            self.wake()

    @property
    def linked(self) -> bool:
        """Whether the scheduler is heard."""
        return self._link is not None and self._link.up

    def watched(self) -> Iterable[NodeHandle]:
        """Return the nodes that the observer should look at."""
        return self._handles.values()

    def saw(self, handle: NodeHandle, sighting: Sighting) -> None:
        """Take what the observer saw, unless the node has changed since the look began."""
        if self._handles.get(handle.name) is handle and self._sightings.get(handle.name) != sighting:
            self._sightings[handle.name] = sighting
            if self._launches.expected.pop(handle.name, None) != sighting:
                self.wake()

    # Its loop.

    async def run(self) -> None:
        """Work until the cluster has ended or the lease is lost."""
        delay = FIRST_RETRY
        structlog.contextvars.bind_contextvars(cluster=self.lease.cluster_id)
        try:
            while self.state is None or self.state.live:
                self._wake.clear()
                try:
                    async with self._around.passes:
                        again_at = await self._settle()
                    delay = FIRST_RETRY
                except LeaseLostError:
                    log.info("lease.lost")
                    self._context.metrics.leases_lost.inc()
                    return
                except (SQLAlchemyError, OSError, UnavailableError, BackendError, SecretsError) as exc:
                    self._context.metrics.reconcile_errors.labels(type(exc).__name__).inc()
                    self._context.metrics.retries.labels("actor").inc()
                    log.warning("reconcile.failed", error=str(exc).splitlines()[0], retry_in=delay)
                    again_at = self._context.clock.now() + timedelta(seconds=delay)
                    delay = min(delay * 2, LAST_RETRY)
                await self._sleep_until(again_at)
        finally:
            await self._close()

    async def _sleep_until(self, moment: datetime | None) -> None:
        if self.state is not None and not self.state.live:
            return
        seconds = None
        if moment is not None:
            seconds = max(0.0, (moment - self._context.clock.now()).total_seconds())
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _close(self) -> None:
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        if self._link is not None:
            await self._link.stop()

    async def _settle(self) -> datetime | None:
        """Take steps until only time or news can change anything; returns when to look again."""
        if self._first is not None:
            first, self._first = self._first, None
            await self._make_true(*first)
        while True:
            actions = await self._step()
            times = [action.at for action in actions if action.kind is ActionKind.WAKE_AT and action.at is not None]
            if all(action.kind is ActionKind.WAKE_AT for action in actions):
                return min(times, default=None)
            if self.state is not None and not self.state.live:
                return None

    async def _step(self) -> Sequence[Action]:
        """Look, plan, write, act once."""
        self._context.metrics.reconcile_passes.inc()
        if self._woken_at is not None:
            self._context.metrics.reconcile_lag.observe(time.monotonic() - self._woken_at)
            self._woken_at = None
        now = self._context.clock.now()
        launched = self._launches.untold
        async with fenced(self._context, self.lease) as session:
            cluster, nodes = await store.load(session, self.lease.cluster_id)
            with session.no_autoflush:  # what is written is seen without asking
                self._launches.record(session, self._backend, cluster, nodes, now)
                actions, last = await self._decide_all(session, cluster, nodes, now)
            if launched or _tell_of(session, cluster, actions):
                await self._context.wakeups.announce(session, f"events:{cluster.id}", f"account:{cluster.account_id}")
        self._launches.written()
        await self._make_true(cluster, nodes, last)
        return last

    async def _decide_all(
        self, session: AsyncSession, cluster: Cluster, nodes: list[Node], now: datetime
    ) -> tuple[Sequence[Action], Sequence[Action]]:
        """Plan step after step, as long as they are nothing but writing; returns all of them, and the last one's."""
        everything: list[Action] = []
        actions: Sequence[Action] = ()
        for _ in range(STEPS_AT_ONCE):
            actions = await self._decide(session, cluster, nodes, now)
            everything += actions
            calls = any(action.kind in _CALLS for action in actions)
            if calls or all(action.kind is ActionKind.WAKE_AT for action in actions):
                break
            nodes[:] = store.those_that_matter(nodes)
        return everything, actions

    async def _decide(
        self, session: AsyncSession, cluster: Cluster, nodes: list[Node], now: datetime
    ) -> Sequence[Action]:
        """Plan the next step, and write down what it is; *nodes* gets those that are added."""
        self._worked = self._worked or await store.ever_worked(session, cluster, nodes)
        self._note(session, cluster, nodes)
        link = self._link
        linked = link is not None and link.up
        silence = await self._listen(session, now, linked=linked)
        seen = store.view(
            cluster,
            nodes,
            self._sightings,
            link.status if link else None,
            linked=linked,
            worked=self._worked,
            address_first=self._backend.capabilities.scheduler_address_first,
            asked=self._asked_to_stop,
            silence=silence,
            own_name=lambda node: own_name(self._backend, node.name, node.cloud_id),
        )
        planned = plan(seen, now)
        self._clear_attention(cluster, nodes, planned)
        actions = [self._unless_under_way(action, cluster, now) for action in planned]
        self._write(session, cluster, nodes, actions, now)
        return actions

    async def _make_true(self, cluster: Cluster, nodes: Sequence[Node], actions: Sequence[Action]) -> None:
        """Do what was decided, and is committed; *actions* are those of the last step: before it, all was writing."""
        self.state = ClusterState(cluster.state)
        await self._follow_rows(cluster, nodes)
        await self._act(cluster, nodes, actions)

    async def write_first(self, session: AsyncSession, cluster: Cluster, now: datetime) -> Sequence[Node]:
        """Take the first steps in the transaction that makes the cluster, up to those that are more than writing.

        So the backend is called right after that transaction, and not after three others. Nothing is asked of the
        database; the cluster's own row is left to the caller. Returns the nodes.
        """
        self._silence = self._new_silence(told=False)
        nodes: list[Node] = []
        _, last = await self._decide_all(session, cluster, nodes, now)
        self._first = (cluster, nodes, last)
        return nodes

    async def _listen(self, session: AsyncSession, now: datetime, *, linked: bool) -> Silence:
        """Take note of whether the scheduler is heard."""
        if self._silence is None:
            self._silence = self._new_silence(told=await store.link_was_lost(session, self.lease.cluster_id))
        self._silence.note(now, linked=linked)
        return self._silence

    def _new_silence(self, *, told: bool) -> Silence:
        return Silence(timedelta(seconds=self._context.settings.silent_scheduler_seconds), told=told)

    def _unless_under_way(self, action: Action, cluster: Cluster, now: datetime) -> Action:
        """Replace what is being done already, or was said already, by waiting."""
        if action.kind is ActionKind.RETIRE and set(action.names) <= self._retiring:
            return Action(ActionKind.WAKE_AT)
        if action.kind is ActionKind.ATTENTION and cluster.reason == action.reason:
            return Action(ActionKind.WAKE_AT)
        if action.kind is ActionKind.CHOOSE and self._choose_at is not None and now < self._choose_at:
            return Action(ActionKind.WAKE_AT, at=self._choose_at)
        return action

    # Writing: all before any call.

    def _note(self, session: AsyncSession, cluster: Cluster, nodes: Sequence[Node]) -> None:
        """Keep what the scheduler and the cloud said that is not about a single node's state."""
        for node in nodes:
            sighting = self._sightings.get(node.name)
            if sighting is not None:
                _note_sighting(cluster, node, sighting)
        status = self._link.status if self._link is not None and self._link.up else None
        if status is None:
            return
        if dict(status.versions) != cluster.versions:
            cluster.versions = dict(status.versions)
        cluster.dashboard_port = status.dashboard_port
        bounds = wanted.adaptive_bounds(cluster)
        if bounds is not None and status.target is not None and self._told and self._told.adaptive == bounds:
            target = max(bounds["minimum"], min(bounds["maximum"], status.target))
            if target != cluster.n_workers and cluster.stop_requested_at is None:
                self._tell(session, cluster, EventCode.CLUSTER_SCALED, _adapted(cluster.n_workers, target))
                cluster.n_workers = target

    def _tell(
        self, session: AsyncSession, cluster: Cluster, code: EventCode, message: str, *, level: str = "info"
    ) -> None:
        now = self._context.clock.now()
        record(session, now, code, message, level=level, account_id=cluster.account_id, cluster_id=cluster.id)

    def _clear_attention(self, cluster: Cluster, nodes: Sequence[Node], planned: Sequence[Action]) -> None:
        """Take back a note once nothing is on its way out any more, and the scheduler is heard."""
        if cluster.reason is not None and cluster.stop_code is None:
            leaving = any(node.state == NodeState.STOPPING for node in nodes)
            current = any(a.kind is ActionKind.ATTENTION and a.reason == cluster.reason for a in planned)
            cluster.reason = cluster.reason if leaving or current else None

    def _write(
        self, session: AsyncSession, cluster: Cluster, nodes: list[Node], actions: Sequence[Action], now: datetime
    ) -> None:
        rows = {node.name: node for node in nodes}
        store.mark_nodes(session, cluster, rows, actions, now)
        store.note_waiting(session, cluster, rows, actions, now)
        for action in actions:
            for name in action.names:
                if action.kind is ActionKind.LAUNCH:
                    rows[name].launch_attempts += 1
                elif action.kind is ActionKind.STOP:
                    rows[name].stop_asked_at = rows[name].stop_asked_at or now
                    rows[name].retry_at = now + STOP_AGAIN
            match action.kind:
                case ActionKind.MARK_CLUSTER:
                    store.mark_cluster(session, cluster, action, now)
                case ActionKind.ATTENTION:
                    cluster.reason = action.reason
                    self._tell(session, cluster, EventCode.CLUSTER_ATTENTION, action.reason or "", level="warning")
                case ActionKind.LINK_LOST | ActionKind.LINK_BACK:
                    self._tell_link(session, cluster, action.kind, now)
                case ActionKind.ADD_SCHEDULER:
                    nodes.append(self._add(session, cluster, NodeRole.SCHEDULER, now))
                case ActionKind.ADD_WORKERS:
                    nodes += [self._add(session, cluster, NodeRole.WORKER, now) for _ in range(action.count)]

    def _tell_link(self, session: AsyncSession, cluster: Cluster, kind: ActionKind, now: datetime) -> None:
        assert self._silence is not None  # noqa: S101 - _listen made it before the plan
        if kind is ActionKind.LINK_BACK:
            self._silence.tell_back()
            self._tell(session, cluster, EventCode.CLUSTER_LINK_BACK, "Its scheduler is heard again.")
            return
        self._silence.tell_lost(now)
        why = f" ({self._link.error})" if self._link is not None and self._link.error else ""
        message = f"Its scheduler cannot be heard{why}. Computations may go on; it is asked again and again."
        self._tell(session, cluster, EventCode.CLUSTER_LINK_LOST, message, level="warning")

    def _add(self, session: AsyncSession, cluster: Cluster, role: NodeRole, now: datetime) -> Node:
        if role is NodeRole.WORKER:
            cluster.worker_counter += 1
        name = f"{cluster.id}-{role}" + (f"-{cluster.worker_counter}" if role is NodeRole.WORKER else "")
        price = wanted.price(self._backend, cluster, role, spot=wanted.spot(cluster, role))
        node = store.new_node(cluster, name, role, now, price)
        session.add(node)
        return node

    # Acting.

    async def _follow_rows(self, cluster: Cluster, nodes: Sequence[Node]) -> None:
        """Watch what the rows say may run, and keep the link to the scheduler."""
        states = {node.name: NodeState(node.state) for node in nodes}
        keep = {name for name, state in states.items() if state.live and state is not NodeState.PENDING}
        for name in set(self._handles) - keep:
            self._handles.pop(name)
            self._sightings.pop(name, None)
            self._launches.expected.pop(name, None)
        handles = {node.name: store.handle(node) for node in nodes if node.name in keep}
        fresh = {name: handle for name, handle in handles.items() if handle != self._handles.get(name)}
        self._handles |= fresh
        if fresh:
            self._around.kick(self.lease.cloud_account_id)
        await self._keep_link(cluster, states)

    async def _keep_link(self, cluster: Cluster, states: dict[str, NodeState]) -> None:
        name = f"{cluster.id}-{NodeRole.SCHEDULER}"
        alive = states.get(name) in (NodeState.STARTING, NodeState.READY)
        address = cluster.scheduler_address if alive else None
        if self._link is not None and (self._link.address != address or self._stale_link):
            await self._link.stop()
            self._link = None
        self._stale_link = False
        if address is not None and self._link is None:
            tls = open_secret(self._context.vault, cluster).certificates.for_role("control")
            self._link = Link(self._backend, self._handles[name], address, tls=tls, on_change=self.wake)
            self._link.start()
        wishes = wanted.wishes(cluster)
        if self._link is not None and self._link.up and wishes != self._told:
            self._told = wishes
            self._start(self._configure(self._link, wishes))

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _configure(self, link: Link, wishes: wanted.Wishes) -> None:
        try:
            await link.configure(adaptive=wishes.adaptive, limits=wishes.limits)
        except TryAgainError as exc:
            log.info("link.configure_failed", error=exc.message)
            await asyncio.sleep(exc.delay)
            self._told = None
            self.wake()

    async def _act(self, cluster: Cluster, nodes: Sequence[Node], actions: Sequence[Action]) -> None:
        rows = {node.name: node for node in nodes}
        for action in actions:
            chosen = [rows[name] for name in action.names]
            match action.kind:
                case ActionKind.LAUNCH:
                    await self._launch(cluster, chosen, store.inside(cluster, nodes))
                case ActionKind.STOP:
                    await self._stop(chosen)
                case ActionKind.CHOOSE:
                    await self._choose(action.count, nodes)
                case ActionKind.RETIRE:
                    names = set(action.names) - self._retiring
                    self._retiring |= names
                    self._start(self._retire(names))

    async def _launch(self, cluster: Cluster, nodes: Sequence[Node], scheduler: str | None) -> None:
        """Launch; the next step records how it went, before anything else is decided."""
        account = self._around.account(cluster.account_id)
        ref = ClusterRef(self._around.installation, account, cluster.id, cluster.name)
        await self._launches.call(self._backend, ref, cluster, nodes, scheduler)

    async def _stop(self, nodes: Sequence[Node]) -> None:
        self._asked_to_stop |= {node.name for node in nodes}
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await self._backend.stop([store.handle(node) for node in nodes])
        except Exception as exc:  # noqa: BLE001 - a backend's defect, too
            # The rows say that it was asked, and when to ask again; nothing is forgotten.
            self._context.metrics.reconcile_errors.labels(type(exc).__name__).inc()
            log.warning("stop.failed", error=str(exc), nodes=[node.name for node in nodes])
        self._around.kick(self.lease.cloud_account_id)

    async def _choose(self, count: int, nodes: Sequence[Node]) -> None:
        """Let the scheduler say which workers it can spare, and write down that they leave."""
        link = self._link
        if link is None or not link.up:
            return
        leaving = {node.name for node in nodes if node.state == NodeState.STOPPING}
        staying = [node for node in nodes if node.state in (NodeState.STARTING, NodeState.READY)]
        candidates = own_names(self._backend, map(store.handle, staying))
        names: list[str] = []
        try:
            ranked = await link.choose(count + len(leaving))
            names = [candidates[name] for name in ranked if name in candidates][:count]
        except TryAgainError as exc:
            log.info("link.choose_failed", error=exc.message)
        if not names:
            self._choose_at = self._context.clock.now() + CHOOSE_AGAIN
            return
        now = self._context.clock.now()
        async with fenced(self._context, self.lease) as session:
            cluster = await session.get_one(Cluster, self.lease.cluster_id)
            reason = "It was not needed any more."
            change = {"state": NodeState.STOPPING.value, "reason": reason, "retry_at": None}
            await session.execute(update(Node).where(Node.name.in_(names)).values(**change))
            store.tell_nodes(session, cluster, now, EventCode.NODE_RETIRING, names, verb="is leaving the cluster")

    async def _retire(self, names: set[str]) -> None:
        """Move results off workers that leave; runs beside the loop, since it may take minutes."""
        done: set[str] = set()
        problem = "The other workers have no room for their results."
        try:
            if self._link is not None:
                called = own_names(self._backend, [self._handles[name] for name in names if name in self._handles])
                done = {called[name] for name in await self._link.retire(sorted(called))}
        except TryAgainError as exc:
            problem = exc.message
        now = self._context.clock.now()
        try:
            async with fenced(self._context, self.lease) as session:
                await session.execute(update(Node).where(Node.name.in_(done)).values(retired_at=now, retry_at=None))
                kept = sorted(names - done)
                later = update(Node).where(Node.name.in_(kept), Node.state == NodeState.STOPPING)
                await session.execute(later.values(retry_at=now + RETIRE_AGAIN))
                cluster = await session.get_one(Cluster, self.lease.cluster_id)
                reason = f"{len(kept)} of the workers that should leave could not be retired: {problem}"
                if kept and cluster.reason != reason:
                    cluster.reason = reason
                    self._tell(session, cluster, EventCode.CLUSTER_ATTENTION, reason, level="warning")
        except (LeaseLostError, SQLAlchemyError, UnavailableError) as exc:
            log.info("retire.not_recorded", error=type(exc).__name__)
        finally:
            self._retiring -= names
            self.wake()


_CALLS = frozenset({ActionKind.LAUNCH, ActionKind.STOP, ActionKind.CHOOSE, ActionKind.RETIRE})
"""What is done after it was written that it will be; what comes next depends on how it went."""
_UNTOLD = _CALLS | {ActionKind.WAKE_AT}
"""What nobody sees before it is done, and told then."""


def _tell_of(session: AsyncSession, cluster: Cluster, actions: Sequence[Action]) -> bool:
    """Say whether those who follow the cluster should look: each look costs as much as a pass."""
    seen = any(action.kind not in _UNTOLD for action in actions)
    return seen or session.is_modified(cluster) or any(isinstance(each, Event) for each in session.new)


def _adapted(before: int, target: int) -> str:
    return f"The cluster adapts to its work: from {before} to {target} workers."


def _note_sighting(cluster: Cluster, node: Node, sighting: Sighting) -> None:
    """Keep where a scheduler is reached, and what the cloud calls a node whose launch was never answered."""
    node.cloud_id = node.cloud_id or sighting.cloud_id
    if node.role == NodeRole.SCHEDULER:
        node.address = sighting.internal or sighting.address or node.address
        cluster.scheduler_address = sighting.address or cluster.scheduler_address
