"""What an operator can see from outside: the numbers of every loop, and lines that tie request, cluster and node."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from fastapi import FastAPI
from sqlalchemy import select

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.errors import TryAgainError
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.db.models import Cluster
from tests.support.api import Api, Person
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

CLUSTERS = "/api/v1/accounts/ada/clusters"
CLUSTERS_LOOPS = {"claim", "renew", "sweep"}
OTHER_LOOPS = {
    "claim cloud accounts",
    "renew cloud accounts",
    "claim builds",
    "renew builds",
    "tidy environments",
}


@pytest.fixture
def cloud() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
def backends(cloud: MemoryCloud) -> Backends:
    return Backends(overrides={"local": MemoryBackend(cloud)})


@pytest.fixture
async def ada(api: Api) -> Person:
    return await api.operator("ada")


async def start(ada: Person, *, workers: int = 1) -> dict[str, Any]:
    """Create a cluster; wait until it is ready."""
    made = await ada.client.post(CLUSTERS, json={"name": "etl", "n_workers": workers})
    assert made.status_code == 201, made.text

    async def ready() -> dict[str, Any] | None:
        found: dict[str, Any] = (await ada.client.get(f"{CLUSTERS}/etl")).json()
        return found if (found["state"], found["workers_ready"]) == ("ready", workers) else None

    return await eventually(ready)


async def numbers(api: Api) -> dict[str, float]:
    """Return all numbers by name and labels."""
    lines = (await api.client.get("/metrics")).text.splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


async def test_each_loop_tells_of_its_work_its_lag_and_its_leases(api: Api, app: FastAPI, ada: Person) -> None:
    before = await numbers(api)
    assert before["ropewalk_leases"] == 0
    await start(ada)

    async def looked() -> dict[str, float] | None:
        # A cluster does not wait for a look, and is written down as ready before who works on it goes on.
        await app.state.reconciler._renew()
        now = await numbers(api)
        ready = now.get('ropewalk_clusters{state="ready"}')
        return now if now.get('ropewalk_observer_looks_total{result="ok"}') and ready else None

    found = await eventually(looked)
    assert found["ropewalk_leases"] == 1
    assert found["ropewalk_links"] == 1
    assert found['ropewalk_clusters{state="ready"}'] == 1
    assert found["ropewalk_reconcile_passes_total"] > before["ropewalk_reconcile_passes_total"]
    assert found["ropewalk_reconcile_lag_seconds_count"] > before["ropewalk_reconcile_lag_seconds_count"]
    now = api.context.clock.now().timestamp()
    assert found['ropewalk_loop_last_success_seconds{loop="claim"}'] == now
    assert "ropewalk_orphans" in found
    assert "ropewalk_lease_renew_failures_total" in found


async def test_errors_are_counted_by_kind_and_retries_by_loop(
    api: Api, app: FastAPI, ada: Person, cloud: MemoryCloud, clock: FakeClock
) -> None:
    cloud.inject("launch", TryAgainError("There is no capacity.", delay=1), times=1, node="*-scheduler")
    made = await ada.client.post(CLUSTERS, json={"name": "etl", "n_workers": 0})
    assert made.status_code == 201

    async def refused() -> bool:
        return 'ropewalk_retries_total{loop="launch"}' in await numbers(api)

    await eventually(refused)
    found = await numbers(api)
    assert found['ropewalk_reconcile_errors_total{error="TryAgainError"}'] >= 1
    clock.advance(60)
    api.context.wakeups.wake("*")

    async def ready() -> bool:
        return bool((await ada.client.get(f"{CLUSTERS}/etl")).json()["state"] == "ready")

    await eventually(ready)
    cloud.inject("observe", TryAgainError("throttled", delay=0.01), times=1)
    cloud.poke()

    async def failed() -> bool:
        return (await numbers(api)).get('ropewalk_observer_looks_total{result="failed"}', 0) >= 1

    await eventually(failed)
    assert (await numbers(api))['ropewalk_retries_total{loop="observer"}'] >= 1


async def test_diagnostics_tell_of_leases_loops_and_backends_of_a_server_at_work(
    api: Api, app: FastAPI, ada: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    await start(ada)
    found = (await ada.client.get("/api/v1/diagnostics")).json()
    (lease,) = found["leases"]
    assert (lease["mine"], lease["clusters"], lease["owner"]) == (True, 1, app.state.reconciler.owner)
    assert (found["working_on"], found["linked"]) == (1, 1)
    assert {loop["name"] for loop in found["loops"] if loop["running"]} == CLUSTERS_LOOPS | OTHER_LOOPS
    assert next(loop["last_success"] for loop in found["loops"] if loop["name"] == "claim") is not None

    async def broken(_backend: MemoryBackend) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(MemoryBackend, "check", broken)
    await app.state.reconciler.stop()
    async with api.context.db.transaction() as session:
        (await session.scalars(select(Cluster))).one().lease_owner = "another"
    found = (await ada.client.get("/api/v1/diagnostics")).json()
    assert [(lease["mine"], lease["owner"]) for lease in found["leases"]] == [(False, "another")]
    assert {loop["name"] for loop in found["loops"] if loop["running"]} == OTHER_LOOPS
    assert [item["problem"] for item in found["backends"]] == ["The check failed with ZeroDivisionError."]


@pytest.mark.parametrize("part", ["cloud_accounts", "environments"])
async def test_a_loop_that_fails_says_why_until_it_works_again(
    api: Api, app: FastAPI, ada: Person, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    name = {"cloud_accounts": "claim cloud accounts", "environments": "claim builds"}[part]

    async def told() -> dict[str, Any]:
        found = (await ada.client.get("/api/v1/diagnostics")).json()["loops"]
        loop: dict[str, Any] = next(loop for loop in found if loop["name"] == name)
        return loop

    async def works() -> bool:
        loop = await told()
        return loop["last_success"] is not None and loop["problem"] is None

    async def fails() -> bool:
        api.context.wakeups.wake("*")
        return (await told())["problem"] is not None

    await eventually(works)

    async def refused(*_: Any) -> None:
        raise OSError("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(f"ropewalk.server.{part}.leases.claim", refused)
        await eventually(fails)
        loop = await told()
        assert (loop["problem"], loop["running"], loop["failures"] > 0) == ("The disk is full.", True, True)

        async def agree() -> bool:
            # It may fail once more between the two looks: it was woken often.
            found = await told()
            return bool((await numbers(api))[f'ropewalk_retries_total{{loop="{name}"}}'] == found["failures"])

        await eventually(agree)
    api.context.wakeups.wake("*")
    await eventually(works)
    assert (await told())["failures"] > 0
    assert (await numbers(api))[f'ropewalk_loop_last_success_seconds{{loop="{name}"}}'] > 0


async def test_log_lines_lead_from_a_request_to_its_cluster_and_its_nodes(
    api: Api, ada: Person, logs: io.StringIO, cloud: MemoryCloud, clock: FakeClock
) -> None:
    cloud.inject("launch", TryAgainError("There is no capacity.", delay=1), times=1, node="*-worker-1")
    made = await ada.client.post(CLUSTERS, json={"name": "etl", "n_workers": 1}, headers={"X-Request-Id": "r-1234567"})
    cluster = made.json()["id"]

    def lines(event: str) -> list[dict[str, Any]]:
        entries = (json.loads(line) for line in logs.getvalue().splitlines())
        return [entry for entry in entries if entry["event"] == event]

    await eventually(lambda: lines("launch.refused"))
    (wished,) = lines("cluster.wished")
    assert (wished["request_id"], wished["cluster"], wished["user"]) == ("r-1234567", cluster, "ada")
    launching = lines("nodes.launching")[0]
    assert (launching["cluster"], launching["nodes"]) == (cluster, [f"{cluster}-scheduler", f"{cluster}-worker-1"])
    refused = lines("launch.refused")[0]
    assert (refused["cluster"], refused["node"]) == (cluster, f"{cluster}-worker-1")
    assert "no capacity" in refused["error"]
    answered = [entry for entry in lines("request") if entry["request_id"] == "r-1234567"]
    assert [entry["status"] for entry in answered] == [201]
