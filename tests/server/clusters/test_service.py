"""What users may ask of clusters, and what they are told when they may not."""

from __future__ import annotations

import asyncio
import json

import pytest
from sqlalchemy import func, select, update

from ropewalk.errors import (
    ClusterError,
    ClusterGoneError,
    ConflictError,
    InputError,
    LimitExceededError,
    NotFoundError,
    PermissionDeniedError,
)
from ropewalk.schemas.clusters import ClusterCreate, ClusterScale
from ropewalk.schemas.identity import MemberRole
from ropewalk.server.clusters import configurations, logs, service
from ropewalk.server.clusters.secret import open_secret
from ropewalk.server.db.models import Account, Cluster, Member
from ropewalk.server.identity.permissions import AccountCaller
from tests.server.clusters.conftest import Fleet
from tests.support.statements import counted
from tests.support.waiting import PATIENCE, eventually


async def _limit(fleet: Fleet, *, member: float | None = None, account: float | None = None) -> None:
    async with fleet.context.db.transaction() as session:
        await session.execute(update(Member).values(core_limit=member))
        await session.execute(update(Account).values(core_limit=account))


async def test_a_name_is_made_from_the_user_and_is_unique(fleet: Fleet) -> None:
    made = {(await fleet.create(name=None)).name for _ in range(5)}
    assert len(made) == 5
    assert all(name.startswith("ada-") for name in made)


async def test_a_live_name_is_refused_and_a_stopped_one_is_free(running: Fleet) -> None:
    await running.create(n_workers=0)
    with pytest.raises(ConflictError, match="already running") as refused:
        await running.create(n_workers=0)
    assert refused.value.field == "name"
    await running.stop()
    await running.until("stopped")
    assert (await running.create(n_workers=0)).state == "starting"


async def test_two_requests_for_one_name_at_once_make_one_cluster(fleet: Fleet) -> None:
    results = await asyncio.gather(*(fleet.create() for _ in range(5)), return_exceptions=True)
    made = [result for result in results if not isinstance(result, BaseException)]
    assert len(made) == 1
    assert all(isinstance(r, ConflictError) for r in results if isinstance(r, BaseException))


async def test_reattaching_returns_the_live_cluster_as_it_is(fleet: Fleet) -> None:
    first = await fleet.create(n_workers=3)
    wish = ClusterCreate(name="c", n_workers=9)
    again, new = await service.create(fleet.context, fleet.caller, wish, reattach=True)
    assert (again.id, again.n_workers, new) == (first.id, 3, False)


async def test_names_are_per_account(fleet: Fleet) -> None:
    other = await fleet.person("bob")
    await fleet.create()
    await fleet.create(other)


async def test_a_member_limit_says_limit_use_and_request(fleet: Fleet) -> None:
    await _limit(fleet, member=5)
    await fleet.create(n_workers=2)
    with pytest.raises(LimitExceededError) as refused:
        await fleet.create(name="d", n_workers=2)
    assert refused.value.details == {"limit": 5, "used": 3, "asked": 3, "of": "member"}
    assert "you may use 5 and already use 3" in refused.value.message
    assert "at most 2 cores" in str(refused.value)


async def test_an_account_limit_counts_all_members(fleet: Fleet) -> None:
    mate = await fleet.person("bob", account="ada")
    await _limit(fleet, account=5)
    await fleet.create(n_workers=2)
    with pytest.raises(LimitExceededError) as refused:
        await fleet.create(mate, name="d", n_workers=2)
    assert refused.value.details["of"] == "account"


async def test_an_adaptive_cluster_counts_at_its_maximum(fleet: Fleet) -> None:
    await _limit(fleet, member=5)
    with pytest.raises(LimitExceededError):
        await fleet.create(n_workers=(0, 5))
    await fleet.create(n_workers=(0, 4))


async def test_scaling_is_limited_and_a_cluster_does_not_count_against_itself(fleet: Fleet) -> None:
    await _limit(fleet, member=5)
    await fleet.create(n_workers=3)
    await fleet.scale(4)
    with pytest.raises(LimitExceededError):
        await fleet.scale(5)
    assert (await fleet.get()).n_workers == 4
    await fleet.scale(0)


async def test_limits_hold_when_many_ask_at_once(fleet: Fleet) -> None:
    await _limit(fleet, member=7)
    wishes = [fleet.create(name=f"c{n}", n_workers=1) for n in range(8)]
    results = await asyncio.gather(*wishes, return_exceptions=True)
    assert sum(1 for r in results if not isinstance(r, BaseException)) == 3
    assert sum(1 for r in results if isinstance(r, LimitExceededError)) == 5
    async with fleet.context.db.read() as session:
        assert await session.scalar(select(func.sum(Cluster.reserved_cores))) == 6


async def test_a_stopped_cluster_frees_its_cores(running: Fleet) -> None:
    await _limit(running, member=3)
    await running.create(n_workers=2)
    await running.stop()
    await running.until("stopped")
    await running.create(name="d", n_workers=2)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"worker_memory": "2 TiB"}, "worker_memory"),
        ({"scheduler_memory": "2 TiB"}, "scheduler_memory"),
        ({"worker_gpu": 1}, "worker_gpu"),
        ({"software": "nope"}, "software"),
        ({"backend_options": {"colour": "blue"}}, "backend_options.colour"),
    ],
)
async def test_what_the_cloud_account_cannot_do_is_refused_by_field(
    fleet: Fleet, fields: dict[str, object], field: str
) -> None:
    with pytest.raises((InputError, NotFoundError)) as refused:
        await fleet.create(None, **fields)
    assert refused.value.field == field
    async with fleet.context.db.read() as session:
        assert (await session.scalars(select(Cluster))).all() == []


async def test_a_configuration_fills_in_what_is_not_given(fleet: Fleet) -> None:
    template = {"n_workers": 7, "worker_memory": "2 GiB", "idle_timeout": None}
    await configurations.set_configuration(fleet.context, fleet.caller, "big", template)
    wish = ClusterCreate.model_validate({"name": "c", "configuration": "big", "worker_memory": "3 GiB"})
    made, _ = await service.create(fleet.context, fleet.caller, wish)
    assert made.n_workers == 7
    assert made.spec.worker_memory == 3 * 2**30
    assert made.spec.idle_timeout is None


async def test_environment_variables_reach_nodes_and_nothing_else(running: Fleet) -> None:
    cluster = await running.create(n_workers=1, environ={"PASSWORD": "canary-4711"})
    await running.until("ready", workers=1)
    assert running.cloud.node(f"{cluster.id}-worker-1").environ == {"PASSWORD": "canary-4711"}
    assert "canary-4711" not in (await running.get()).model_dump_json()
    async with running.context.db.read() as session:
        row = await session.get_one(Cluster, cluster.id)
    assert b"canary-4711" not in row.secret
    assert "canary-4711" not in json.dumps(row.spec)
    assert open_secret(running.context.vault, row).environ == {"PASSWORD": "canary-4711"}


async def test_nodes_get_the_certificate_of_their_role_only(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    async with running.context.db.read() as session:
        secret = open_secret(running.context.vault, await session.get_one(Cluster, cluster.id))
    for role, name in (("scheduler", f"{cluster.id}-scheduler"), ("worker", f"{cluster.id}-worker-1")):
        config = json.dumps(running.cloud.node(name).config)
        keys = {r: pair.key.replace("\n", "\\n") for r, pair in secret.certificates.pairs.items()}
        assert [r for r, key in keys.items() if key in config] == [role]


async def test_a_connection_is_given_when_ready_and_not_before_or_after(fleet: Fleet) -> None:
    await fleet.create(n_workers=0)
    with pytest.raises(ClusterError, match="not ready yet"):
        await service.connection(fleet.context, fleet.caller, "c")
    async with fleet.server(fleet.context):
        await fleet.until("ready")
        connection = await service.connection(fleet.context, fleet.caller, "c")
        assert connection.scheduler_address.startswith("tls://")
        assert "PRIVATE KEY" in connection.key
        assert "python" in connection.versions
        await fleet.stop()
        with pytest.raises(ClusterGoneError, match="ada stopped it"):
            await service.connection(fleet.context, fleet.caller, "c")


async def test_an_ending_cluster_cannot_be_scaled(running: Fleet) -> None:
    await running.create(n_workers=0)
    await running.stop()
    with pytest.raises(ClusterGoneError):
        await running.scale(3)


async def test_stopping_twice_is_once(running: Fleet) -> None:
    await running.create(n_workers=0)
    await running.stop()
    await running.stop()
    await running.until("stopped")
    await running.stop()
    assert (await running.codes()).count("cluster.stop_requested") == 1


async def test_members_change_only_their_own_clusters_and_admins_all(running: Fleet) -> None:
    mate = await running.person("bob", account="ada")
    await running.create(n_workers=0)
    for attempt in (
        service.stop(running.context, mate, "c"),
        service.scale(running.context, mate, "c", ClusterScale(n_workers=1)),
    ):
        with pytest.raises(PermissionDeniedError, match="did not create"):
            await attempt
    admin = AccountCaller(mate.user_id, "bob", False, None, mate.account_id, "ada", MemberRole.ADMIN)
    await service.stop(running.context, admin, "c")
    assert (await running.until("stopped")).reason == "bob stopped it."


async def test_an_unknown_cluster_names_the_account_and_the_command(fleet: Fleet) -> None:
    with pytest.raises(NotFoundError, match="The account ada has no cluster 'nope'") as refused:
        await fleet.get("nope")
    assert "ropewalk cluster list" in (refused.value.advice or "")


async def test_listing_is_newest_first_in_pages_and_by_state(running: Fleet) -> None:
    for number in range(5):
        await running.create(n_workers=0, name=f"c{number}")
        running.clock.advance(1)
    await running.stop("c2")
    await running.until("stopped", name="c2")

    async def names(**options: object) -> list[str]:
        found = await service.list_all(running.context, running.caller, **options)  # type: ignore[arg-type]
        return [cluster.name for cluster in found]

    assert await names() == ["c4", "c3", "c1", "c0"]
    assert await names(state="all", limit=2) == ["c4", "c3"]
    last = (await service.list_all(running.context, running.caller, state="all", limit=2))[-1]
    assert await names(state="all", before=last.id) == ["c2", "c1", "c0"]
    assert await names(state="all", name="c2") == ["c2"]


async def test_a_list_costs_the_same_number_of_queries_for_one_and_for_many(fleet: Fleet) -> None:
    async def cost() -> int:
        with counted(fleet.database) as seen:
            await service.list_all(fleet.context, fleet.caller, account_id=fleet.caller.account_id)
        return len(seen)

    await fleet.create(n_workers=0, name="c0")
    one = await cost()
    for number in range(1, 10):
        await fleet.create(n_workers=0, name=f"c{number}")
    assert await cost() == one


async def test_a_cluster_is_made_and_ready_to_be_launched_with_nine_statements(running: Fleet) -> None:
    """All of them come before its first node is started, and each takes about as long as starting one."""
    with counted(running.database) as seen:
        cluster = await running.create()
        asked = [statement for statement in seen if "pg_notify" not in statement]
    assert len(asked) <= 9 + 2, asked  # a backend that is a stand-in is looked for each time
    assert [(node.state, node.role) for node in cluster.nodes] == [("pending", "scheduler")] + 2 * [
        ("pending", "worker")
    ]
    await running.until("ready", workers=2)
    assert (await running.codes())[:3] == ["cluster.created", "cluster.starting", "node.launched"]


async def test_the_times_of_a_starts_events_do_not_go_back(running: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = running.clock.now()
    monkeypatch.setattr(running.clock, "now", lambda: running.clock.advance(0.01))
    cluster = await running.create(n_workers=0)
    events, _ = await service.later_events(running.context, cluster.id, 0)
    assert [event.code for event in events[:2]] == ["cluster.created", "cluster.starting"]
    assert begun < events[0].time <= events[1].time


async def test_a_look_at_a_cluster_is_three_queries_and_one_at_its_news_two(fleet: Fleet) -> None:
    """A start makes some ten of these, each of which costs as much processor time as forking a node."""
    cluster = await fleet.create()
    with counted(fleet.database) as seen:
        await fleet.get()
        assert len(seen) == 3, seen
        seen.clear()
        await service.later_events(fleet.context, cluster.id, 0)
    assert len(seen) == 2, seen


async def test_logs_are_read_by_node_from_a_cursor_and_after_death(running: Fleet) -> None:
    cluster = await running.create(n_workers=1)
    await running.until("ready", workers=1)
    running.cloud.write_log(f"{cluster.id}-worker-1", "one\n")
    (page,) = await logs.pages(running.context, running.caller, "c", node="worker-1")
    assert (page.text, page.complete) == ("one\n", False)
    running.cloud.write_log(f"{cluster.id}-worker-1", "two\n")
    await running.stop()
    await running.until("stopped")
    (rest,) = await logs.pages(running.context, running.caller, "c", node="worker-1", cursor=page.cursor)
    assert (rest.text, rest.complete) == ("two\n", True)
    everything = await logs.pages(running.context, running.caller, "c")
    assert [each.node for each in everything] == [f"{cluster.id}-scheduler", f"{cluster.id}-worker-1"]


async def test_logs_of_an_unknown_node_are_refused_by_name(running: Fleet) -> None:
    await running.create(n_workers=0)
    with pytest.raises(NotFoundError, match="no node 'worker-9'"):
        await logs.pages(running.context, running.caller, "c", node="worker-9")


async def test_an_estimate_needs_no_cluster(fleet: Fleet) -> None:
    wish = ClusterCreate(n_workers=(1, 3), worker_memory=2**31, scheduler_memory=2**31)
    estimate = await service.estimate_of(fleet.context, fleet.caller, wish)
    assert (estimate.per_hour, estimate.per_hour_maximum) == (0.1, 0.2)
    assert estimate.text == "$0.10/hr to $0.20/hr"


async def test_whoever_waits_for_events_is_woken_by_them(running: Fleet) -> None:
    cluster = await running.create(n_workers=0)
    with running.context.wakeups.subscribe(f"events:{cluster.id}") as changed:
        await running.until("ready")
        changed.clear()
        await running.stop()
        await asyncio.wait_for(changed.wait(), PATIENCE)


async def test_a_wish_on_one_server_wakes_the_other(fleet: Fleet) -> None:
    if fleet.database.is_sqlite:
        return  # there is one server on SQLite
    user = fleet.context
    await user.wakeups.start()
    try:
        async with fleet.server() as reconciler:
            fleet.context = user
            await eventually(lambda: reconciler.running)
            await fleet.create(n_workers=0)
            await fleet.until("ready")
            await fleet.stop()
            await fleet.until("stopped")
    finally:
        await user.wakeups.stop()
