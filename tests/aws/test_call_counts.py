"""How often AWS is asked: what the benchmark of AWS measures, without its delays and without the peer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from benchmarks import aws_ours as side

from ropewalk.backends.aws import observe
from ropewalk.schemas.clusters import NodeRole
from tests.support.ministack import REGION, Double

WORKERS = 100


@pytest.fixture
def facts(aws: Double) -> Mapping[str, str]:
    key = aws.make_user()
    secret = key.secret_access_key.get_secret_value()
    return {"endpoint": aws.endpoint, "region": REGION, "key": key.access_key_id, "secret": secret}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "FASTEST", 0.2)


async def test_a_hundred_workers_are_eleven_launches_and_one_definition_for_each_role(
    aws: Double, facts: Mapping[str, str]
) -> None:
    resources = await side.prepared(facts)
    aws.count_anew()
    backend = side.backend(facts, resources)
    (scheduler,) = await side.started(backend, "c", NodeRole.SCHEDULER, 1)
    address = await side.address_of(backend, scheduler)
    workers = await side.started(backend, "c", NodeRole.WORKER, WORKERS, address)
    await side.until_running(backend, [scheduler, *workers])
    await backend.close()
    calls = aws.calls()
    assert calls["ecs:RunTask"] == 1 + WORKERS // 10
    assert calls["ecs:RegisterTaskDefinition"] <= 2
    assert calls["ec2:DescribeNetworkInterfaces"] == 1
    assert sum(calls.values()) <= 40, calls


async def test_a_look_at_a_hundred_idle_clusters_is_one_call(aws: Double, facts: Mapping[str, str]) -> None:
    backend = side.backend(facts, await side.prepared(facts))
    nodes = []
    for number in range(WORKERS):
        nodes += await side.started(backend, f"c{number}", NodeRole.SCHEDULER, 1)
    await side.until_running(backend, nodes)
    await backend.close()
    again = side.backend(facts, await side.prepared(facts))  # has seen nothing
    await again.observe(nodes)
    aws.count_anew()
    # What was seen just now is not asked about again.
    await again.observe(nodes)
    assert aws.calls() == {}
    for seen in again._lookout._seen.values():
        seen.at -= observe.SLOW
    await again.observe(nodes)
    assert aws.calls() == {"ecs:DescribeTasks": 1}
    await again.close()
