"""Clouds that name nodes themselves, tell a scheduler's address late, and have capacity that they may take back."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import update

from ropewalk.backends.port import Capabilities, LaunchRequest, NodeLaunch
from ropewalk.errors import InputError, TryAgainError
from ropewalk.schemas.clusters import ClusterCreate, NodeRole
from ropewalk.server.clusters import service
from ropewalk.server.clusters.sweep import Sweep
from ropewalk.server.db.models import Node
from tests.server.clusters.conftest import Fleet
from tests.support.waiting import eventually

LIKE_ECS = Capabilities(
    scheduler_address_first=False, launch_batch=10, spot=True, images=True, private_network=True, names_nodes=True
)


@pytest.fixture
def ecs(fleet: Fleet) -> Fleet:
    """A fleet on such a cloud, whose server does not run yet."""
    fleet.cloud.capabilities = LIKE_ECS
    return fleet


@pytest.fixture
def running_ecs(ecs: Fleet, running: Fleet) -> Fleet:
    assert ecs is running
    return running


async def test_a_cluster_becomes_ready_scales_and_stops(running_ecs: Fleet) -> None:
    await running_ecs.create(n_workers=3)
    await running_ecs.until("ready", workers=3)
    await running_ecs.scale(12)
    await running_ecs.until("ready", workers=12)
    await running_ecs.scale(1)
    await running_ecs.until("ready", workers=1)
    await running_ecs.stop()
    await running_ecs.until("stopped")
    assert running_ecs.running() == []
    retired = [node for node in (await running_ecs.get()).nodes if node.reason == "It was not needed any more."]
    assert len(retired) == 11


async def test_nodes_are_known_by_what_they_call_themselves(running_ecs: Fleet) -> None:
    cluster = await running_ecs.create(n_workers=2)
    await running_ecs.until("ready", workers=2)
    connected = running_ecs.cloud.cluster(cluster.id).connected()
    rows = await running_ecs.rows()
    assert {f"memory/{own}": name for own, name in connected.items()} == {
        row.cloud_id: row.name for row in rows.values() if row.role == NodeRole.WORKER
    }
    assert not set(connected) & set(rows)


async def test_workers_are_launched_before_the_scheduler_runs_by_its_address_inside(running_ecs: Fleet) -> None:
    running_ecs.cloud.launch_latency = 3600
    cluster = await running_ecs.create(n_workers=12)

    async def launched() -> bool:
        return running_ecs.cloud.launches() == 13

    await eventually(launched)
    assert running_ecs.running() == []
    told = {running_ecs.cloud.scheduler_of(f"{cluster.id}-worker-{number}") for number in range(1, 13)}
    assert told == {f"tls://{cluster.id}-scheduler.internal.invalid:8786"}
    # Clients, and the control plane itself, use the other one.
    found = await running_ecs.get()
    assert found.scheduler_address == f"tls://{cluster.id}-scheduler.memory.invalid:8786"
    assert running_ecs.cloud.calls["launch"] == 3  # the scheduler, then workers in tens


async def test_workers_wait_for_the_address_of_their_scheduler(running_ecs: Fleet) -> None:
    running_ecs.cloud.address_delay = 0.3
    await running_ecs.create(n_workers=2)
    await running_ecs.until("ready", workers=2)
    events = await running_ecs.events()
    assert not [event for event in events if event.code == "node.launch_failed"]


async def test_a_launch_whose_answer_got_lost_is_found_and_stopped(running_ecs: Fleet) -> None:
    running_ecs.cloud.inject("launch", TryAgainError("lost"), effect=True, times=None)
    await running_ecs.create(n_workers=1)

    async def tried() -> bool:
        return await running_ecs.launches_failed(1)

    await eventually(tried)
    await running_ecs.stop()
    await running_ecs.until("stopped")
    assert running_ecs.running() == []


async def test_the_next_server_takes_over_by_the_names_of_the_cloud(ecs: Fleet) -> None:
    async with ecs.server():
        await ecs.create(n_workers=3)
        await ecs.until("ready", workers=3)
    launches = ecs.cloud.launches()
    async with ecs.server():
        await ecs.scale(1)
        await ecs.until("ready", workers=1)
        assert ecs.cloud.launches() == launches


async def test_a_sweep_knows_nodes_by_what_the_cloud_calls_them(running_ecs: Fleet) -> None:
    await running_ecs.create(n_workers=3)
    await running_ecs.until("ready", workers=3)
    sweep = Sweep(running_ecs.context)
    assert await sweep.run() == 0
    # The cloud may take one node of a batch for another: the rows know better.
    inventory = running_ecs.cloud.living()
    workers = [node for node in inventory if node.role is NodeRole.WORKER]
    assert len({node.cloud_id for node in workers}) == 3
    async with running_ecs.database.transaction() as session:
        lost = update(Node).where(Node.name == workers[0].name).values(cloud_id="memory/other")
        await session.execute(lost)
    assert await sweep.run() == 1


async def test_workers_of_spot_fall_back_and_say_so_at_the_normal_price(running_ecs: Fleet) -> None:
    running_ecs.cloud.spot_room = 2
    await running_ecs.create(n_workers=3, spot_policy="spot_with_fallback")
    await running_ecs.until("ready", workers=3)
    assert len(running_ecs.cloud.spot_nodes()) == 2
    rows = await running_ecs.rows()
    prices = sorted(row.hourly_price for row in rows.values() if row.role == NodeRole.WORKER)
    assert prices[0] == prices[1] < prices[2]
    assert [e.message for e in await running_ecs.events() if "no spot capacity" in e.message]


async def test_a_scheduler_never_runs_on_spot(running_ecs: Fleet) -> None:
    cluster = await running_ecs.create(n_workers=1, spot_policy="spot")
    await running_ecs.until("ready", workers=1)
    assert running_ecs.cloud.spot_nodes() == [f"{cluster.id}-worker-1"]


async def test_a_worker_that_spot_took_back_is_replaced(running_ecs: Fleet) -> None:
    cluster = await running_ecs.create(n_workers=2, spot_policy="spot_with_fallback")
    await running_ecs.until("ready", workers=2)
    running_ecs.cloud.spot_room = 0
    reason = "AWS took the spot capacity back."
    running_ecs.cloud.end(f"{cluster.id}-worker-1", exit_code=-15, reason=reason)

    async def replaced() -> bool:
        return f"{cluster.id}-worker-3" in running_ecs.running()

    await eventually(replaced)
    await running_ecs.until("ready", workers=2)
    assert running_ecs.cloud.spot_nodes() == [f"{cluster.id}-worker-2"]
    lost = next(node for node in (await running_ecs.get()).nodes if node.name.endswith("worker-1"))
    assert "took the spot capacity back" in (lost.reason or "")


async def test_image_and_tags_reach_the_cloud(running_ecs: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    create = running_ecs.cloud.create

    def noting(request: LaunchRequest, launch: NodeLaunch) -> object:
        asked.append((request.image, dict(request.tags)))
        return create(request, launch)

    monkeypatch.setattr(running_ecs.cloud, "create", noting)
    await running_ecs.create(n_workers=1, container="example.org/dask:1", tags={"project": "weather"})
    await running_ecs.until("ready", workers=1)
    assert asked == [("example.org/dask:1", {"project": "weather"})] * 2


async def test_an_estimate_counts_spot_and_says_what_it_is(running_ecs: Fleet) -> None:
    async def estimate(**fields: object) -> tuple[float, str | None]:
        found = await service.estimate_of(
            running_ecs.context, running_ecs.caller, ClusterCreate.model_validate({"n_workers": 4, **fields})
        )
        return found.per_hour, found.note

    normal, note = await estimate()
    spot, spot_note = await estimate(spot_policy="spot")
    assert spot < normal
    assert (note, spot_note) == (None, "Spot prices are made up.")


@pytest.mark.parametrize(
    ("fields", "field"), [({"container": "example.org/dask:1"}, "container"), ({"spot_policy": "spot"}, "spot_policy")]
)
async def test_what_a_cloud_account_cannot_is_refused(fleet: Fleet, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        await fleet.create(**fields)
    assert caught.value.field == field
