"""What to do next about one cluster: a pure function of what is wanted, what was seen, and the time.

Creation, scaling, a restart of the server, a crash, an interruption and deletion are all this one function, called
again whenever something changed. It keeps four promises, which are tested with generated histories:

* there are never more live nodes than wanted, but for those on their way out;
* a cluster that stopped stays stopped, and *stopped* is only said when every node was seen to be gone;
* nothing is stopped, replaced or forgotten because of an answer *unknown*;
* if the cloud answers and errors end, it comes to rest in the wanted state.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from ropewalk.backends.port import Answer
from ropewalk.schemas.clusters import ClusterState, NodeRole, NodeState
from ropewalk.server.clusters.reasons import Ending, ending_of_exit, ending_of_signal, worker_end_reason

START_TIMEOUT = timedelta(minutes=15)
"""A node that runs but joined no cluster for so long is given up. Pulling a large image takes minutes."""

STOP_AGAIN = timedelta(seconds=15)
"""A node that was asked to stop and is still there is asked again after so long, for ever."""

ATTENTION = timedelta(minutes=2)
"""A node that was asked to stop for so long without going is reported as needing attention."""

RETIRE_AGAIN = timedelta(seconds=10)
"""A worker whose results could not be moved is tried again after so long."""

MAX_START_FAILURES = 3
"""A cluster none of whose workers ever came up is given up after so many failed ones."""

MAX_LAUNCH_ATTEMPTS = 6
"""A cluster that never ran is given up when the cloud refused a node so many times (about two minutes)."""

MAX_BACKOFF = 300.0
"""Seconds between two replacements of workers that keep failing, at the most."""


WAITING_TOLD = timedelta(seconds=20)
"""Why a node waits is told after so long: usually there is room, and its image is near."""

FALLS_BACK = "The cloud took it for spot capacity, and had none. Another takes its place on demand."
"""Why a worker that never ran is let go where a fall-back is wished; it is no failure to start."""

LINK_PATIENCE = timedelta(seconds=5)
"""A link that is down for less is not worth an event: connecting again takes a second or two."""

LIFETIME_GRACE = timedelta(minutes=1)
"""A scheduler that is not heard is given so long, from the end of its lifetime and of our hearing, to end by itself."""

LIFETIME_IGNORED = timedelta(hours=2)
"""A scheduler that is heard, and so far beyond its lifetime, ignores it. More than any clock is wrong by an hour of
summer time, and than a scheduler, which counts from its own start, starts late."""


class ActionKind(StrEnum):
    ADD_SCHEDULER = "add_scheduler"
    ADD_WORKERS = "add_workers"
    LAUNCH = "launch"
    CHOOSE = "choose"
    RETIRE = "retire"
    STOP = "stop"
    MARK_NODE = "mark_node"
    MARK_CLUSTER = "mark_cluster"
    ATTENTION = "attention"
    WAITING = "waiting"
    LINK_LOST = "link_lost"
    LINK_BACK = "link_back"
    WAKE_AT = "wake_at"


@dataclass(frozen=True, slots=True)
class Action:
    """One step. ``names``, ``count``, ``state``, ``reason``, ``at`` are used as the kind needs."""

    kind: ActionKind
    names: tuple[str, ...] = ()
    count: int = 0
    node_state: NodeState | None = None
    cluster_state: ClusterState | None = None
    reason: str | None = None
    ending: Ending | None = None
    exit_code: int | None = None
    permanent: bool = False
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node's row, and what was last seen of it."""

    name: str
    role: NodeRole
    state: NodeState
    created_at: datetime
    started_at: datetime | None = None
    ready_at: datetime | None = None
    stopped_at: datetime | None = None
    launch_attempts: int = 0
    retry_at: datetime | None = None
    retired: bool = False
    stop_asked_at: datetime | None = None
    permanent: bool = False
    reason: str | None = None
    exit_code: int | None = None
    answer: Answer | None = None
    """None: nobody looked yet."""
    seen_exit_code: int | None = None
    seen_reason: str | None = None
    no_spot: bool = False
    """The cloud has no spot capacity for it, and never ran it."""
    connected: bool = False
    """The scheduler says that it is one of its workers."""
    leaving: bool = False
    """The scheduler says that it was retired."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """A cluster's row, its live nodes, its latest failed workers, and what its scheduler says."""

    state: ClusterState
    wanted: int
    created_at: datetime
    desired_changed_at: datetime
    nodes: tuple[NodeView, ...] = ()
    ever_worked: bool = False
    """A worker of it was ready once."""
    stop_requested: bool = False
    ending: Ending | None = None
    """Why it is ending, once that was decided."""
    linked: bool = False
    """There is a connection to the scheduler, whose word on workers is current."""
    closing: str | None = None
    """The scheduler said that it closes, and why."""
    scheduler_address: bool = False
    """The scheduler's address is known."""
    scheduler_address_first: bool = True
    """Workers can be launched together with the scheduler."""
    spot_fallback: bool = False
    """Workers that find no spot capacity run on demand."""
    idle_timeout: timedelta | None = None
    cluster_timeout: timedelta | None = None
    silent_since: datetime | None = None
    """Since when this server has had no word of the scheduler; None: it hears it."""
    silent_after: timedelta = timedelta(minutes=15)
    """A silence that is worth a person's attention, and the grace that is added to the idle limit."""
    silence_told: bool = False
    """An event says that the link is lost, and none that it is back."""
    tell_from: datetime | None = None
    """No event about a lost link before then: a link that comes and goes fills no table."""

    @property
    def scheduler(self) -> NodeView | None:
        return next((node for node in self.nodes if node.role is NodeRole.SCHEDULER), None)


@dataclass(slots=True)
class _Plan:
    cluster: ClusterView
    now: datetime
    actions: list[Action] = field(default_factory=list)
    marked: dict[str, NodeState] = field(default_factory=dict)

    def add(self, kind: ActionKind, **facts: object) -> None:
        self.actions.append(Action(kind, **facts))  # type: ignore[arg-type] # each caller names the fields of Action

    def mark(self, node: NodeView, state: NodeState, reason: str | None = None, **facts: object) -> None:
        self.marked[node.name] = state
        self.add(ActionKind.MARK_NODE, names=(node.name,), node_state=state, reason=reason, **facts)

    def state(self, node: NodeView) -> NodeState:
        return self.marked.get(node.name, node.state)

    def nodes(self, *states: NodeState, role: NodeRole | None = None) -> list[NodeView]:
        return [n for n in self.cluster.nodes if self.state(n) in states and role in (None, n.role)]

    def wake_at(self, moments: Iterable[datetime]) -> None:
        later = [moment for moment in moments if moment > self.now]
        if later:
            self.add(ActionKind.WAKE_AT, at=min(later))


def plan(cluster: ClusterView, now: datetime) -> Sequence[Action]:
    """Return what to do next, in order. Called again after each action took effect, and when anything changed."""
    if not cluster.state.live:
        return []
    todo = _Plan(cluster, now)
    _note_what_was_seen(todo)
    ending = _ending(todo)
    if ending is not None:
        _end(todo, ending)
    else:
        _run(todo)
    return todo.actions


def _note_what_was_seen(todo: _Plan) -> None:
    _note_states(todo)
    waiting = [node for node in todo.nodes(NodeState.STARTING) if _waits(node)]
    due = [node for node in waiting if todo.now - (node.started_at or todo.now) >= WAITING_TOLD]
    for reason in dict.fromkeys(node.seen_reason for node in due):
        names = tuple(node.name for node in due if node.seen_reason == reason)
        todo.add(ActionKind.WAITING, names=names, reason=reason)
    todo.wake_at(node.started_at + WAITING_TOLD for node in waiting if node.started_at is not None)


def _waits(node: NodeView) -> bool:
    """Whether there is something new to tell of why a node that was launched does not run."""
    seen = node.state is NodeState.STARTING and node.answer is Answer.RUNNING
    return seen and node.seen_reason is not None and node.seen_reason != node.reason


def _note_states(todo: _Plan) -> None:
    for node in todo.cluster.nodes:
        if not node.state.live or node.state is NodeState.PENDING:
            if node.state is NodeState.PENDING and _is_up(todo.cluster, node):
                todo.mark(node, NodeState.STARTING)
            continue
        if node.answer is Answer.GONE:
            _note_gone(todo, node)
        elif node.state is NodeState.STARTING and _is_up(todo.cluster, node):
            todo.mark(node, NodeState.READY)
        elif _falls_back(todo.cluster, node):
            todo.mark(node, NodeState.STOPPING, FALLS_BACK)
        elif node.state is NodeState.STARTING and _took_too_long(node, todo.now):
            minutes = int(START_TIMEOUT.total_seconds() // 60)
            why = f" {node.seen_reason}" if node.seen_reason else ""
            todo.mark(node, NodeState.STOPPING, f"It ran for {minutes} minutes without joining its cluster.{why}")


def _is_up(cluster: ClusterView, node: NodeView) -> bool:
    return cluster.linked and (node.role is NodeRole.SCHEDULER or node.connected)


def _falls_back(cluster: ClusterView, node: NodeView) -> bool:
    return cluster.spot_fallback and node.no_spot and node.state is NodeState.STARTING


def _took_too_long(node: NodeView, now: datetime) -> bool:
    return node.answer is Answer.RUNNING and node.started_at is not None and now - node.started_at > START_TIMEOUT


def _note_gone(todo: _Plan, node: NodeView) -> None:
    code = node.seen_exit_code
    facts = {"exit_code": code}
    if node.state is NodeState.STOPPING and node.permanent:
        todo.mark(node, NodeState.FAILED, node.reason, permanent=True, **facts)
    elif node.state is NodeState.STOPPING:
        todo.mark(node, NodeState.STOPPED, node.reason, **facts)
    elif node.role is NodeRole.SCHEDULER:
        ended = ending_of_exit(code, node.seen_reason, started=node.state is NodeState.READY)
        todo.mark(node, NodeState.FAILED if ended.failed else NodeState.STOPPED, ended.reason, **facts)
    elif node.leaving or (code == 0 and node.state is NodeState.READY):
        todo.mark(node, NodeState.STOPPED, "It was retired.", **facts)
    elif _falls_back(todo.cluster, node):
        todo.mark(node, NodeState.STOPPED, FALLS_BACK, **facts)
    else:
        started = node.state is NodeState.READY
        reason, permanent = worker_end_reason(code, node.seen_reason, started=started)
        todo.mark(node, NodeState.LOST if started else NodeState.FAILED, reason, permanent=permanent, **facts)


def _ending(todo: _Plan) -> Ending | None:
    """Return why the cluster has to end, if it has to."""
    cluster = todo.cluster
    if cluster.ending is not None:
        return cluster.ending
    if cluster.closing is not None:
        scheduler = cluster.scheduler
        return ending_of_signal(cluster.closing, scheduler.seen_reason if scheduler is not None else None)
    if cluster.stop_requested:
        return Ending.user()
    return _scheduler_ended(todo) or _start_failed(todo) or _overdue(todo)


def _overdue(todo: _Plan) -> Ending | None:
    """Enforce the user's limits in place of a scheduler that hangs; being unheard alone ends nothing."""
    past = [(at, ending) for at, ending in _deadlines(todo.cluster) if at <= todo.now]
    return min(past, key=lambda found: found[0])[1] if past else None


def _deadlines(cluster: ClusterView) -> list[tuple[datetime, Ending]]:
    found = []
    silent, scheduler = cluster.silent_since, cluster.scheduler
    if cluster.cluster_timeout is not None:
        end = cluster.created_at + cluster.cluster_timeout
        if cluster.linked:
            found.append((end + LIFETIME_IGNORED, Ending.ignored_lifetime()))
        elif silent is not None:
            found.append((max(end, silent) + LIFETIME_GRACE, Ending.silent_lifetime()))
    hung = scheduler is not None and scheduler.state is NodeState.READY and scheduler.answer is Answer.RUNNING
    if cluster.idle_timeout is not None and silent is not None and not cluster.linked and hung:
        # What it does is unknown; that it did something when it was last heard is taken for granted.
        found.append((silent + cluster.idle_timeout + cluster.silent_after, Ending.silent_idle()))
    return found


def _scheduler_ended(todo: _Plan) -> Ending | None:
    for node in todo.cluster.nodes:
        if node.role is not NodeRole.SCHEDULER:
            continue
        state = todo.state(node)
        if not state.live:
            code = node.exit_code if node.seen_exit_code is None else node.seen_exit_code
            started = node.ready_at is not None or node.state is NodeState.READY
            return ending_of_exit(code, node.seen_reason or node.reason, started=started)
        if state is NodeState.STOPPING:
            return Ending.start_failed(f"The scheduler did not start: {_last_reason(todo, node)}")
        if state is NodeState.PENDING and node.launch_attempts >= MAX_LAUNCH_ATTEMPTS and _due(node, todo.now):
            return Ending.start_failed(f"The scheduler could not be launched: {node.reason}")
    return None


def _last_reason(todo: _Plan, node: NodeView) -> str:
    said = [a.reason for a in todo.actions if a.kind is ActionKind.MARK_NODE and node.name in a.names and a.reason]
    return said[-1] if said else node.reason or "no reason was given"


def _start_failed(todo: _Plan) -> Ending | None:
    """Give up a cluster none of whose workers ever came up."""
    if todo.cluster.ever_worked or todo.nodes(NodeState.READY, role=NodeRole.WORKER):
        return None
    refused = [
        node
        for node in todo.nodes(NodeState.PENDING, role=NodeRole.WORKER)
        if node.launch_attempts >= MAX_LAUNCH_ATTEMPTS and _due(node, todo.now)
    ]
    failed = _failed_workers(todo)
    hopeless = [node for node in failed if _permanent(todo, node)]
    if refused or hopeless or len(failed) >= MAX_START_FAILURES:
        node = (hopeless or refused or failed)[-1]
        return Ending.start_failed(f"Worker {node.name} did not start: {_last_reason(todo, node)}")
    return None


def _failed_workers(todo: _Plan) -> list[NodeView]:
    """Return workers that ended unasked, and those that were refused for good and must still be seen to be gone."""
    refused = [n for n in todo.nodes(NodeState.STOPPING, role=NodeRole.WORKER) if n.permanent]
    return todo.nodes(NodeState.FAILED, NodeState.LOST, role=NodeRole.WORKER) + refused


def _permanent(todo: _Plan, node: NodeView) -> bool:
    marked = [a.permanent for a in todo.actions if a.kind is ActionKind.MARK_NODE and node.name in a.names]
    return any(marked) or (node.permanent and node.created_at >= todo.cluster.desired_changed_at)


def _end(todo: _Plan, ending: Ending) -> None:
    if todo.cluster.state is not ClusterState.STOPPING:
        todo.add(ActionKind.MARK_CLUSTER, cluster_state=ClusterState.STOPPING, reason=ending.reason, ending=ending)
    for node in todo.nodes(NodeState.PENDING):
        # No attempt: no call was made, nothing can exist. Else something may, and must be seen to be gone.
        todo.mark(node, NodeState.STOPPING if node.launch_attempts else NodeState.STOPPED, "The cluster ended.")
    for node in todo.nodes(NodeState.STARTING, NodeState.READY):
        todo.mark(node, NodeState.STOPPING, "The cluster ended.")
    going = todo.nodes(NodeState.STOPPING)
    _stop(todo, going)
    if not going:
        final = ClusterState.FAILED if ending.failed else ClusterState.STOPPED
        todo.add(ActionKind.MARK_CLUSTER, cluster_state=final, reason=ending.reason, ending=ending)


def _stop(todo: _Plan, nodes: Sequence[NodeView]) -> None:
    """Ask nodes to stop, again and again until they are gone."""
    due = [n for n in nodes if n.stop_asked_at is None or _due(n, todo.now)]
    if due:
        todo.add(ActionKind.STOP, names=tuple(node.name for node in due))
    for node in due:
        if node.stop_asked_at is not None and todo.now - node.stop_asked_at >= ATTENTION:
            todo.add(ActionKind.ATTENTION, names=(node.name,), reason=_stuck(node))
    todo.wake_at(todo.now + STOP_AGAIN if n in due else n.retry_at or todo.now for n in nodes)


def _stuck(node: NodeView) -> str:
    why = f" {node.seen_reason}" if node.seen_reason else ""
    again = STOP_AGAIN.seconds
    return f"{node.name} was asked to stop and has not gone yet; it is asked again every {again} seconds.{why}"


def _run(todo: _Plan) -> None:
    """Bring a cluster that should live to its wanted size."""
    cluster = todo.cluster
    if not any(node.role is NodeRole.SCHEDULER for node in cluster.nodes):
        todo.add(ActionKind.ADD_SCHEDULER)
    if cluster.state is ClusterState.PENDING and cluster.nodes:
        todo.add(ActionKind.MARK_CLUSTER, cluster_state=ClusterState.STARTING)
    if cluster.state is ClusterState.STARTING and todo.nodes(NodeState.READY, role=NodeRole.SCHEDULER):
        todo.add(ActionKind.MARK_CLUSTER, cluster_state=ClusterState.READY)
    active = todo.nodes(NodeState.PENDING, NodeState.STARTING, NodeState.READY, role=NodeRole.WORKER)
    if len(active) < cluster.wanted:
        _grow(todo, cluster.wanted - len(active))
    elif len(active) > cluster.wanted:
        _shrink(todo, active, len(active) - cluster.wanted)
    _let_go(todo)
    _launch(todo)
    _note_silence(todo)


def _note_silence(todo: _Plan) -> None:
    """Tell of a link that is lost or back, and let a person look at a long silence."""
    cluster = todo.cluster
    todo.wake_at(at for at, _ending in _deadlines(cluster))
    if cluster.linked:
        if cluster.silence_told:
            todo.add(ActionKind.LINK_BACK)
        return
    if cluster.silent_since is None or not todo.nodes(NodeState.READY, role=NodeRole.SCHEDULER):
        return
    tell = max(cluster.silent_since + LINK_PATIENCE, cluster.tell_from or cluster.silent_since)
    alarm = cluster.silent_since + cluster.silent_after
    if tell <= todo.now and not cluster.silence_told:
        todo.add(ActionKind.LINK_LOST)
    if alarm <= todo.now:
        todo.add(ActionKind.ATTENTION, reason=_unheard(cluster))
    todo.wake_at([tell, alarm])


def _unheard(cluster: ClusterView) -> str:
    minutes = cluster.silent_after.total_seconds() / 60
    limits = [name for name in ("idle_timeout", "cluster_timeout") if getattr(cluster, name) is not None]
    ends = f"Its {' or '.join(limits)} ends it" if limits else "Nothing ends it, since it has no limit"
    return (
        f"Its scheduler has not been heard for {minutes:g} minutes, and nobody said that it is gone: "
        f"it may hang, or the network to it. {ends}; stop it if you do not need it."
    )


def _grow(todo: _Plan, missing: int) -> None:
    failed = _failed_workers(todo)
    if any(_permanent(todo, node) for node in failed):
        return  # a person has to change something first; a new wish is a new chance
    streak = _failures_in_a_row(todo, failed)
    if streak:
        last = max((node.stopped_at or todo.now) for node in failed)
        ready = last + timedelta(seconds=min(2.0 ** (streak - 1), MAX_BACKOFF))
        if timedelta() < ready - todo.now <= timedelta(seconds=MAX_BACKOFF):
            todo.wake_at([ready])
            return
    todo.add(ActionKind.ADD_WORKERS, count=missing)


def _failures_in_a_row(todo: _Plan, failed: Sequence[NodeView]) -> int:
    """Count workers that failed to start since one was last seen to come up; losing one that ran is no failure."""
    came_up = max((n.ready_at for n in todo.cluster.nodes if n.ready_at and n.role is NodeRole.WORKER), default=None)
    return sum(
        1
        for node in failed
        if todo.state(node) is NodeState.FAILED and (came_up is None or (node.stopped_at or todo.now) > came_up)
    )


def _shrink(todo: _Plan, active: Sequence[NodeView], surplus: int) -> None:
    """Remove workers: those that never ran first; of the others, those that the scheduler can spare."""
    idle = sorted(
        (n for n in active if todo.state(n) is NodeState.PENDING), key=lambda n: (n.launch_attempts > 0, n.name)
    )
    if todo.cluster.linked:
        # Not connected, says a scheduler that we hear: they hold no results.
        starting = [n for n in active if todo.state(n) is NodeState.STARTING and not n.connected]
        idle += sorted(starting, key=lambda n: n.created_at, reverse=True)
    for node in idle[:surplus]:
        never = todo.state(node) is NodeState.PENDING and node.launch_attempts == 0
        todo.mark(node, NodeState.STOPPED if never else NodeState.STOPPING, "It was not needed any more.")
    rest = surplus - min(surplus, len(idle))
    if rest and todo.cluster.linked:
        todo.add(ActionKind.CHOOSE, count=rest)


def _let_go(todo: _Plan) -> None:
    """See workers off that leave a living cluster: their results first, then the process."""
    leaving = todo.nodes(NodeState.STOPPING, role=NodeRole.WORKER)
    with_results = [n for n in leaving if n.ready_at is not None and not n.retired]
    retire = [n for n in with_results if _due(n, todo.now)]
    if retire and todo.cluster.linked:
        todo.add(ActionKind.RETIRE, names=tuple(node.name for node in retire))
    todo.wake_at(n.retry_at for n in with_results if n.retry_at is not None)
    _stop(todo, [n for n in leaving if n.ready_at is None or n.retired])


def _due(node: NodeView, now: datetime) -> bool:
    # A moment beyond every pause that we make was written by a clock that was wrong.
    return node.retry_at is None or not timedelta() < node.retry_at - now <= timedelta(seconds=MAX_BACKOFF)


def _launch(todo: _Plan) -> None:
    pending = todo.nodes(NodeState.PENDING)
    together = todo.cluster.scheduler_address_first or todo.cluster.scheduler_address
    ready = [n for n in pending if _due(n, todo.now) and (together or n.role is NodeRole.SCHEDULER)]
    if ready:
        todo.add(ActionKind.LAUNCH, names=tuple(node.name for node in ready))
    todo.wake_at(n.retry_at for n in pending if n.retry_at is not None)
    starting = todo.nodes(NodeState.STARTING)
    todo.wake_at(n.started_at + START_TIMEOUT for n in starting if n.started_at is not None)
