"""A cloud account cannot be forgotten by accident; forgotten on purpose, it is said what is left behind."""

from __future__ import annotations

from typing import Any

from sqlalchemy import select

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import TryAgainError
from ropewalk.server.clusters.sweep import Sweep
from ropewalk.server.db.models import CloudAccount, Cluster, Node
from tests.server.cloud_accounts.conftest import KEY, STRANGER, World
from tests.support.api import Person
from tests.support.waiting import eventually


async def cluster(who: Person, state: str = "ready") -> dict[str, Any]:
    """Make a cluster, or look at it, until it is in *state*."""
    await who.client.post(
        f"/api/v1/accounts/{who.username}/clusters?reattach=true", json={"name": "etl", "n_workers": 1}
    )

    async def there() -> dict[str, Any] | None:
        shown: dict[str, Any] = (await who.client.get(f"/api/v1/accounts/{who.username}/clusters/etl")).json()
        return shown if shown["state"] == state else None

    return await eventually(there)


async def test_what_holds_nothing_is_forgotten_with_its_credentials(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    answer = await world.ask(ada, "DELETE")
    assert (answer["kind"], answer["others"]) == ("hosted", [])
    async with world.api.context.db.read() as session:
        row = (await session.scalars(select(CloudAccount).where(CloudAccount.account_id.is_not(None)))).one()
    assert (row.credentials, row.state) == (None, "removed")
    assert row.forgotten_at is not None


async def test_after_it_was_forgotten_another_one_can_be_set(world: World) -> None:
    ada = await world.admin()
    old = (await world.set(ada, credentials=KEY)).json()
    await world.ask(ada, "DELETE")
    new = (await world.set(ada, credentials=STRANGER)).json()
    assert new["id"] != old["id"]
    assert (new["identity"]["owner"], new["external_id"]) == ("222", old["external_id"])
    await world.ask(ada, "GET", f"?id={old['id']}", 404)
    assert [event["code"] for event in await world.ask(ada, "GET", f"/events?id={old['id']}")] == [
        "cloud_account.updated",
        "cloud_account.forgotten",
    ]


async def test_resources_keep_it_from_being_forgotten(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    error = (await world.ask(ada, "DELETE", "", 409))["error"]
    assert error["message"].startswith("The cloud account still holds 3 resources")
    assert error["details"]["resources"] == ["network memory-network", "role memory-role", "nat memory-nat"]
    assert "teardown" in error["advice"]
    await world.ask(ada, "POST", "/teardown")
    await world.until(ada, "removed")
    await world.ask(ada, "DELETE")
    assert aws.estate == []


async def test_work_that_is_under_way_keeps_it_from_being_forgotten(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject("prepare", TryAgainError("Wait.", delay=60))
    await world.prepare(ada)
    error = (await world.ask(ada, "DELETE", "", 409))["error"]
    assert "work that is not done yet" in error["message"]


async def test_clusters_keep_it_from_being_forgotten_wherever_new_ones_run(world: World) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    await cluster(ada)
    await world.set(ada, kind="hosted")
    error = (await world.ask(ada, "DELETE", f"?id={shown['id']}", 409))["error"]
    assert "1 cluster (etl)" in error["message"]
    assert error["details"]["clusters"] == ["etl"]


async def test_by_force_everything_is_abandoned_and_the_event_says_what(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    made = await cluster(ada)
    answer = await world.ask(ada, "DELETE", "?force=true")
    assert answer["kind"] == "hosted"
    abandoned = (await ada.client.get("/api/v1/accounts/ada/clusters/etl")).json()
    assert abandoned["state"] == "failed"
    assert "nobody knows what of it still runs there" in abandoned["reason"]
    assert {node["state"] for node in abandoned["nodes"]} == {"lost"}
    root = await world.api.operator()
    event = [e for e in (await root.client.get("/api/v1/audit?limit=1000")).json() if e["code"].endswith("forgotten")]
    assert event[0]["details"]["clusters"] == ["etl"]
    assert len(event[0]["details"]["nodes"]) == len(event[0]["details"]["resources"]) - 1 == 2
    assert "abandoned network memory-network, role memory-role, nat memory-nat, cluster etl" in event[0]["message"]
    assert len(aws.node_names()) == 2, "nobody touched them"
    world.tick(1)
    name = (await cluster(ada))["id"]
    assert name != made["id"], "the name is free, and the next one runs on the hosted cloud account"


async def test_whoever_worked_on_an_abandoned_cluster_writes_nothing_more(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    made = await cluster(ada)
    await world.ask(ada, "DELETE", "?force=true")
    for name in aws.node_names():
        aws.end(name, exit_code=1, reason="It died.")
    context = world.api.context
    reconciler = world.api.app.state.reconciler

    async def let_go() -> bool:
        return made["id"] not in reconciler.working()

    await eventually(let_go)
    async with context.db.read() as session:
        row = await session.get_one(Cluster, made["id"])
        nodes = await session.scalars(select(Node.state).where(Node.cluster_id == made["id"]))
        assert (row.state, set(nodes)) == ("failed", {"lost"})


async def test_the_sweep_leaves_a_forgotten_cloud_account_alone(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    sweep = Sweep(world.api.context)
    await sweep.run()
    looked = aws.calls["inventory"]
    assert looked
    await world.ask(ada, "DELETE", "?force=true")
    await sweep.run()
    assert aws.calls["inventory"] == looked
