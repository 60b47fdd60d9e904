"""The plan, tested with generated histories: whatever happens in whatever order, its promises hold."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ropewalk.backends.port import Answer
from ropewalk.node import exits
from ropewalk.schemas.clusters import ClusterState, NodeRole, NodeState
from ropewalk.server.clusters.plan import (
    ATTENTION,
    FALLS_BACK,
    LIFETIME_GRACE,
    LIFETIME_IGNORED,
    LINK_PATIENCE,
    MAX_LAUNCH_ATTEMPTS,
    MAX_START_FAILURES,
    RETIRE_AGAIN,
    START_TIMEOUT,
    STOP_AGAIN,
    Action,
    ActionKind,
    ClusterView,
    NodeView,
    plan,
)
from ropewalk.server.clusters.silence import Silence

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SCHEDULER = "c-scheduler"
ACTIVE = (NodeState.PENDING, NodeState.STARTING, NodeState.READY)


@dataclass
class Process:
    """What really runs in the cloud."""

    running: bool = True
    exit_code: int | None = None
    stoppable: bool = True


@dataclass
class World:
    """A cloud, a scheduler and a database in miniature, in which the plan's actions take effect."""

    cluster: ClusterView = field(
        default_factory=lambda: ClusterView(
            state=ClusterState.PENDING, wanted=2, created_at=NOW, desired_changed_at=NOW
        )
    )
    now: datetime = NOW
    cloud: dict[str, Process] = field(default_factory=dict)
    connected: set[str] = field(default_factory=set)
    retired: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)
    placeless: set[str] = field(default_factory=set)
    """For which there is no spot capacity."""
    link_broken: bool = False
    launch_fault: str | None = None
    retire_fault: bool = False
    counter: int = 0
    closing: str | None = None
    silent_since: datetime | None = None
    silence_told: bool = False
    frozen: bool = False
    launches: list[str] = field(default_factory=list)
    log: list[Action] = field(default_factory=list)

    @property
    def rows(self) -> dict[str, NodeView]:
        return {node.name: node for node in self.cluster.nodes}

    @property
    def state(self) -> str:
        return self.cluster.state.value

    def set_node(self, name: str, **changes: object) -> None:
        nodes = tuple(replace(n, **changes) if n.name == name else n for n in self.cluster.nodes)  # type: ignore[arg-type]
        self.cluster = replace(self.cluster, nodes=nodes)

    def workers(self, *states: NodeState) -> list[NodeView]:
        return [n for n in self.cluster.nodes if n.role is NodeRole.WORKER and n.state in states]

    def runs(self, name: str) -> bool:
        return name in self.cloud and self.cloud[name].running

    def view(self) -> ClusterView:
        """Return what can be seen: through sightings and the scheduler's word, with what hides today."""
        up = self.runs(SCHEDULER) and SCHEDULER in self.connected
        linked = up and not self.link_broken and not self.frozen
        self.silent_since = None if linked else self.silent_since or self.now
        nodes = []
        for node in self.cluster.nodes:
            looked = node.state.live and node.state is not NodeState.PENDING
            answer = (Answer.RUNNING if self.runs(node.name) else Answer.GONE) if looked else None
            if node.name in self.unknown and looked:
                answer = Answer.UNKNOWN
            nodes.append(
                replace(
                    node,
                    answer=answer,
                    seen_exit_code=self.cloud[node.name].exit_code
                    if answer is Answer.GONE and node.name in self.cloud
                    else None,
                    no_spot=node.name in self.placeless,
                    connected=linked and node.name in self.connected and self.runs(node.name),
                    leaving=node.name in self.retired,
                )
            )
        return replace(
            self.cluster,
            nodes=tuple(nodes),
            linked=linked,
            closing=self.closing if linked else None,
            silent_since=self.silent_since,
            silence_told=self.silence_told,
            ever_worked=any(n.ready_at for n in self.cluster.nodes if n.role is NodeRole.WORKER),
        )

    def step(self) -> list[Action]:
        """Plan once, check each action against the promises, and let it take effect."""
        view = self.view()
        actions = list(plan(view, self.now))
        for action in actions:
            self.check(action, view)
            self.apply(action)
        self.log += actions
        return actions

    def settle(self, limit: int = 200) -> None:
        for _ in range(limit):
            if all(action.kind in (ActionKind.WAKE_AT, ActionKind.ATTENTION) for action in self.step()):
                return
            self.unretire()
        raise AssertionError(f"the plan does not come to rest: {self.log[-10:]}")

    def unretire(self) -> None:
        """Retiring takes effect at once in this world; kept apart so that tests can hold it back."""

    # The promises.

    def check(self, action: Action, view: ClusterView) -> None:
        seen = {node.name: node for node in view.nodes}
        if action.kind is ActionKind.ADD_WORKERS:
            active = self.workers(*ACTIVE)
            assert len(active) + action.count <= view.wanted
        if action.kind is ActionKind.STOP:
            assert all(self.rows[name].state is NodeState.STOPPING for name in action.names)
        if action.kind is ActionKind.MARK_NODE and action.node_state is not None and not action.node_state.live:
            (name,) = action.names
            never = seen[name].state is NodeState.PENDING and seen[name].launch_attempts == 0
            assert never or seen[name].answer is Answer.GONE, f"{name} was given up without being seen to be gone"
        if action.kind is ActionKind.MARK_CLUSTER and action.cluster_state in (
            ClusterState.STOPPED,
            ClusterState.FAILED,
        ):
            assert not any(process.running for process in self.cloud.values()), "something still runs"
        if action.ending is not None and view.ending is None and action.ending.code.endswith("_silent"):
            self.check_backstop(view)

    def check_backstop(self, view: ClusterView) -> None:
        """Being unheard ends nothing: only a limit of the user's does."""
        assert not view.linked
        old = view.cluster_timeout is not None and self.now - view.created_at > view.cluster_timeout
        silent = self.now - (view.silent_since or self.now)
        idle = view.idle_timeout is not None and silent >= view.idle_timeout + view.silent_after
        assert old or idle

    # What actions do.

    def apply(self, action: Action) -> None:  # noqa: C901, PLR0912 - one branch per kind of action
        match action.kind:
            case ActionKind.ADD_SCHEDULER:
                self._add(SCHEDULER, NodeRole.SCHEDULER)
            case ActionKind.ADD_WORKERS:
                for _ in range(action.count):
                    self.counter += 1
                    self._add(f"c-worker-{self.counter}", NodeRole.WORKER)
            case ActionKind.LAUNCH:
                for name in action.names:
                    self._launch(name)
            case ActionKind.MARK_NODE:
                self._mark(action)
            case ActionKind.MARK_CLUSTER:
                ending = action.ending if action.ending is not None else self.cluster.ending
                self.cluster = replace(self.cluster, state=action.cluster_state, ending=ending)  # type: ignore[arg-type]
            case ActionKind.STOP:
                for name in action.names:
                    asked = self.rows[name].stop_asked_at or self.now
                    self.set_node(name, stop_asked_at=asked, retry_at=self.now + STOP_AGAIN)
                    if name in self.cloud and self.cloud[name].stoppable:
                        self._end(name, 0)
            case ActionKind.LINK_LOST | ActionKind.LINK_BACK:
                assert self.silence_told is (action.kind is ActionKind.LINK_BACK)
                self.silence_told = action.kind is ActionKind.LINK_LOST
            case ActionKind.CHOOSE:
                ready = [n.name for n in self.workers(NodeState.READY, NodeState.STARTING) if n.name in self.connected]
                for name in ready[: action.count]:
                    self.set_node(name, state=NodeState.STOPPING, retry_at=None)
            case ActionKind.RETIRE:
                for name in action.names:
                    if self.retire_fault:
                        self.set_node(name, retry_at=self.now + RETIRE_AGAIN)
                    else:
                        self.retired.add(name)
                        self.set_node(name, retired=True, retry_at=None)

    def _add(self, name: str, role: NodeRole) -> None:
        assert name not in self.rows, "a name is used once"
        node = NodeView(name, role, NodeState.PENDING, created_at=self.now)
        self.cluster = replace(self.cluster, nodes=(*self.cluster.nodes, node))

    def _launch(self, name: str) -> None:
        row = self.rows[name]
        self.set_node(name, launch_attempts=row.launch_attempts + 1)
        if self.launch_fault == "fix_it":
            refused = NodeState.STOPPING if row.launch_attempts else NodeState.FAILED
            self.set_node(name, state=refused, permanent=True, stopped_at=self.now, reason="denied", retry_at=None)
            return
        if self.launch_fault != "try_again" and name not in self.cloud:
            self.cloud[name] = Process()
            self.launches.append(name)
        if self.launch_fault in ("try_again", "lost_answer"):
            wait = timedelta(seconds=2.0**row.launch_attempts)
            self.set_node(name, retry_at=self.now + wait, reason="throttled")
        else:
            self.set_node(name, state=NodeState.STARTING, started_at=self.now, retry_at=None)

    def _mark(self, action: Action) -> None:
        (name,) = action.names
        state = action.node_state
        assert state is not None
        changes: dict[str, object] = {"state": state, "retry_at": None}
        if state is NodeState.READY:
            changes["ready_at"] = self.now
        if not state.live:
            changes |= {"stopped_at": self.now, "exit_code": action.exit_code, "permanent": action.permanent}
        if action.reason is not None:
            changes["reason"] = action.reason
        self.set_node(name, **changes)

    def _end(self, name: str, code: int | None) -> None:
        process = self.cloud[name]
        if process.running:
            process.running, process.exit_code = False, code
        self.connected.discard(name)

    # What happens by itself.

    def connect_all(self) -> None:
        self.connected |= {name for name, process in self.cloud.items() if process.running}

    def die(self, name: str, code: int | None) -> None:
        self._end(name, code)


def started(wanted: int = 2) -> World:
    """Return a world whose cluster is ready with all its workers."""
    world = World()
    world.cluster = replace(world.cluster, wanted=wanted)
    world.settle()
    world.connect_all()
    world.settle()
    assert world.cluster.state is ClusterState.READY
    assert len(world.workers(NodeState.READY)) == wanted
    return world


def test_scheduler_and_workers_are_launched_in_one_step() -> None:
    world = World()
    world.settle()
    launches = [action for action in world.log if action.kind is ActionKind.LAUNCH]
    assert [set(action.names) for action in launches] == [{SCHEDULER, "c-worker-1", "c-worker-2"}]


def test_workers_wait_where_the_scheduler_must_be_known_first() -> None:
    world = World()
    world.cluster = replace(world.cluster, scheduler_address_first=False)
    world.settle()
    assert world.launches == [SCHEDULER]
    world.cluster = replace(world.cluster, scheduler_address=True)
    world.settle()
    assert set(world.launches) == {SCHEDULER, "c-worker-1", "c-worker-2"}


def test_a_cluster_is_ready_when_its_scheduler_answers_not_when_all_workers_came() -> None:
    world = World()
    world.settle()
    world.connected.add(SCHEDULER)
    world.settle()
    assert world.cluster.state is ClusterState.READY


def test_a_lost_worker_is_replaced_by_a_new_name() -> None:
    world = started()
    world.die("c-worker-1", -9)
    world.settle()
    assert world.rows["c-worker-1"].state is NodeState.LOST
    assert "SIGKILL" in (world.rows["c-worker-1"].reason or "")
    assert world.launches[-1] == "c-worker-3"


def test_a_worker_that_nobody_can_see_is_left_alone() -> None:
    world = started()
    world.unknown = {SCHEDULER, "c-worker-1", "c-worker-2"}
    world.link_broken = True
    world.now += timedelta(days=1)
    before = world.cluster
    world.settle()
    assert world.cluster == before


def test_scaling_down_retires_before_it_stops() -> None:
    world = started(3)
    world.log.clear()
    world.cluster = replace(world.cluster, wanted=1)
    world.settle()
    kinds = [a.kind for a in world.log if a.kind in (ActionKind.CHOOSE, ActionKind.RETIRE, ActionKind.STOP)]
    assert kinds == [ActionKind.CHOOSE, ActionKind.RETIRE, ActionKind.STOP]
    assert len(world.workers(NodeState.READY)) == 1


def test_scaling_down_takes_workers_that_never_ran_first() -> None:
    world = started(1)
    world.cluster = replace(world.cluster, wanted=4)
    world.step()
    world.step()
    world.cluster = replace(world.cluster, wanted=1)
    world.settle()
    assert ActionKind.CHOOSE not in {action.kind for action in world.log}
    assert [n.name for n in world.workers(NodeState.READY)] == ["c-worker-1"]


def test_a_worker_whose_results_cannot_move_is_kept_and_tried_again() -> None:
    world = started(2)
    world.retire_fault = True
    world.cluster = replace(world.cluster, wanted=1)
    world.settle()
    (leaving,) = world.workers(NodeState.STOPPING)
    assert world.runs(leaving.name)
    world.retire_fault = False
    world.now += RETIRE_AGAIN
    world.settle()
    assert not world.runs(leaving.name)


def test_scaling_down_waits_for_the_scheduler_when_it_cannot_be_heard() -> None:
    world = started(2)
    world.link_broken = True
    world.cluster = replace(world.cluster, wanted=0)
    world.settle()
    assert len(world.workers(NodeState.READY)) == 2


def test_stopping_asks_again_until_the_cloud_says_gone() -> None:
    world = started(1)
    world.cloud["c-worker-1"].stoppable = False
    world.cluster = replace(world.cluster, stop_requested=True)
    for _ in range(20):
        world.settle()
        assert world.state == "stopping"
        world.now += STOP_AGAIN
    assert world.now - NOW > ATTENTION
    assert [a for a in world.log if a.kind is ActionKind.ATTENTION and "c-worker-1" in (a.reason or "")]
    world.cloud["c-worker-1"].stoppable = True
    world.now += STOP_AGAIN
    world.settle()
    assert world.state == "stopped"


def test_a_cluster_that_was_never_launched_stops_without_a_call() -> None:
    world = World()
    world.step()
    world.cluster = replace(world.cluster, stop_requested=True)
    world.settle()
    assert world.cluster.state is ClusterState.STOPPED
    assert not [a for a in world.log if a.kind in (ActionKind.STOP, ActionKind.LAUNCH)]


def test_a_node_whose_launch_may_have_worked_is_stopped_and_seen_to_be_gone() -> None:
    world = World(launch_fault="lost_answer")
    world.settle()
    assert world.runs("c-worker-1")
    assert world.rows["c-worker-1"].state is NodeState.PENDING
    world.cluster = replace(world.cluster, stop_requested=True)
    world.settle()
    assert world.cluster.state is ClusterState.STOPPED
    assert not world.runs("c-worker-1")


def test_a_launch_that_only_lost_its_answer_starts_nothing_twice() -> None:
    world = World(launch_fault="lost_answer")
    world.settle()
    world.launch_fault = None
    world.now += timedelta(minutes=1)
    world.settle()
    world.connect_all()
    world.settle()
    assert sorted(world.launches) == sorted({SCHEDULER, "c-worker-1", "c-worker-2"})
    assert len(world.workers(NodeState.READY)) == 2


def test_a_launch_that_a_person_must_fix_fails_the_cluster_with_the_reason() -> None:
    world = World(launch_fault="fix_it")
    world.settle()
    assert world.cluster.state is ClusterState.FAILED
    assert world.cluster.ending is not None
    assert "denied" in world.cluster.ending.reason


def test_a_launch_that_is_refused_after_one_that_may_have_worked_leaves_nothing_running() -> None:
    world = World(launch_fault="lost_answer")
    world.settle()
    world.launch_fault = "fix_it"
    world.now += timedelta(minutes=1)
    world.settle()
    assert world.state == "failed"
    assert not world.runs(SCHEDULER)
    assert "denied" in (world.cluster.ending.reason if world.cluster.ending else "")


def test_a_launch_that_is_refused_for_ever_fails_a_cluster_that_never_ran() -> None:
    world = World(launch_fault="try_again")
    for _ in range(MAX_LAUNCH_ATTEMPTS + 2):
        world.settle()
        world.now += timedelta(minutes=10)
    assert world.cluster.state is ClusterState.FAILED
    assert world.rows[SCHEDULER].launch_attempts == MAX_LAUNCH_ATTEMPTS


def test_workers_that_crash_at_the_start_fail_the_cluster_after_a_few() -> None:
    world = World()
    world.settle()
    world.connected.add(SCHEDULER)
    for _ in range(MAX_START_FAILURES + 2):
        for node in world.workers(NodeState.STARTING):
            world.die(node.name, exits.EXIT_CRASH)
        world.settle()
        world.now += timedelta(minutes=10)
    assert world.cluster.state is ClusterState.FAILED
    assert "exception" in (world.cluster.ending.reason if world.cluster.ending else "")
    assert world.counter <= 2 * MAX_START_FAILURES


@pytest.mark.parametrize("ended", [True, False], ids=["that ended", "that waits"])
def test_workers_without_spot_capacity_are_replaced_at_once_where_they_may_fall_back(*, ended: bool) -> None:
    world = World()
    world.cluster = replace(world.cluster, wanted=MAX_START_FAILURES + 2, spot_fallback=True)
    world.settle()
    world.connected.add(SCHEDULER)
    first = {node.name for node in world.workers(NodeState.STARTING)}
    world.placeless = set(first)
    for name in first if ended else ():
        world.die(name, None)
    world.settle()
    assert {world.rows[name].state for name in first} == {NodeState.STOPPED}
    assert {world.rows[name].reason for name in first} == {FALLS_BACK}
    assert not any(world.runs(name) for name in first)
    assert world.cluster.state is ClusterState.READY
    assert len(world.workers(NodeState.STARTING)) == world.cluster.wanted


def test_workers_without_spot_capacity_fail_where_they_may_not_fall_back() -> None:
    world = World()
    world.cluster = replace(world.cluster, wanted=MAX_START_FAILURES)
    world.settle()
    world.connected.add(SCHEDULER)
    world.placeless = {node.name for node in world.workers(NodeState.STARTING)}
    world.settle()
    assert len(world.workers(NodeState.STARTING)) == MAX_START_FAILURES  # they wait
    for name in world.placeless:
        world.die(name, None)
    world.settle()
    assert world.cluster.state is ClusterState.FAILED


def test_a_worker_that_ran_is_not_replaced_for_want_of_spot_capacity() -> None:
    world = started(1)
    world.cluster = replace(world.cluster, spot_fallback=True)
    world.placeless = {"c-worker-1"}
    world.settle()
    assert world.rows["c-worker-1"].state is NodeState.READY


def test_a_wrong_option_fails_the_cluster_at_the_first_worker() -> None:
    world = World()
    world.settle()
    world.connected.add(SCHEDULER)
    world.die("c-worker-1", exits.EXIT_CONFIG)
    world.settle()
    assert world.cluster.state is ClusterState.FAILED
    assert "worker_options" in (world.cluster.ending.reason if world.cluster.ending else "")


def test_workers_that_keep_failing_in_a_running_cluster_are_replaced_ever_more_slowly() -> None:
    world = started(1)
    world.cluster = replace(world.cluster, wanted=2)
    added = []
    for _ in range(60):
        world.settle()
        for node in world.workers(NodeState.STARTING):
            added.append(world.now)
            world.die(node.name, exits.EXIT_CRASH)
        world.settle()
        world.now += timedelta(seconds=10)
    gaps = [b - a for a, b in itertools.pairwise(added)]
    assert world.cluster.state is ClusterState.READY
    assert len(added) < 12
    assert gaps == sorted(gaps)


def test_a_permission_that_is_missing_when_growing_is_not_tried_again_until_the_wish_changes() -> None:
    world = started(1)
    world.launch_fault = "fix_it"
    world.now += timedelta(seconds=1)
    world.cluster = replace(world.cluster, wanted=2, desired_changed_at=world.now)
    world.settle()
    world.now += timedelta(days=1)
    world.settle()
    assert world.counter == 2
    assert world.cluster.state is ClusterState.READY
    world.launch_fault = None
    world.cluster = replace(world.cluster, desired_changed_at=world.now)
    world.settle()
    assert world.counter == 3


@pytest.mark.parametrize(
    ("code", "state", "ending"),
    [
        (exits.EXIT_IDLE, ClusterState.STOPPED, "idle_timeout"),
        (exits.EXIT_NO_CLIENT, ClusterState.STOPPED, "no_client_timeout"),
        (exits.EXIT_LIFETIME, ClusterState.STOPPED, "cluster_timeout"),
        (exits.EXIT_CLIENT, ClusterState.STOPPED, "client_closed"),
        (0, ClusterState.STOPPED, "stopped_outside"),
        (-9, ClusterState.FAILED, "scheduler_failed"),
        (None, ClusterState.FAILED, "scheduler_failed"),
    ],
)
def test_how_a_scheduler_ended_says_how_the_cluster_ends(code: int | None, state: ClusterState, ending: str) -> None:
    world = started()
    world.die(SCHEDULER, code)
    world.settle()
    assert world.cluster.state is state
    assert world.cluster.ending is not None
    assert world.cluster.ending.code == ending


def test_what_a_scheduler_announced_counts_before_it_is_gone() -> None:
    world = started()
    world.closing = "idle_timeout"
    world.settle()
    assert world.cluster.state is ClusterState.STOPPED
    assert world.cluster.ending is not None
    assert world.cluster.ending.code == "idle_timeout"


def test_a_node_that_runs_but_never_joins_is_given_up() -> None:
    world = started(1)
    world.cluster = replace(world.cluster, wanted=2)
    world.settle()
    world.now += START_TIMEOUT + timedelta(seconds=1)
    world.settle()
    assert world.rows["c-worker-2"].state is NodeState.STOPPED
    assert not world.runs("c-worker-2")


def test_a_retired_worker_that_ends_is_no_failure() -> None:
    world = started(2)
    world.retired.add("c-worker-2")
    world.die("c-worker-2", 0)
    world.cluster = replace(world.cluster, wanted=1)
    world.settle()
    assert world.rows["c-worker-2"].state is NodeState.STOPPED
    assert world.counter == 2


def hung(**limits: timedelta) -> World:
    """Return a world whose scheduler runs but has not answered from now on."""
    world = started()
    world.cluster = replace(world.cluster, **limits)  # type: ignore[arg-type] # names of limits
    world.settle()
    world.frozen = True
    world.settle()
    world.log.clear()
    return world


def ending_of(world: World) -> str | None:
    return world.cluster.ending.code if world.cluster.ending is not None else None


def test_a_scheduler_that_hangs_is_ended_at_its_lifetime_by_the_server() -> None:
    world = hung(cluster_timeout=timedelta(hours=1))
    world.now = NOW + timedelta(hours=1)
    world.settle()
    assert world.state == "ready"
    assert NOW + timedelta(hours=1) + LIFETIME_GRACE in [a.at for a in world.log]
    world.now += LIFETIME_GRACE
    world.settle()
    assert (world.state, ending_of(world)) == ("stopped", "cluster_timeout_silent")


def test_a_scheduler_that_hangs_is_ended_at_its_idle_limit_counted_from_its_last_word() -> None:
    world = hung(idle_timeout=timedelta(minutes=20))
    end = world.now + timedelta(minutes=35)
    world.now = end - timedelta(seconds=1)
    world.settle()
    assert world.state == "ready"
    world.now = end
    world.settle()
    assert (world.state, ending_of(world)) == ("stopped", "idle_timeout_silent")


def test_a_long_silence_without_limits_is_told_and_ends_nothing() -> None:
    world = hung()
    world.now += timedelta(days=300)
    world.settle()
    assert world.state == "ready"
    alarms = {a.reason for a in world.log if a.kind is ActionKind.ATTENTION}
    assert ["Nothing ends it" in (reason or "") for reason in alarms] == [True], "one sentence, however often"


def test_an_unheard_scheduler_that_the_cloud_cannot_see_either_is_not_ended_for_idleness() -> None:
    world = hung(idle_timeout=timedelta(minutes=1))
    world.unknown = {SCHEDULER}
    world.now += timedelta(days=1)
    world.settle()
    assert world.state == "ready"


def test_the_server_leaves_limits_to_a_scheduler_that_it_hears() -> None:
    world = started()
    world.cluster = replace(world.cluster, idle_timeout=timedelta(1), cluster_timeout=timedelta(hours=1))
    world.now = NOW + timedelta(hours=1) + LIFETIME_IGNORED - timedelta(seconds=1)
    world.settle()
    assert world.state == "ready"
    world.now += timedelta(seconds=1)
    world.settle()
    assert (world.state, ending_of(world)) == ("stopped", "cluster_timeout_ignored")


def test_a_server_that_was_away_lets_a_scheduler_that_is_overdue_answer_first() -> None:
    world = started()
    world.cluster = replace(world.cluster, cluster_timeout=timedelta(hours=1))
    world.now = NOW + timedelta(days=1)
    world.frozen, world.silent_since = True, None
    world.settle()
    assert world.state == "ready"


def told(world: World) -> list[ActionKind]:
    return [a.kind for a in world.log if a.kind in (ActionKind.LINK_LOST, ActionKind.LINK_BACK)]


def test_a_lost_link_is_told_after_a_few_seconds_and_once_and_its_return_too() -> None:
    world = hung()
    assert told(world) == []
    for _ in range(3):
        world.now += LINK_PATIENCE
        world.settle()
    assert told(world) == [ActionKind.LINK_LOST]
    world.frozen = False
    world.settle()
    world.settle()
    assert told(world) == [ActionKind.LINK_LOST, ActionKind.LINK_BACK]


def test_a_short_break_of_the_link_is_not_told() -> None:
    world = hung()
    world.now += LINK_PATIENCE - timedelta(seconds=1)
    world.settle()
    world.frozen = False
    world.now += timedelta(seconds=10)
    world.settle()
    assert not world.silence_told
    assert not [a for a in world.log if a.kind is ActionKind.LINK_LOST]


def test_a_link_that_comes_and_goes_is_not_told_each_time() -> None:
    silence = Silence(timedelta(minutes=15))
    now, events = NOW, 0
    for _ in range(24 * 60 * 6):
        now += timedelta(seconds=10)
        silence.note(now, linked=False)
        if silence.tell_from is None or silence.tell_from <= now:
            silence.tell_lost(now)
            silence.tell_back()
            events += 1
        silence.note(now, linked=True)
    assert events < 35


@pytest.mark.parametrize("hours", [1, -1])
def test_a_pause_that_a_wrong_clock_wrote_is_not_waited_for(hours: int) -> None:
    world = World(launch_fault="try_again")
    world.settle()
    world.launch_fault = None
    world.now += timedelta(hours=hours)
    world.settle()
    assert len(world.launches) == 3


@pytest.mark.parametrize("state", [ClusterState.STOPPED, ClusterState.FAILED])
def test_nothing_is_done_about_a_cluster_that_has_ended(state: ClusterState) -> None:
    world = started()
    world.cluster = replace(world.cluster, state=state, wanted=50)
    assert plan(world.view(), world.now) == []


class Histories(RuleBasedStateMachine):
    """Anything may happen in any order; promises are checked at every action, and rest at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()

    @initialize(wanted=st.integers(0, 5), together=st.booleans())
    def begin(self, wanted: int, together: bool) -> None:
        self.world.cluster = replace(self.world.cluster, wanted=wanted, scheduler_address_first=together)

    @rule()
    def reconcile(self) -> None:
        self.world.step()
        if self.world.runs(SCHEDULER):
            self.world.cluster = replace(self.world.cluster, scheduler_address=True)

    @rule(seconds=st.sampled_from([1, 5, 30, 200, 2000]))
    def time_passes(self, seconds: int) -> None:
        self.world.now += timedelta(seconds=seconds)

    @rule(wanted=st.integers(0, 6))
    def somebody_scales(self, wanted: int) -> None:
        self.world.cluster = replace(self.world.cluster, wanted=wanted, desired_changed_at=self.world.now)

    @precondition(lambda self: self.world.counter > 3)
    @rule()
    def somebody_stops(self) -> None:
        self.world.cluster = replace(self.world.cluster, stop_requested=True)

    @rule()
    def nodes_connect(self) -> None:
        self.world.connect_all()

    @precondition(lambda self: any(p.running for p in self.world.cloud.values()))
    @rule(data=st.data(), code=st.sampled_from([0, -9, None, exits.EXIT_CRASH, exits.EXIT_CONFIG, exits.EXIT_IDLE]))
    def a_node_dies(self, data: st.DataObject, code: int | None) -> None:
        running = sorted(name for name, process in self.world.cloud.items() if process.running)
        self.world.die(data.draw(st.sampled_from(running)), code)

    @rule(fault=st.sampled_from([None, "try_again", "lost_answer", "fix_it"]))
    def launching_changes(self, fault: str | None) -> None:
        self.world.launch_fault = fault

    @rule(broken=st.booleans())
    def the_link_changes(self, broken: bool) -> None:
        self.world.link_broken = broken

    @rule(frozen=st.booleans())
    def the_scheduler_hangs(self, frozen: bool) -> None:
        self.world.frozen = frozen

    @rule(
        idle=st.sampled_from([None, timedelta(seconds=30), timedelta(hours=1)]),
        age=st.sampled_from([None, timedelta(minutes=10), timedelta(hours=5)]),
    )
    def somebody_sets_limits(self, idle: timedelta | None, age: timedelta | None) -> None:
        self.world.cluster = replace(self.world.cluster, idle_timeout=idle, cluster_timeout=age)

    @rule(broken=st.booleans())
    def retiring_changes(self, broken: bool) -> None:
        self.world.retire_fault = broken

    @precondition(lambda self: self.world.cluster.nodes)
    @rule(data=st.data())
    def a_node_is_hidden(self, data: st.DataObject) -> None:
        self.world.unknown ^= {data.draw(st.sampled_from(sorted(self.world.rows)))}

    @precondition(lambda self: self.world.cloud)
    @rule(data=st.data())
    def a_node_ignores_stops(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.world.cloud)))
        self.world.cloud[name].stoppable ^= True

    @invariant()
    def nothing_is_launched_twice(self) -> None:
        assert len(self.world.launches) == len(set(self.world.launches))

    @invariant()
    def what_runs_has_a_live_row(self) -> None:
        for name, process in self.world.cloud.items():
            assert not process.running or self.world.rows[name].state.live

    @invariant()
    def an_ended_cluster_runs_nothing(self) -> None:
        if not self.world.cluster.state.live:
            assert not any(process.running for process in self.world.cloud.values())

    def teardown(self) -> None:
        """When faults end, it comes to rest in the wanted state, or has ended."""
        world = self.world
        world.unknown, world.link_broken, world.launch_fault, world.retire_fault = set(), False, None, False
        world.frozen = False
        for process in world.cloud.values():
            process.stoppable = True
        for _ in range(30):
            world.settle()
            world.connect_all()
            if world.runs(SCHEDULER):
                world.cluster = replace(world.cluster, scheduler_address=True)
            world.settle()
            world.now += timedelta(seconds=400)
        running = [name for name, process in world.cloud.items() if process.running]
        if not world.cluster.state.live:
            assert running == []
            return
        blocked = any(n.permanent for n in world.workers(NodeState.FAILED, NodeState.LOST))
        ready = world.workers(NodeState.READY)
        assert world.cluster.state is ClusterState.READY
        assert sorted(running) == sorted([SCHEDULER, *(n.name for n in ready)])
        assert len(ready) == world.cluster.wanted or (blocked and len(ready) < world.cluster.wanted)


TestHistories = Histories.TestCase
TestHistories.settings = settings(
    max_examples=400, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
