"""Preparing and tearing down: every resource stored before the next, whatever happens on the way."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import update

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.common import Event
from ropewalk.server.cloud_accounts import leases
from ropewalk.server.cloud_accounts.leases import LeaseLostError, claim, fenced
from ropewalk.server.cloud_accounts.reconciler import CloudAccounts
from ropewalk.server.cloud_accounts.worker import Worker
from ropewalk.server.db.models import CloudAccount
from tests.server.cloud_accounts.conftest import KEY, ROTATED, World
from tests.support.api import Api
from tests.support.waiting import eventually


def kinds(shown: dict[str, Any]) -> list[str]:
    return [resource["kind"] for resource in shown["resources"]]


# Prepare


async def test_the_plan_says_what_is_made_and_what_it_costs(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    plan = await world.ask(ada, "GET", "/prepare")
    assert [(item["kind"], item["monthly_cost"]) for item in plan["resources"]] == list(aws.steps.items())
    assert (plan["monthly_cost"], plan["currency"]) == (32.85, "USD")
    assert aws.estate == [], "a plan makes nothing"


async def test_what_costs_money_is_only_made_when_the_price_was_accepted(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    refused = await world.ask(ada, "POST", "/prepare", 409, json={"accept_monthly_cost": 32.0})
    error = refused["error"]
    assert error["field"] == "accept_monthly_cost"
    assert "costs 32.85 USD a month" in error["message"]
    assert error["details"]["plan"]["monthly_cost"] == 32.85
    assert (await world.show(ada))["state"] == "new"
    assert aws.calls["prepare"] == 0


async def test_prepare_makes_everything_and_tells_of_each_resource(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    assert kinds(shown) == aws.estate == ["network", "role", "nat"]
    assert (shown["monthly_cost"], shown["reason"]) == (32.85, None)
    codes = await world.codes(ada)
    assert codes == ["updated", "preparing", *["resource_made"] * 3, "ready"]


async def test_prepare_again_completes_what_is_missing_and_tells_only_of_that(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    before = await world.prepared(ada)
    aws.estate.remove("role")
    aws.steps["bucket"] = 0.0
    await world.prepare(ada)

    async def again() -> dict[str, Any] | None:
        shown = await world.show(ada)
        return shown if shown["state"] == "ready" and len(shown["resources"]) == 4 else None

    shown = await eventually(again)
    assert sorted(kinds(shown)) == sorted(aws.estate) == ["bucket", "nat", "network", "role"]
    assert await world.codes(ada, before["last_event"]) == ["preparing", "resource_made", "ready"]


async def test_the_answer_tells_from_where_to_follow_the_events(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    answer = await world.prepare(ada)
    assert answer["state"] == "preparing"
    text = (await ada.client.get(_events(follow=answer["last_event"]))).text
    codes = [line.removeprefix("event: cloud_account.") for line in text.splitlines() if line.startswith("event:")]
    assert codes == ["preparing", *["resource_made"] * 3, "ready"], "the stream ends with the work"


def _events(*, follow: int) -> str:
    return f"/api/v1/accounts/ada/cloud-account/events?after={follow}&follow=true"


async def test_a_right_that_is_missing_needs_attention_until_somebody_asks_again(
    world: World, aws: MemoryCloud
) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject(
        "prepare",
        FixItError("The key may not use iam:CreateRole.", advice="Allow it.", details={"action": "iam:CreateRole"}),
        node="role",
    )
    await world.prepare(ada)
    shown = await world.until(ada, "attention")
    assert shown["reason"] == "The key may not use iam:CreateRole. Allow it."
    assert kinds(shown) == ["network"], "what was made is known"
    events = await world.ask(ada, "GET", "/events")
    assert (events[-1]["level"], events[-1]["details"]["action"]) == ("error", "iam:CreateRole")
    world.tick(3600)
    assert (await world.show(ada))["state"] == "attention", "it is never tried again by itself"
    await world.prepare(ada)
    assert kinds(await world.until(ada, "ready")) == ["network", "role", "nat"]
    assert aws.calls["prepare:network"] == 2


@pytest.mark.parametrize("effect", [True, False])
async def test_a_passing_fault_is_tried_again_later_and_nothing_is_made_twice(
    world: World, aws: MemoryCloud, effect: bool
) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject("prepare", TryAgainError("AWS did not answer.", delay=20), node="nat", times=2, effect=effect)
    await world.prepare(ada)

    async def waits(tries: int) -> bool:
        return (await world.codes(ada)).count("retrying") == tries

    await eventually(lambda: waits(1))
    shown = await world.show(ada)
    assert (shown["state"], shown["reason"]) == (
        "preparing",
        "AWS did not answer. It is tried again in 20 seconds.",
    )
    world.tick(19)
    assert aws.calls["prepare"] == 1
    world.tick(2)
    await eventually(lambda: waits(2))
    world.tick(21)
    assert kinds(await world.until(ada, "ready")) == ["network", "role", "nat"]
    assert sorted(aws.estate) == ["nat", "network", "role"]


async def test_a_defect_of_a_backend_is_tried_again_and_logged(
    world: World, aws: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    with monkeypatch.context() as patch:
        patch.setattr("ropewalk.backends.memory.MemoryBackend._make", None)
        await world.prepare(ada)

        async def told() -> bool:
            return "retrying" in await world.codes(ada)

        await eventually(told)
    assert "The backend failed with TypeError" in (await world.show(ada))["reason"]
    world.tick(10)
    await world.until(ada, "ready")


# Stopped in the middle


class Stop(BaseException):
    """The server dies."""


@pytest.mark.parametrize("writes", range(1, 5))
async def test_a_server_that_dies_at_any_write_leaves_work_that_the_next_one_completes(
    world: World, aws: MemoryCloud, app: FastAPI, writes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the first write of the worker, after each resource: the next server ends with one complete set."""
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    first: CloudAccounts = app.state.cloud_accounts
    await first.stop()
    await world.prepare(ada)
    context = world.api.context
    (lease,) = await claim(context, "a server that dies")
    count = 0
    original = fenced

    def counted(*arguments: Any) -> Any:
        nonlocal count
        count += 1
        if count > writes:
            raise Stop
        return original(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("ropewalk.server.cloud_accounts.worker.fenced", counted)
        with pytest.raises(Stop):
            await Worker(context, lease).run()
    world.clock.advance(context.settings.lease_seconds + 1)
    second = CloudAccounts(context)
    await second.start()
    try:
        shown = await world.until(ada, "ready")
    finally:
        await second.stop()
    assert kinds(shown) == ["network", "role", "nat"]
    assert aws.estate == ["network", "role", "nat"]
    codes = await world.codes(ada)
    assert codes.count("resource_made") == 3, "nobody is told twice"


async def test_a_server_that_stops_gives_its_work_back_at_once(world: World, aws: MemoryCloud, app: FastAPI) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject("prepare", node="role", delay=3600, times=1, effect=True)
    await world.prepare(ada)
    await eventually(lambda: aws.calls["prepare:role"])
    first: CloudAccounts = app.state.cloud_accounts
    await first.stop()
    second = CloudAccounts(world.api.context)
    await second.start()
    try:
        assert kinds(await world.until(ada, "ready")) == ["network", "role", "nat"]
    finally:
        await second.stop()


async def test_two_servers_do_one_work_once(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    others = [CloudAccounts(world.api.context) for _ in range(3)]
    for other in others:
        await other.start()
    try:
        await world.prepare(ada)
        await world.until(ada, "ready")
    finally:
        for other in others:
            await other.stop()
    assert [aws.calls[f"prepare:{kind}"] for kind in aws.steps] == [1, 1, 1]


async def test_a_worker_that_was_frozen_past_its_lease_can_write_nothing(world: World, app: FastAPI) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    mine: CloudAccounts = app.state.cloud_accounts
    await mine.stop()
    await world.prepare(ada)
    context = world.api.context
    (old,) = await claim(context, "frozen")
    assert await claim(context, "early") == [], "one at a time"
    world.clock.advance(context.settings.lease_seconds + 1)
    (new,) = await claim(context, "awake")
    assert new.fence > old.fence
    with pytest.raises(LeaseLostError):
        async with fenced(context, old) as (_session, row):
            row.reason = "late"
    assert (await world.show(ada))["reason"] is None


async def test_leases_are_renewed_while_a_step_takes_long(world: World, aws: MemoryCloud, app: FastAPI) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject("prepare", node="role", delay=3600, times=1, effect=True)
    await world.prepare(ada)
    await eventually(lambda: aws.calls["prepare:role"])
    world.clock.advance(25)
    worker: CloudAccounts = app.state.cloud_accounts
    await worker._renew()
    world.clock.advance(25)
    assert await claim(world.api.context, "another") == []


async def test_work_of_a_dead_neighbour_is_taken_over_at_once(world: World, app: FastAPI) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    mine: CloudAccounts = app.state.cloud_accounts
    await mine.stop()
    await world.prepare(ada)
    boot, namespace, _pid, began = mine.owner.rpartition("/")[0].split("/")
    await claim(world.api.context, f"{boot}/{namespace}/999999999/{began}/abcd")
    next_one = CloudAccounts(world.api.context)
    await next_one.start()
    try:
        await world.until(ada, "ready")
    finally:
        await next_one.stop()


async def test_the_database_may_be_away_for_a_while(
    world: World, app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    tries = 0
    original = leases.claim

    async def away(*arguments: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise OSError("no database")
        return await original(*arguments)

    monkeypatch.setattr(leases, "claim", away)
    await world.prepare(ada)

    async def looked() -> bool:
        world.tick(0)
        return tries > 2

    await eventually(looked)
    await world.until(ada, "ready")
    worker: CloudAccounts = app.state.cloud_accounts
    assert worker.running


# Settings that change meanwhile


async def test_settings_that_change_while_it_prepares_are_prepared_too(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    with world.held("prepare", "nat"):
        await world.prepare(ada)
        await eventually(lambda: aws.calls["prepare:nat"])
        assert (await world.set(ada, settings={"log_retention_days": 90})).status_code == 200
    await world.until(ada, "ready")
    assert aws.calls["prepare"] == 2


async def test_a_new_key_resumes_what_a_revoked_one_stopped(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    with world.held("prepare", "role"):
        await world.prepare(ada)
        await eventually(lambda: aws.calls["prepare:role"])
        aws.inject("prepare", FixItError("The key is revoked.", details={"credentials": "invalid"}), node="nat")
    shown = await world.until(ada, "attention")
    assert kinds(shown) == ["network", "role"]
    await world.set(ada, credentials=ROTATED)
    assert kinds(await world.until(ada, "ready")) == ["network", "role", "nat"]


# Teardown


async def test_teardown_removes_all_of_it_last_first(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    before = await world.prepared(ada)
    answer = await world.ask(ada, "POST", "/teardown")
    assert answer["state"] == "tearing_down"
    shown = await world.until(ada, "removed")
    assert (shown["resources"], shown["monthly_cost"], aws.estate) == ([], 0, [])
    events = await world.ask(ada, "GET", f"/events?after={before['last_event']}")
    gone = [event["details"]["resource"]["kind"] for event in events if event["code"].endswith("resource_removed")]
    assert gone == ["nat", "role", "network"]
    assert events[-1]["code"] == "cloud_account.removed"


async def test_teardown_waits_for_clusters_to_be_stopped(world: World) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    made = await ada.client.post("/api/v1/accounts/ada/clusters", json={"name": "etl", "n_workers": 1})
    assert made.status_code == 201
    refused = await world.ask(ada, "POST", "/teardown", 409)
    assert refused["error"]["details"] == {"clusters": ["etl"]}
    assert "cluster stop" in refused["error"]["advice"]
    assert (await world.show(ada))["state"] == "ready"


async def test_teardown_goes_on_after_faults(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    aws.inject("teardown", TryAgainError("The interface is in use.", delay=5), node="network", effect=True)
    await world.ask(ada, "POST", "/teardown")

    async def waits() -> bool:
        return "retrying" in await world.codes(ada)

    await eventually(waits)
    assert kinds(await world.show(ada)) == ["network"], "what is gone is forgotten, what may be there is not"
    world.tick(6)
    assert (await world.until(ada, "removed"))["resources"] == []


async def test_a_preparation_that_is_torn_down_stops_and_nothing_of_it_is_left(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    with world.held("prepare", "role"):
        await world.prepare(ada)
        await eventually(lambda: aws.calls["prepare:role"])
        await world.ask(ada, "POST", "/teardown")
    await world.until(ada, "removed")
    assert (aws.estate, aws.calls["prepare:nat"]) == ([], 0)


async def test_what_is_torn_down_cannot_be_prepared_until_it_is_gone(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    aws.inject("teardown", TryAgainError("Wait.", delay=60), node="nat")
    await world.ask(ada, "POST", "/teardown")
    refused = await world.prepare(ada, 409)
    assert "being torn down" in refused["error"]["message"]

    async def waits() -> bool:
        return "retrying" in await world.codes(ada)

    await eventually(waits)
    world.tick(61)
    await world.until(ada, "removed")
    await world.prepare(ada)
    assert kinds(await world.until(ada, "ready")) == ["network", "role", "nat"]


async def test_the_hosted_cloud_account_is_not_the_accounts_to_prepare_or_tear_down(world: World) -> None:
    ada = await world.admin()
    assert "operator's" in (await world.prepare(ada, 409))["error"]["message"]
    assert "operator's" in (await world.ask(ada, "POST", "/teardown", 409))["error"]["message"]
    assert "operator's" in (await world.ask(ada, "DELETE", "", 409))["error"]["message"]
    assert await world.ask(ada, "GET", "/events") == []


async def test_a_former_cloud_account_can_be_torn_down_by_its_id(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    old = await world.prepared(ada)
    await world.set(ada, kind="hosted")
    await world.ask(ada, "POST", f"/teardown?id={old['id']}")

    async def gone() -> bool:
        return bool((await world.ask(ada, "GET", f"?id={old['id']}"))["state"] == "removed")

    await eventually(gone)
    assert aws.estate == []


# Events


async def test_a_stream_of_events_survives_that_the_account_is_set_elsewhere(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    followed = world.api.context.wakeups._waiting
    with world.held("prepare", "role"):
        answer = await world.prepare(ada)
        stream = asyncio.ensure_future(ada.client.get(_events(follow=answer["last_event"])))
        await eventually(lambda: aws.calls["prepare:role"] and f"events:{answer['id']}" in followed)
        await world.set(ada, kind="hosted")
    text = (await stream).text
    assert text.count("resource_made") >= 3
    assert "cloud_account.ready" in text


async def test_events_are_a_page_in_order(world: World) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    page = await world.ask(ada, "GET", "/events?limit=2")
    assert [Event.model_validate(event).code for event in page] == ["cloud_account.updated", "cloud_account.preparing"]
    rest = await world.ask(ada, "GET", f"/events?after={page[-1]['id']}")
    assert len(rest) == 4


async def test_another_accounts_events_are_not_mixed_in(world: World) -> None:
    ada, bob = await world.admin(), await world.admin("bob")
    await world.prepared(ada)
    await world.set(bob, credentials=KEY)
    assert await world.codes(bob) == ["updated"]


async def test_many_cloud_accounts_are_worked_on_at_once(world: World, aws: MemoryCloud) -> None:
    people = [await world.admin(name) for name in ("ada", "bob", "cleo")]
    for person in people:
        await world.set(person, credentials=KEY)
    aws.inject("prepare", node="role", delay=0.2, times=3, effect=True)
    for person in people:
        await world.prepare(person)
    for person in people:
        await world.until(person, "ready")
    assert aws.calls["prepare"] == 3


async def test_readiness_tells_when_nobody_works_on_cloud_accounts(app: FastAPI) -> None:
    worker: CloudAccounts = app.state.cloud_accounts
    await worker.stop()
    async with Api(app) as api:
        answer: httpx.Response = await api.client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["parts"]["cloud accounts"] == "are not worked on"


async def test_a_row_without_work_is_left_alone(world: World, app: FastAPI) -> None:
    ada = await world.admin()
    shown = await world.prepared(ada)
    context = world.api.context
    async with context.db.transaction() as session:
        await session.execute(
            update(CloudAccount).where(CloudAccount.id == shown["id"]).values(lease_owner="me", fence=7)
        )
    await Worker(context, leases.Lease(shown["id"], "me", 7)).run()
    assert (await world.show(ada))["state"] == "ready"
    assert app.state.cloud_accounts.running
