"""How often AWS is asked: what the benchmark of AWS measures, without its delays and without the peer."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import pytest
from benchmarks import aws_ours as side

from ropewalk.backends.aws import observe
from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.port import Resource
from ropewalk.schemas.clusters import NodeRole
from tests.support.ministack import REGION, Double

WORKERS = 100

Connect = Callable[[Sequence[Resource]], AwsBackend]


@pytest.fixture
def facts(aws: Double) -> Mapping[str, str]:
    key = aws.make_user()
    secret = key.secret_access_key.get_secret_value()
    return {"endpoint": aws.endpoint, "region": REGION, "key": key.access_key_id, "secret": secret}


@pytest.fixture
async def connect(facts: Mapping[str, str]) -> AsyncIterator[Connect]:
    made: list[AwsBackend] = []

    def connected(resources: Sequence[Resource]) -> AwsBackend:
        made.append(side.backend(facts, resources))
        return made[-1]

    yield connected
    for backend in made:
        await backend.close()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "FASTEST", 0.2)


async def test_a_hundred_workers_are_eleven_launches_and_one_definition_for_each_role(
    aws: Double, facts: Mapping[str, str], connect: Connect
) -> None:
    resources = await side.prepared(facts)
    aws.count_anew()
    backend = connect(resources)
    (scheduler,) = await side.started(backend, "c", NodeRole.SCHEDULER, 1)
    address = await side.address_of(backend, scheduler)
    workers = await side.started(backend, "c", NodeRole.WORKER, WORKERS, address)
    await side.until_running(backend, [scheduler, *workers])
    calls = aws.calls()
    assert calls["ecs:RunTask"] == 1 + WORKERS // 10
    assert calls["ecs:RegisterTaskDefinition"] <= 2
    assert calls["ec2:DescribeNetworkInterfaces"] == 1
    assert sum(calls.values()) <= 40, calls


@pytest.mark.timeout(600)  # a hundred clusters' certificates and launches, on a busy machine
async def test_a_look_at_a_hundred_idle_clusters_is_one_call(
    aws: Double, facts: Mapping[str, str], connect: Connect
) -> None:
    resources = await side.prepared(facts)
    backend = connect(resources)
    nodes = []
    for number in range(WORKERS):
        nodes += await side.started(backend, f"c{number}", NodeRole.SCHEDULER, 1)
    await side.until_running(backend, nodes)
    again = connect(resources)  # has seen nothing
    moment = time.monotonic()
    again._lookout._clock = lambda: moment  # what takes long on a busy machine makes nothing old
    await again.observe(nodes)
    aws.count_anew()
    # What was seen just now is not asked about again.
    await again.observe(nodes)
    assert aws.calls() == {}
    moment += observe.SLOW
    await again.observe(nodes)
    assert aws.calls() == {"ecs:DescribeTasks": 1}
