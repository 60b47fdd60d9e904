"""Clusters and the cloud account where they run: which one, when none can, and what a revoked key means for them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import FixItError
from ropewalk.server.cloud_accounts.reach import note_reach
from ropewalk.server.clusters.reconciler import Reconciler
from ropewalk.server.context import Context
from tests.server.cloud_accounts.conftest import KEY, ROTATED, World
from tests.server.cloud_accounts.test_forgetting import cluster
from tests.support.api import Person
from tests.support.waiting import eventually


async def make(who: Person, name: str = "etl", **wish: Any) -> Any:
    return await who.client.post(
        f"/api/v1/accounts/{who.username}/clusters", json={"name": name, "n_workers": 1, **wish}
    )


async def test_no_cluster_starts_where_nothing_is_prepared(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    refused = await make(ada)
    assert refused.status_code == 409
    assert "is not prepared" in refused.json()["error"]["message"]
    assert "ropewalk cloud-account prepare" in refused.json()["error"]["advice"]


async def test_no_cluster_starts_while_it_is_prepared_for_the_first_time_or_torn_down(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    with world.held("prepare", "role"):
        await world.prepare(ada)
        assert "is being prepared" in (await make(ada)).json()["error"]["message"]
    await world.until(ada, "ready")
    with world.held("teardown", "role"):
        await world.ask(ada, "POST", "/teardown")
        assert "is being torn down" in (await make(ada)).json()["error"]["message"]
    await world.until(ada, "removed")
    assert "is not prepared" in (await make(ada)).json()["error"]["message"]


async def test_clusters_start_while_what_was_ready_is_prepared_again(world: World) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    with world.held("prepare", "role"):
        await world.prepare(ada)
        assert (await make(ada)).status_code == 201
    await world.until(ada, "ready")


async def test_a_namespace_needs_no_preparation(world: World) -> None:
    ada = await world.admin()
    kubeconfig = (
        "{current-context: a, contexts: [{name: a, context: {cluster: c, user: u, namespace: n}}], "
        "clusters: [{name: c, cluster: {server: 'https://k8s.example.org'}}], users: [{name: u, user: {token: t}}]}"
    )
    assert (await world.set(ada, kind="kubernetes", kubeconfig=kubeconfig)).status_code == 200
    assert (await cluster(ada))["cloud_kind"] == "kubernetes"


async def test_new_clusters_run_where_the_account_is_set_and_old_ones_stay_manageable(
    world: World, aws: MemoryCloud, hosted: MemoryCloud
) -> None:
    ada = await world.admin()
    first = await cluster(ada)
    await world.prepared(ada)
    second = await make(ada, "second")
    assert (second.json()["cloud_kind"], first["cloud_kind"]) == ("aws", "hosted")
    await eventually(lambda: len(aws.node_names()) == 2)
    await world.set(ada, kind="hosted")
    scaled = await ada.client.post("/api/v1/accounts/ada/clusters/second/scale", json={"n_workers": 3})
    assert scaled.status_code == 200
    await eventually(lambda: len(aws.node_names()) == 4)
    assert len(hosted.node_names()) == 2
    for name in ("second", "etl"):
        await ada.client.delete(f"/api/v1/accounts/ada/clusters/{name}")
    await eventually(lambda: not aws.node_names() and not hosted.node_names())


async def test_a_revoked_key_is_shown_nothing_is_forgotten_and_a_new_key_resumes(
    world: World, aws: MemoryCloud
) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    made = await cluster(ada)
    assert aws.keys is not None
    revoked = aws.keys.pop(KEY["access_key_id"])
    aws.poke()
    seen = await world.until(ada, "attention")
    assert "is not valid" in seen["reason"]
    assert [item["id"] for item in seen["resources"]] == [item["id"] for item in shown["resources"]]
    there = (await ada.client.get("/api/v1/accounts/ada/clusters/etl")).json()
    assert there["state"] == "ready", "unknown ends nothing"
    assert "is not valid" in there["reason"]
    assert len(aws.node_names()) == 2
    await ada.client.post("/api/v1/accounts/ada/clusters/etl/scale", json={"n_workers": 2})

    async def refused() -> bool:
        events = (await ada.client.get("/api/v1/accounts/ada/clusters/etl/events")).json()
        return any(event["code"] == "node.launch_failed" for event in events)

    await eventually(refused)
    world.tick(1)
    assert (await world.set(ada, credentials=ROTATED)).status_code == 200

    async def grown() -> dict[str, Any] | None:
        found: dict[str, Any] = (await ada.client.get("/api/v1/accounts/ada/clusters/etl")).json()
        return found if found["workers_ready"] == 2 and found["reason"] is None else None

    back = await eventually(grown)
    assert back["id"] == made["id"]
    assert (await world.show(ada))["state"] == "ready"
    assert revoked.owner == "111"
    await ada.client.delete("/api/v1/accounts/ada/clusters/etl")
    await eventually(lambda: not aws.node_names())


async def test_it_is_said_when_the_cloud_answers_again_by_itself(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    await cluster(ada)
    aws.inject("observe", FixItError("The key may not use ecs:DescribeTasks."), times=None)
    aws.poke()
    assert "ecs:DescribeTasks" in (await world.until(ada, "attention"))["reason"]
    aws.heal()
    world.tick(0)
    await world.until(ada, "ready")
    assert await world.codes(ada, shown["last_event"]) == ["attention", "back"]


async def test_what_the_last_look_said_is_noted_last(
    world: World, aws: MemoryCloud, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    await cluster(ada)
    failed, go_on = asyncio.Event(), asyncio.Event()

    async def slow(context: Context, cloud: str, reason: str | None) -> None:
        if reason is not None:
            failed.set()
            await go_on.wait()
        await note_reach(context, cloud, reason)

    monkeypatch.setattr("ropewalk.server.clusters.reconciler.note_reach", slow)
    aws.inject("observe", FixItError("The key may not use ecs:DescribeTasks."), times=None)
    aws.poke()
    await failed.wait()
    aws.heal()
    world.tick(0)
    server: Reconciler = app.state.reconciler
    await eventually(lambda: list(server._reach.values()) == [None])
    go_on.set()
    await eventually(lambda: not server._tasks)
    assert (await world.show(ada))["state"] == "ready"


async def test_a_check_that_goes_well_takes_back_that_the_cloud_does_not_answer(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    await note_reach(world.api.context, shown["id"], "The key is revoked.")
    aws.inject("check", FixItError("The key is revoked."))
    await world.ask(ada, "POST", "/check")
    assert (await world.show(ada))["state"] == "attention"
    await world.ask(ada, "POST", "/check")
    assert (await world.show(ada))["state"] == "ready"
    assert (await world.codes(ada))[-1] == "back"


async def test_the_same_key_that_is_still_refused_is_shown_again(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    await cluster(ada)
    aws.inject("observe", FixItError("The key may not use ecs:DescribeTasks."), times=None)
    aws.poke()
    await world.until(ada, "attention")
    await world.set(ada, credentials=KEY)
    await world.until(ada, "attention")
