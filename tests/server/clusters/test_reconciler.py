"""Wishes become true: on both databases, with real links and TLS, on a cloud in memory."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import psutil
import pytest
import structlog
from sqlalchemy import select

from ropewalk.backends.memory import MemoryBackend
from ropewalk.backends.port import NodeHandle
from ropewalk.errors import ClusterGoneError, ConflictError, FixItError, TryAgainError
from ropewalk.schemas.clusters import ClusterSpec
from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.clusters import service
from ropewalk.server.clusters.leases import Lease, LeaseLostError, claim, fenced, release_dead
from ropewalk.server.clusters.plan import ATTENTION, STOP_AGAIN
from ropewalk.server.clusters.sweep import Sweep
from ropewalk.server.clusters.timeline import steps_of
from ropewalk.server.db.models import Cluster, Node
from ropewalk.server.events import EventCode, record
from ropewalk.server.leases.owners import new_owner
from tests.server.clusters.conftest import Fleet
from tests.support.waiting import eventually, wait_until


async def test_a_cluster_becomes_ready_scales_and_stops(running: Fleet) -> None:
    await running.create(n_workers=3)
    ready = await running.until("ready", workers=3)
    assert ready.ready_at is not None
    assert len(running.running()) == 4
    await running.scale(5)
    await running.until("ready", workers=5)
    await running.scale(1)
    await running.until("ready", workers=1)
    await running.stop()
    stopped = await running.until("stopped")
    assert running.running() == []
    assert stopped.reason == "ada stopped it."
    assert {node.state for node in stopped.nodes} == {"stopped"}


async def test_everything_of_a_cluster_is_launched_with_one_call(running: Fleet) -> None:
    await running.create(n_workers=50)
    await running.until("ready", workers=50)
    assert running.cloud.calls["launch"] == 1


async def test_a_launch_larger_than_a_batch_is_split(running: Fleet) -> None:
    await running.create(n_workers=250)
    await running.until("ready", workers=250)
    assert running.cloud.calls["launch"] == 3


async def test_events_tell_the_life_of_a_cluster_in_order(running: Fleet) -> None:
    await running.create(n_workers=1)
    await running.until("ready", workers=1)
    await running.stop()
    await running.until("stopped")
    codes = await running.codes()
    story = [
        "cluster.created",
        "cluster.starting",
        "node.launched",
        "cluster.ready",
        "cluster.stop_requested",
        "cluster.stopping",
        "cluster.stopped",
    ]
    assert [code for code in codes if code in story] == story


async def test_a_worker_that_dies_is_replaced_and_the_reason_is_kept(running: Fleet) -> None:
    cluster = await running.create(n_workers=2)
    await running.until("ready", workers=2)
    running.cloud.end(f"{cluster.id}-worker-1", exit_code=-9, reason="")
    await eventually(lambda: f"{cluster.id}-worker-3" in running.running())
    lost = (await running.rows())[f"{cluster.id}-worker-1"]
    assert lost.state == "lost"
    assert lost.exit_code == -9
    assert "SIGKILL" in (lost.reason or "")


async def test_a_scheduler_that_dies_fails_the_cluster_and_takes_its_workers_along(running: Fleet) -> None:
    cluster = await running.create(n_workers=2)
    await running.until("ready", workers=2)
    running.cloud.end(f"{cluster.id}-scheduler", exit_code=-9, reason="")
    failed = await running.until("failed")
    assert "The scheduler ended" in (failed.reason or "")
    assert running.running() == []


@pytest.mark.parametrize(("said", "words"), [("idle_timeout", "idle_timeout"), ("client", "A client closed it")])
async def test_a_cluster_that_ended_by_itself_says_why(running: Fleet, said: str, words: str) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.set_status(cluster.id, closing=said)
    stopped = await running.until("stopped")
    assert words in (stopped.reason or "")
    assert running.running() == []


async def test_unknown_answers_change_nothing(running: Fleet) -> None:
    await running.create(n_workers=2)
    before = await running.until("ready", workers=2)
    running.cloud.inject("observe", effect=False, times=None, node="*")
    running.cloud.poke()
    looks = running.cloud.calls["observe"]
    await eventually(lambda: running.cloud.calls["observe"] > looks)
    running.tick(3600)
    assert (await running.get()).nodes == before.nodes
    assert running.cloud.calls["stop"] == 0


async def test_a_failing_look_at_the_cloud_changes_nothing_and_recovers(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.inject("observe", TryAgainError("throttled", delay=0.01), times=2)
    running.cloud.end(f"{cluster.id}-worker-1", exit_code=1, reason="")
    await eventually(lambda: f"{cluster.id}-worker-2" in running.running())
    assert running.cloud.calls["stop"] == 0


async def test_a_launch_that_fails_for_a_while_is_tried_again(fleet: Fleet) -> None:
    fleet.cloud.inject("launch", TryAgainError("There is no capacity in this zone.", delay=1), times=2)
    async with fleet.server(fleet.context):
        await fleet.hold_leases()
        await fleet.create(n_workers=1)
        for tries in (1, 2):
            await eventually(partial(fleet.launches_failed, tries))
            fleet.tick(120)
        await fleet.until("ready", workers=1)
    events = await fleet.events()
    assert any("There is no capacity in this zone." in event.message for event in events)


async def test_a_node_that_waits_for_long_says_why_and_only_once(running: Fleet) -> None:
    running.cloud.launch_latency = 600
    await running.create(n_workers=1)
    await eventually(lambda: running.cloud.launches() == 2)
    running.tick(25)
    await eventually(partial(running.codes_contain, "node.waiting"))
    waiting = await running.get()
    assert {node.reason for node in waiting.nodes} == {"It is being provisioned."}
    running.tick(25)
    await running.scale(2)
    await eventually(lambda: running.cloud.launches() == 3)
    told = [event for event in await running.events() if event.code == "node.waiting"]
    assert [event.message for event in told] == ["The scheduler and 1 worker are waiting: It is being provisioned."]


async def test_an_answer_that_got_lost_starts_nothing_twice(running: Fleet) -> None:
    running.cloud.inject("launch", TryAgainError("The connection broke.", delay=0.01), effect=True)
    await running.create(n_workers=3)
    await eventually(lambda: running.cloud.launches() == 4)
    await eventually(lambda: running.codes_contain("node.launch_failed"))
    running.tick(60)
    await running.until("ready", workers=3)
    assert running.cloud.launches() == 4


async def test_a_refused_launch_fails_the_cluster_with_reason_and_advice(running: Fleet) -> None:
    error = FixItError("The quota of vCPUs is used up.", advice="Raise the quota L-3032A538.")
    running.cloud.inject("launch", error, node="*-scheduler")
    await running.create(n_workers=2)
    failed = await running.until("failed")
    assert "Raise the quota L-3032A538." in (failed.reason or "")
    assert running.running() == []


async def test_a_node_that_ignores_its_stop_is_asked_again_and_reported(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.inject("stop", effect=False, node="*-worker-1", times=12)
    await running.stop()
    await running.until("stopping")
    asked = 0
    for _ in range(int(ATTENTION / STOP_AGAIN) + 2):
        await eventually(partial(_stops_exceed, running, asked))
        asked = running.cloud.calls["stop"]
        running.tick(STOP_AGAIN.total_seconds())
    shown = await eventually(running.attention)
    assert f"{cluster.id}-worker-1 was asked to stop and has not gone yet" in shown
    assert (await running.get()).state == "stopping"
    for _ in range(5):
        running.tick(STOP_AGAIN.total_seconds())
    running.cloud.heal()
    running.tick(STOP_AGAIN.total_seconds())
    await running.until("stopped")
    assert running.running() == []


def _stops_exceed(fleet: Fleet, number: int) -> bool:
    return fleet.cloud.calls["stop"] > number


async def test_a_stop_that_raises_is_not_taken_for_stopped(running: Fleet) -> None:
    await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.inject("stop", TryAgainError("The cloud is down."), times=1)
    await running.stop()
    await eventually(lambda: running.cloud.calls["stop"] == 1)
    assert (await running.get()).state == "stopping"
    running.tick(STOP_AGAIN.total_seconds())
    await running.until("stopped")


async def test_a_cluster_that_is_stopped_while_it_starts_leaves_nothing(running: Fleet) -> None:
    running.cloud.inject("launch", delay=0.2, effect=True)
    await running.create(n_workers=5)
    await eventually(lambda: running.cloud.calls["launch"] == 1)
    await running.stop()
    await running.until("stopped")
    assert running.running() == []


async def test_a_cluster_adapts_between_its_bounds(running: Fleet) -> None:
    cluster = await running.create(n_workers=(1, 3))
    await running.until("ready", workers=1)
    running.cloud.set_status(cluster.id, target=3)
    await running.until("ready", workers=3)
    running.cloud.set_status(cluster.id, target=50)
    running.tick(1)
    assert (await running.until("ready", workers=3)).n_workers == 3
    running.cloud.set_status(cluster.id, target=0)
    await running.until("ready", workers=1)


async def test_new_bounds_reach_the_scheduler(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    await running.scale((2, 4))
    await running.until("ready", workers=2)
    await eventually(lambda: running.cloud.configuration(cluster.id)[0] == {"minimum": 2, "maximum": 4})
    await running.scale(3)
    await eventually(lambda: running.cloud.configuration(cluster.id)[0] is None)


async def test_new_limits_reach_the_scheduler_and_are_kept(running: Fleet) -> None:
    cluster = await running.create(n_workers=0, idle_timeout="1 hour")
    await running.until("ready")
    told = partial(running.cloud.configuration, cluster.id)
    await eventually(lambda: told()[1].get("idle_timeout") == 3600)
    shown = await running.update(idle_timeout="2 hours", cluster_timeout=None)
    assert (shown.spec.idle_timeout, shown.spec.cluster_timeout) == (7200, None)
    await eventually(lambda: told()[1] == {"idle_timeout": 7200, "no_client_timeout": None, "cluster_timeout": None})
    (event,) = [e for e in await running.events() if e.code == "cluster.limits_set"]
    assert event.actor == "ada"
    assert "idle_timeout" in event.message
    await running.stop()
    with pytest.raises(ClusterGoneError):
        await running.update(idle_timeout=5)


async def _unhear(fleet: Fleet, cluster: str) -> None:
    """Let the scheduler's process go on, but its link be down."""
    fleet.cloud.inject("connect", TryAgainError("There is no route."), times=None)
    # A status that nobody can read ends the connection, as a broken network does.
    fleet.cloud.set_status(cluster, workers=None)


async def test_a_link_that_is_lost_and_comes_back_is_told_once_each(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    await _unhear(running, cluster.id)

    async def lost() -> bool:
        running.tick(1)
        return await running.codes_contain("cluster.link_lost")

    await eventually(lost)
    running.tick(30)
    running.cloud.heal()
    running.cloud.set_status(cluster.id, workers=[f"{cluster.id}-worker-1"])
    await eventually(partial(running.codes_contain, "cluster.link_back"))
    codes = [code for code in await running.codes() if code.startswith("cluster.link")]
    assert codes == ["cluster.link_lost", "cluster.link_back"]
    assert (await running.get()).state == "ready"


async def test_the_next_server_tells_that_a_lost_link_is_back(fleet: Fleet) -> None:
    async with fleet.server():
        cluster = await fleet.create(n_workers=0)
        await fleet.until("ready")
        async with fleet.context.db.transaction() as session:
            record(session, fleet.clock.now(), EventCode.CLUSTER_LINK_LOST, "Lost.", cluster_id=cluster.id)
    async with fleet.server():
        await eventually(partial(fleet.codes_contain, "cluster.link_back"))


@pytest.mark.parametrize("limit", ["idle_timeout", "cluster_timeout"])
async def test_a_cluster_whose_scheduler_hangs_is_ended_by_its_limits_and_nothing_else(
    running: Fleet, limit: str
) -> None:
    limits: dict[str, Any] = {"idle_timeout": None, limit: 7200}
    cluster = await running.create(n_workers=1, **limits)
    await running.until("ready", workers=1)
    await _unhear(running, cluster.id)

    async def silent() -> bool:
        running.tick(1)
        return await running.codes_contain("cluster.link_lost")

    await eventually(silent)
    running.tick(running.settings.silent_scheduler_seconds)
    assert "has not been heard for 15 minutes" in await eventually(running.attention)
    shown = await running.get()
    assert shown.state == "ready"
    assert f"Its {limit} ends it" in (shown.reason or "")
    running.tick(7200)
    stopped = await running.until("stopped")
    assert limit in (stopped.reason or "")
    assert running.running() == []
    assert [e.details["ending"] for e in await running.events() if e.code == "cluster.stopped"] == [f"{limit}_silent"]


async def test_the_timeline_of_a_start_has_each_step_and_the_request(running: Fleet) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        await running.create(n_workers=2)
    await running.until("ready", workers=2)
    found = await service.timeline_of(running.context, running.caller, "c")
    steps = {step.step: step.seconds for step in found.steps}
    assert list(steps) == ["requested", "accepted", "launched", "scheduler_ready", "first_worker", "all_workers"]
    assert set(steps.values()) == {0.0}, "the clock stands still, and everything has happened"
    assert found.request_id == "r-1"


async def test_the_timeline_tells_what_has_not_happened_yet(fleet: Fleet) -> None:
    await fleet.create(n_workers=2)
    found = await service.timeline_of(fleet.context, fleet.caller, "c")
    assert [step.step for step in found.steps if step.time is not None] == ["requested"]


def test_all_workers_are_there_with_the_last_of_those_that_were_asked_for() -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    nodes = [Node(role="worker", started_at=begin, ready_at=begin + timedelta(seconds=n)) for n in (3, 1, 2)]
    assert steps_of(nodes, 2)["all_workers"] == begin + timedelta(seconds=2)
    assert steps_of(nodes, 2)["first_worker"] == begin + timedelta(seconds=1)
    assert steps_of(nodes, 4)["all_workers"] is None
    assert steps_of(nodes, 0)["all_workers"] is None


async def test_the_next_server_takes_a_cluster_over_as_it_is(fleet: Fleet) -> None:
    async with fleet.server():
        await fleet.create(n_workers=2)
        before = await fleet.until("ready", workers=2)
    async with fleet.server():
        await eventually(lambda: fleet.cloud.calls["observe"] > 0)
        await fleet.scale(3)
        after = await fleet.until("ready", workers=3)
    assert fleet.cloud.launches() == 4
    assert {node.name for node in before.nodes} < {node.name for node in after.nodes}


async def test_two_servers_share_clusters_and_start_nothing_twice(fleet: Fleet) -> None:
    async with fleet.server() as one, fleet.server() as two:
        for number in range(10):
            await fleet.create(n_workers=2, name=f"c{number}")
        one._claim_now.set()
        two._claim_now.set()
        for number in range(10):
            await fleet.until("ready", workers=2, name=f"c{number}")
    assert fleet.cloud.launches() == 30


async def test_a_stale_owner_can_write_nothing(fleet: Fleet) -> None:
    await fleet.create()
    (old,) = await claim(fleet.context, "s-old")
    fleet.clock.advance(fleet.settings.lease_seconds + 1)
    (new,) = await claim(fleet.context, "s-new")
    assert new.fence == old.fence + 1
    with pytest.raises(LeaseLostError):
        async with fenced(fleet.context, old) as session:
            (await session.get_one(Cluster, old.cluster_id)).n_workers = 99
    async with fenced(fleet.context, new) as session:
        assert (await session.get_one(Cluster, new.cluster_id)).n_workers == 2


async def test_a_lease_that_holds_is_not_taken(fleet: Fleet) -> None:
    await fleet.create()
    (lease,) = await claim(fleet.context, "s-one")
    assert isinstance(lease, Lease)
    assert await claim(fleet.context, "s-two") == []


def _owner_that_died() -> str:
    program = "from ropewalk.server.leases import owners; print(owners.new_owner())"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.strip()


async def test_the_lease_of_a_neighbour_that_died_is_free_at_once(fleet: Fleet) -> None:
    await fleet.create()
    await claim(fleet.context, await asyncio.to_thread(_owner_that_died))
    await release_dead(fleet.context)
    assert len(await claim(fleet.context, "s-next")) == 1


@pytest.fixture
def zombie() -> Iterator[str]:
    """The name of a server that has died, and whose parent took no note of it."""
    program = "from ropewalk.server.leases import owners; print(owners.new_owner(), flush=True)"
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        owner = process.stdout.readline().strip()
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        yield owner


async def test_a_neighbour_whose_death_nobody_took_note_of_is_dead(fleet: Fleet, zombie: str) -> None:
    await fleet.create()
    await claim(fleet.context, zombie)
    await release_dead(fleet.context)
    assert len(await claim(fleet.context, "s-next")) == 1


@pytest.mark.parametrize("whose", ["ours", "of another machine", "of unknown form"])
async def test_the_lease_of_who_may_be_alive_is_left_alone(fleet: Fleet, whose: str) -> None:
    dead = await asyncio.to_thread(_owner_that_died)
    owners = {"ours": new_owner(), "of another machine": f"x{dead}", "of unknown form": "s-elsewhere"}
    await fleet.create()
    await claim(fleet.context, owners[whose])
    await release_dead(fleet.context)
    assert await claim(fleet.context, "s-next") == []


async def test_racing_servers_claim_each_cluster_once(fleet: Fleet) -> None:
    for number in range(8):
        await fleet.create(name=f"c{number}")
    claims = await asyncio.gather(*(claim(fleet.context, f"s-{n}") for n in range(4)))
    claimed = [lease.cluster_id for leases in claims for lease in leases]
    assert len(claimed) == len(set(claimed)) == 8


async def test_an_idle_cluster_costs_no_looks_and_no_passes(running: Fleet) -> None:
    await running.create(n_workers=2)
    await running.until("ready", workers=2)
    metrics = running.context.metrics
    passes = metrics.reconcile_passes._value.get
    await _at_rest(running)
    before = passes(), running.cloud.calls["observe"]
    running.context.wakeups.wake("events:nobody")
    await asyncio.sleep(0)
    assert (passes(), running.cloud.calls["observe"]) == before


async def _at_rest(fleet: Fleet) -> None:
    """Wait until two looks at the counters, a while apart, are the same."""
    last = None

    def same() -> bool:
        nonlocal last
        now = fleet.context.metrics.reconcile_passes._value.get(), fleet.cloud.calls["observe"]
        rest, last = now == last, now
        return rest

    await eventually(same, every=0.3)


async def test_an_orphan_is_reported_at_once_and_removed_after_its_grace(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    async with running.context.db.transaction() as session:
        row = await session.get_one(Cluster, cluster.id)
        row.state = "stopped"
        for node in (await running.rows()).values():
            (await session.get_one(type(node), node.name)).state = "stopped"
    sweep = Sweep(running.context)
    assert await sweep.run() == 2
    assert len(running.running()) == 2
    running.clock.advance(timedelta(seconds=running.settings.orphan_grace_seconds).total_seconds())
    await sweep.run()
    assert running.running() == []
    assert await sweep.run() == 0


async def test_a_sweep_leaves_what_is_known_alone(running: Fleet) -> None:
    await running.create(n_workers=2)
    await running.until("ready", workers=2)
    sweep = Sweep(running.context)
    await sweep.run()
    running.clock.advance(days=1)
    assert await sweep.run() == 0
    assert len(running.running()) == 3


async def test_a_node_that_ends_while_a_sweep_looks_is_no_orphan(
    running: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.create(n_workers=1)
    await running.until("ready", workers=1)
    inventory = MemoryBackend.inventory

    async def slow(backend: MemoryBackend) -> Sequence[NodeHandle]:
        present = await inventory(backend)
        await running.stop()
        await running.until("stopped")
        return present

    monkeypatch.setattr(MemoryBackend, "inventory", slow)
    assert await Sweep(running.context).run() == 0


async def test_cost_counts_from_launch_to_gone_at_the_price_of_the_day(running: Fleet) -> None:
    await running.create(n_workers=2, worker_memory="2 GiB", scheduler_memory="2 GiB")
    await running.until("ready", workers=2)
    running.clock.advance(hours=10)
    cost = await service.cost_of(running.context, running.caller, "c")
    hourly = 3 * (0.04 + 2 * 0.005)
    assert cost.per_hour == pytest.approx(hourly)
    assert cost.so_far == pytest.approx(10 * hourly)
    await running.stop()
    await running.until("stopped")
    running.clock.advance(hours=10)
    after = await service.cost_of(running.context, running.caller, "c")
    assert after.per_hour == 0
    assert after.so_far == pytest.approx(10 * hourly)


async def test_a_renewal_leaves_a_cluster_alone_that_is_just_being_made(fleet: Fleet) -> None:
    """Its lease is there with its row, and who works on it a moment later."""
    async with fleet.server(fleet.context) as reconciler:
        backend = await fleet.context.backends.get(HOSTED_ID)
        row = service._new_row(fleet.context, fleet.caller, "c", ClusterSpec(n_workers=0), None)
        row.cloud_account_id = HOSTED_ID
        with reconciler.newborn(row, backend, "ada") as worker:
            async with fleet.database.transaction() as session:
                await service._write_new(fleet.context, session, row, fleet.caller, backend, worker)
            await reconciler._renew()
        await fleet.until("ready")
        async with fleet.database.read() as session:
            assert await session.scalar(select(Cluster.fence)) == 1, "it was given back, and claimed again"


async def test_a_cluster_that_could_not_be_written_is_worked_on_by_nobody(running: Fleet) -> None:
    await running.create(n_workers=0)
    with pytest.raises(ConflictError):
        await running.create(n_workers=0)
    await running.until("ready")
    assert running.running() == [f"{(await running.get()).id}-scheduler"]
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("cluster ")][1:]


async def test_a_start_takes_a_pass_for_what_was_launched_and_one_for_a_scheduler_that_is_heard(running: Fleet) -> None:
    """Each is a write to the disk. A look that says what launches said, and a scheduler that was told, are no news."""
    await running.create(n_workers=0)
    await running.until("ready")
    await eventually(lambda: running.cloud.calls["observe"] > 0)
    seen = running.context.metrics.reconcile_passes._value.get()
    assert seen <= 3, "one more, if it was heard before it had a version of its own"
