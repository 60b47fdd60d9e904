"""Nodes as ECS tasks: launched once whatever happens to answers, looked at seldom, stopped for sure."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ropewalk.backends.aws import backend as backend_module
from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.aws.launch import SPOT_PAUSE
from ropewalk.backends.aws.observe import GRACE, SLOW, SPOT_PATIENCE
from ropewalk.backends.aws.reasons import lacks_capacity
from ropewalk.backends.aws.tasks import Batch, task_id
from ropewalk.backends.port import Answer, ClusterRef, LaunchRequest, LaunchResult, NodeHandle, NodeLaunch, NodeShape
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.clusters import GIB, NodeRole
from tests.support.fake_ecs import NO_CAPACITY, PLACE, FakeEcs, aws_error, lost, resources
from tests.support.waiting import PATIENCE

CREDENTIALS = AwsCredentials.model_validate({"access_key_id": "AKIAX", "secret_access_key": "s"})
SHAPE = NodeShape(1, 4 * GIB)
SETTINGS = AwsSettings(image="registry.invalid/dask:1")
SCHEDULER = "tls://10.0.0.1:8786"

Make = Callable[..., AwsBackend]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def ecs(monkeypatch: pytest.MonkeyPatch) -> FakeEcs:
    fake = FakeEcs()
    monkeypatch.setattr(backend_module, "Aws", lambda *_args, **_options: fake)
    return fake


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(ecs: FakeEcs, clock: Clock) -> Make:
    """Make a backend on the same cloud, as a server does that starts."""

    def made(settings: AwsSettings = SETTINGS) -> AwsBackend:
        assert ecs
        return AwsBackend(PLACE, settings, CREDENTIALS, resources(), clock=clock)

    return made


@pytest.fixture
def backend(make: Make) -> AwsBackend:
    return make()


def node(name: str, *, cluster: str = "c1", **facts: Any) -> NodeLaunch:
    role = NodeRole.SCHEDULER if name == "scheduler" else NodeRole.WORKER
    config = {"v": 1, "node": f"{cluster}-{name}", "role": role.value, "tls": {"key": "canary-key"}, "options": {}}
    return NodeLaunch(f"{cluster}-{name}", role, SHAPE, config, **facts)


def workers(first: int, last: int, **facts: Any) -> list[NodeLaunch]:
    return [node(f"worker-{number}", **facts) for number in range(first, last + 1)]


def asking(*nodes: NodeLaunch, cluster: str = "c1", **facts: Any) -> LaunchRequest:
    scheduler = None if nodes[0].role is NodeRole.SCHEDULER else SCHEDULER
    return LaunchRequest(ClusterRef("i-test", "team", cluster, "name"), nodes, scheduler, **facts)


def again(nodes: list[NodeLaunch], attempt: int = 2) -> list[NodeLaunch]:
    return [replace(each, attempt=attempt) for each in nodes]


def handle(result: LaunchResult, role: NodeRole = NodeRole.WORKER, cluster: str = "c1") -> NodeHandle:
    return NodeHandle(result.name, cluster, role, result.cloud_id)


async def answers(backend: AwsBackend, *handles: NodeHandle) -> list[Answer]:
    seen = (await backend.observe(handles)).sightings
    return [seen[each.name].answer for each in handles]


async def no_spot(backend: AwsBackend, result: LaunchResult) -> bool:
    return (await backend.observe([handle(result)])).sightings[result.name].no_spot


class TestLaunch:
    async def test_of_workers_is_one_call_for_ten(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        results = await backend.launch(asking(*workers(1, 10)))
        assert [result.error for result in results] == [None] * 10
        assert {result.cloud_id for result in results} == set(ecs.tasks)
        assert ecs.calls == {"DescribeTaskDefinition": 1, "RegisterTaskDefinition": 1, "RunTask": 1}

    async def test_of_a_hundred_workers_registers_one_definition(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        batches = [asking(*workers(10 * i + 1, 10 * i + 10)) for i in range(10)]
        await asyncio.gather(*map(backend.launch, batches))
        assert ecs.calls == {"DescribeTaskDefinition": 1, "RegisterTaskDefinition": 1, "RunTask": 10}
        assert len(ecs.tasks) == 100

    async def test_says_where_and_for_whom(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        await backend.launch(asking(*workers(1, 2), tags={"project": "weather"}))
        (said,) = [parameters for operation, parameters in ecs.said if operation == "RunTask"]
        network = said["networkConfiguration"]["awsvpcConfiguration"]
        assert network == {
            "subnets": ["subnet-a", "subnet-b"],
            "securityGroups": ["sg-1"],
            "assignPublicIp": "ENABLED",
        }
        assert said["startedBy"] == "ropewalk/c1"
        assert said["group"] == "ropewalk:i-test:c1:w:-worker-1,-worker-2"
        assert {"key": "project", "value": "weather"} in said["tags"]
        assert "canary-key" not in repr(said)

    async def test_asked_again_by_another_server_starts_nothing(self, make: Make, ecs: FakeEcs) -> None:
        one, two = make(), make()
        both = await asyncio.gather(one.launch(asking(*workers(1, 7))), two.launch(asking(*workers(1, 7))))
        assert both[0] == both[1]
        assert len(ecs.tasks) == 7

    async def test_whose_answer_was_lost_is_repeated_as_it_was(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.fail("RunTask", lost(), effect=True)
        first = await backend.launch(asking(*workers(1, 5)))
        assert all(isinstance(result.error, TryAgainError) for result in first)
        # By then more are wanted, so the nodes are launched in another company.
        second = await backend.launch(asking(*again(workers(1, 5)), *workers(6, 9)))
        assert [result.error for result in second] == [None] * 9
        assert len({result.cloud_id for result in second}) == len(ecs.tasks) == 9

    async def test_whose_answer_was_lost_with_the_server_is_found_by_the_next(self, make: Make, ecs: FakeEcs) -> None:
        ecs.fail("RunTask", lost(), effect=True)
        await make().launch(asking(*workers(1, 5)))
        second = await make().launch(asking(*again(workers(2, 5)), *workers(6, 9)))
        assert [result.error for result in second] == [None] * 8
        assert len({result.cloud_id for result in second}) == 8
        assert len(ecs.tasks) == 9

    async def test_that_has_no_effect_is_repeated(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.fail("RunTask", lost())
        await backend.launch(asking(*workers(1, 3)))
        results = await backend.launch(asking(*again(workers(1, 3))))
        assert [result.error for result in results] == [None] * 3
        assert len(ecs.tasks) == 3

    async def test_with_room_for_some_starts_those_and_says_why_not_the_others(
        self, backend: AwsBackend, ecs: FakeEcs
    ) -> None:
        ecs.room["FARGATE"] = 4
        first = await backend.launch(asking(*workers(1, 10)))
        refused = [result for result in first if result.error]
        assert len(ecs.tasks) == 4
        assert len(refused) == 6
        assert all("no Fargate capacity" in result.error.message for result in refused if result.error)
        ecs.room["FARGATE"] = 100
        left = [each for each in workers(1, 10) if each.name in {result.name for result in refused}]
        second = await backend.launch(asking(*again(left)))
        assert [result.error for result in second] == [None] * 6
        assert len({result.cloud_id for result in [*first, *second] if result.cloud_id}) == len(ecs.tasks) == 10

    async def test_with_room_for_some_is_understood_by_the_next_server(self, make: Make, ecs: FakeEcs) -> None:
        ecs.room["FARGATE"] = 4
        first = await make().launch(asking(*workers(1, 10)))
        ecs.room["FARGATE"] = 100
        names = {result.name for result in first if result.error}
        second = await make().launch(asking(*again([each for each in workers(1, 10) if each.name in names])))
        assert len({result.cloud_id for result in [*first, *second] if result.cloud_id}) == len(ecs.tasks) == 10

    async def test_that_was_refused_asks_no_listing_when_tried_again(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.room["FARGATE"] = 0
        await backend.launch(asking(*workers(1, 3)))
        ecs.room["FARGATE"] = 3
        await backend.launch(asking(*again(workers(1, 3))))
        assert ecs.calls["ListTasks"] == 0
        assert len(ecs.tasks) == 3

    async def test_of_a_name_that_was_stopped_never_comes_up(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        await backend.stop([NodeHandle("c1-worker-1", "c1", NodeRole.WORKER)])
        results = await backend.launch(asking(*workers(1, 2)))
        assert isinstance(results[0].error, FixItError)
        assert results[1].error is None
        assert len(ecs.tasks) == 1

    async def test_whose_answer_was_lost_is_not_repeated_for_who_was_stopped_since(
        self, backend: AwsBackend, ecs: FakeEcs
    ) -> None:
        ecs.fail("RunTask", lost())
        await backend.launch(asking(*workers(1, 3)))
        await backend.stop([NodeHandle("c1-worker-3", "c1", NodeRole.WORKER)])
        results = await backend.launch(asking(*again(workers(1, 2))))
        assert [result.error for result in results] == [None] * 2
        assert len(ecs.tasks) == 2

    async def test_of_workers_without_address_of_the_scheduler_is_an_error(
        self, backend: AwsBackend, ecs: FakeEcs
    ) -> None:
        results = await backend.launch(replace(asking(*workers(1, 2)), scheduler=None))
        assert all(isinstance(result.error, TryAgainError) for result in results)
        assert not ecs.tasks

    async def test_after_an_upgrade_takes_the_tasks_of_the_same_token(self, make: Make, ecs: FakeEcs) -> None:
        first = await make().launch(asking(*workers(1, 3)))
        second = await make(SETTINGS.model_copy(update={"image": "registry.invalid/dask:2"})).launch(
            asking(*workers(1, 3))
        )
        assert [result.cloud_id for result in second] == [result.cloud_id for result in first]
        assert len(ecs.tasks) == 3

    async def test_goes_without_tags_where_the_key_may_not_set_them(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        denied = aws_error("AccessDeniedException", "no", action="ecs:TagResource")
        ecs.fail("RunTask", denied)
        await backend.launch(asking(*workers(1, 2)))
        await backend.launch(asking(*workers(3, 4)))
        assert ["tags" in parameters for operation, parameters in ecs.said if operation == "RunTask"] == [
            True,
            False,
            False,
        ]
        assert len(ecs.tasks) == 4

    async def test_with_a_role_that_is_not_known_yet_is_tried_again(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.fail("RegisterTaskDefinition", aws_error("ClientException", "Role is not valid"))
        ecs.fail("RunTask", aws_error("ClientException", "ECS was unable to assume the role 'x' that was provided."))
        for attempt in (1, 2):
            (result,) = await backend.launch(asking(*again(workers(1, 1), attempt)))
            assert isinstance(result.error, TryAgainError)
        (result,) = await backend.launch(asking(*again(workers(1, 1), 3)))
        assert result.error is None

    async def test_without_any_image_says_where_to_set_one(self, make: Make) -> None:
        backend = make(AwsSettings())
        (result,) = await backend.launch(asking(*workers(1, 1)))
        assert result.error is not None
        assert result.error.field == "container"
        (result,) = await backend.launch(asking(*workers(2, 2), image="registry.invalid/theirs:1"))
        assert result.error is None

    async def test_says_the_value_of_a_quota_that_is_used_up(
        self, backend: AwsBackend, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ecs.room["FARGATE"] = 0
        ecs.reason = "You've reached the limit on the number of vCPUs you can run concurrently"
        monkeypatch.setattr(ecs, "_GetServiceQuota", lambda **_: {"Quota": {"Value": 32.0}}, raising=False)
        (result,) = await backend.launch(asking(*workers(1, 1)))
        assert isinstance(result.error, FixItError)
        assert "(32)" in result.error.message

    async def test_before_prepare_says_so(self, ecs: FakeEcs) -> None:
        backend = AwsBackend(PLACE, SETTINGS, CREDENTIALS, [])
        with pytest.raises(FixItError, match="not prepared"):
            await backend.launch(asking(*workers(1, 1)))
        assert await backend.inventory() == []
        assert not ecs.calls


class TestSpot:
    async def test_is_asked_for_where_wished(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        results = await backend.launch(asking(*workers(1, 3, spot=True)))
        assert [result.spot for result in results] == [True] * 3
        assert ecs.room["FARGATE_SPOT"] == 997

    async def test_without_room_falls_back_for_those_that_found_none(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.room["FARGATE_SPOT"] = 2
        results = await backend.launch(asking(*workers(1, 5, spot=True, spot_fallback=True)))
        assert sorted(bool(result.spot) for result in results) == [False, False, False, True, True]
        assert {result.note is None for result in results if result.spot} == {True}
        assert all("on demand" in (result.note or "") for result in results if not result.spot)
        assert len({result.cloud_id for result in results}) == len(ecs.tasks) == 5

    async def test_without_room_and_fallback_waits(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.room["FARGATE_SPOT"] = 0
        (result,) = await backend.launch(asking(*workers(1, 1, spot=True)))
        assert isinstance(result.error, TryAgainError)
        assert "spot_with_fallback" in (result.error.advice or "")
        assert not ecs.tasks

    async def test_in_an_ecs_cluster_without_it_is_refused_or_falls_back(self, ecs: FakeEcs) -> None:
        details = {"capacity_providers": ["FARGATE"]}
        without = [replace(each, details=details) if each.kind == "ecs_cluster" else each for each in resources()]
        backend = AwsBackend(PLACE, SETTINGS, CREDENTIALS, without)
        (refused,) = await backend.launch(asking(*workers(1, 1, spot=True)))
        assert refused.error is not None
        assert refused.error.field == "spot_policy"
        (fallen,) = await backend.launch(asking(*workers(2, 2, spot=True, spot_fallback=True)))
        assert (fallen.error, fallen.spot) == (None, False)
        assert ecs.calls["RunTask"] == 1

    @pytest.mark.parametrize(
        ("stop_code", "why"),
        [("TaskFailedToStart", NO_CAPACITY), ("SpotInterruption", "Your Spot Task was interrupted.")],
    )
    async def test_that_ends_before_it_ran_for_want_of_room_makes_the_next_run_on_demand(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock, stop_code: str, why: str
    ) -> None:
        (first,) = await backend.launch(asking(*workers(1, 1, spot=True, spot_fallback=True)))
        ecs.end(first.cloud_id or "", None, stop_code, why)
        assert await no_spot(backend, first)
        (second,) = await backend.launch(asking(*workers(2, 2, spot=True, spot_fallback=True)))
        assert (second.error, second.spot) == (None, False)
        assert "on demand" in (second.note or "")
        (patient,) = await backend.launch(asking(*workers(3, 3, spot=True)))
        assert patient.spot
        clock.now += SPOT_PAUSE
        (third,) = await backend.launch(asking(*workers(4, 4, spot=True, spot_fallback=True)))
        assert third.spot

    async def test_that_ends_after_it_ran_is_no_want_of_room(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (first,) = await backend.launch(asking(*workers(1, 1, spot=True, spot_fallback=True)))
        ecs.run()
        ecs.end(first.cloud_id or "", None, "SpotInterruption", "Your Spot Task was interrupted.")
        assert not await no_spot(backend, first)
        (second,) = await backend.launch(asking(*workers(2, 2, spot=True, spot_fallback=True)))
        assert second.spot

    async def test_that_waits_long_for_a_place_is_want_of_room(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        (spot, plain) = await backend.launch(asking(*workers(1, 1, spot=True), *workers(2, 2)))
        assert not await no_spot(backend, spot)
        assert not await no_spot(backend, plain)
        clock.now += SPOT_PATIENCE
        assert await no_spot(backend, spot)
        assert not await no_spot(backend, plain)
        ecs.run()
        clock.now += SPOT_PATIENCE
        assert not await no_spot(backend, spot)

    async def test_that_fell_back_is_found_by_the_next_server(self, make: Make, ecs: FakeEcs) -> None:
        ecs.room["FARGATE_SPOT"] = 0
        wanted = workers(1, 4, spot=True, spot_fallback=True)
        first = await make().launch(asking(*wanted))
        ecs.room["FARGATE_SPOT"] = 100
        second = await make().launch(asking(*again(wanted)))
        assert [result.cloud_id for result in second] == [result.cloud_id for result in first]
        assert len(ecs.tasks) == 4


class TestObserve:
    async def test_tells_addresses_as_soon_as_there_are_some(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (result,) = await backend.launch(asking(node("scheduler")))
        scheduler = handle(result, NodeRole.SCHEDULER)
        before = (await backend.observe([scheduler])).sightings[result.name]
        assert (before.answer, before.address, before.internal) == (Answer.RUNNING, None, None)
        ecs.run()
        ecs.tasks[scheduler.cloud_id or ""]["lastStatus"] = "PENDING"  # its image is pulled still
        backend._lookout.stir([scheduler.cloud_id or ""])
        after = (await backend.observe([scheduler])).sightings[result.name]
        assert (after.address, after.internal) == ("tls://203.0.113.1:8786", "tls://10.0.0.1:8786")

    async def test_tells_private_addresses_where_there_are_no_others(self, ecs: FakeEcs) -> None:
        private = [replace(each, details={**each.details, "public": False}) for each in resources()]
        settings = SETTINGS.model_copy(update={"private_subnets": True})
        backend = AwsBackend(PLACE, settings, CREDENTIALS, private)
        (result,) = await backend.launch(asking(node("scheduler")))
        ecs.run()
        seen = (await backend.observe([handle(result, NodeRole.SCHEDULER)])).sightings[result.name]
        assert seen.address == seen.internal == "tls://10.0.0.1:8786"
        assert ecs.calls["DescribeNetworkInterfaces"] == 0

    async def test_goes_on_where_addresses_may_not_be_asked_for(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (result,) = await backend.launch(asking(node("scheduler")))
        ecs.run()
        ecs.fail("DescribeNetworkInterfaces", aws_error("UnauthorizedOperation", "The key may not use it."))
        scheduler = handle(result, NodeRole.SCHEDULER)
        seen = (await backend.observe([scheduler])).sightings[result.name]
        assert (seen.answer, seen.address, seen.internal) == (Answer.RUNNING, None, "tls://10.0.0.1:8786")
        assert "The key may not use it." in (seen.reason or "")
        backend._lookout.stir([result.cloud_id or ""])
        assert (await backend.observe([scheduler])).sightings[result.name].address == "tls://203.0.113.1:8786"

    async def test_asks_about_a_hundred_at_once(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        batches = [asking(*workers(10 * i + 1, 10 * i + 10)) for i in range(25)]
        nodes = [
            handle(result) for results in await asyncio.gather(*map(backend.launch, batches)) for result in results
        ]
        ecs.run()
        assert set(await answers(backend, *nodes)) == {Answer.RUNNING}
        assert ecs.calls["DescribeTasks"] == 3

    async def test_of_what_just_runs_costs_the_same_for_one_cluster_and_for_many(
        self, make: Make, ecs: FakeEcs, clock: Clock
    ) -> None:
        async def calls_in_ten_minutes(clusters: range) -> int:
            backend = make()
            nodes = []
            for number in clusters:
                (result,) = await backend.launch(asking(node("worker-1", cluster=f"c{number}"), cluster=f"c{number}"))
                nodes.append(handle(result, cluster=f"c{number}"))
            ecs.run()
            await backend.observe(nodes)
            before = ecs.calls.total()
            end = clock.now + 600
            while clock.now < end:
                clock.now = max(clock.now + 0.1, backend._lookout._due())
                await backend.observe(nodes)
            return ecs.calls.total() - before

        one, many = await calls_in_ten_minutes(range(1)), await calls_in_ten_minutes(range(1, 101))
        assert one == many
        assert one <= 600 / SLOW + 10

    async def test_of_what_starts_leaves_what_just_runs_in_peace(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        old = [handle(r) for i in range(20) for r in await backend.launch(asking(*workers(10 * i + 1, 10 * i + 10)))]
        ecs.run()
        await backend.observe(old)
        before = ecs.calls["DescribeTasks"]
        (fresh,) = [handle(r) for r in await backend.launch(asking(node("worker-999")))]
        for _ in range(10):
            clock.now += 1
            await backend.observe([*old, fresh])
        assert ecs.calls["DescribeTasks"] - before == 10

    async def test_of_a_task_that_is_not_shown_yet_is_unknown_for_a_while(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        (result,) = await backend.launch(asking(*workers(1, 1)))
        worker = handle(result)
        ecs.hidden.add(worker.cloud_id or "")
        assert await answers(backend, worker) == [Answer.UNKNOWN]
        clock.now += GRACE / 2
        assert await answers(backend, worker) == [Answer.UNKNOWN]
        ecs.hidden.clear()
        clock.now += 1
        assert await answers(backend, worker) == [Answer.RUNNING]

    async def test_of_a_task_that_is_not_shown_for_long_is_gone(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        (result,) = await backend.launch(asking(*workers(1, 1)))
        ecs.hidden.add(result.cloud_id or "")
        assert await answers(backend, handle(result)) == [Answer.UNKNOWN]
        clock.now += GRACE
        assert await answers(backend, handle(result)) == [Answer.GONE]

    async def test_of_what_stopped_tells_status_and_reason(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        one, two = [handle(result) for result in await backend.launch(asking(*workers(1, 2)))]
        ecs.end(one.cloud_id or "", 137, why="OutOfMemoryError: Container killed due to memory usage")
        ecs.end(two.cloud_id or "", stop_code="SpotInterruption", why="Spot interruption")
        seen = (await backend.observe([one, two])).sightings
        assert [seen[n.name].answer for n in (one, two)] == [Answer.GONE] * 2
        assert seen[one.name].exit_code == -9
        assert "more memory" in (seen[one.name].reason or "")
        assert "spot capacity" in (seen[two.name].reason or "")
        before = ecs.calls.total()
        clock.now += 10 * SLOW
        await backend.observe([one, two])
        assert ecs.calls.total() == before  # what has ended does not change any more

    async def test_of_a_task_that_is_asked_to_stop_is_running_until_ecs_says_stopped(
        self, backend: AwsBackend, ecs: FakeEcs
    ) -> None:
        (result,) = await backend.launch(asking(*workers(1, 1)))
        for status in ("DEACTIVATING", "STOPPING", "DEPROVISIONING"):
            ecs.tasks[result.cloud_id or ""] |= {"lastStatus": status, "desiredStatus": "STOPPED"}
            backend._lookout.stir([result.cloud_id or ""])
            assert await answers(backend, handle(result)) == [Answer.RUNNING]

    async def test_of_a_name_whose_launch_was_never_answered_finds_it(
        self, make: Make, ecs: FakeEcs, clock: Clock
    ) -> None:
        ecs.fail("RunTask", lost(), effect=True)
        await make().launch(asking(*workers(1, 2)))
        backend = make()
        names = [NodeHandle(f"c1-worker-{i}", "c1", NodeRole.WORKER) for i in (1, 2, 3)]
        seen = (await backend.observe(names)).sightings
        assert {seen[n.name].cloud_id for n in names[:2]} == set(ecs.tasks)
        assert seen[names[2].name].answer is Answer.UNKNOWN
        clock.now += GRACE
        assert await answers(backend, *names) == [Answer.RUNNING, Answer.RUNNING, Answer.GONE]

    async def test_of_a_name_that_was_refused_is_gone_at_once(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        ecs.room["FARGATE"] = 0
        await backend.launch(asking(*workers(1, 1)))
        assert await answers(backend, NodeHandle("c1-worker-1", "c1", NodeRole.WORKER)) == [Answer.GONE]
        assert ecs.calls["ListTasks"] == 0

    async def test_that_fails_says_nothing_about_anybody(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (result,) = await backend.launch(asking(*workers(1, 1)))
        ecs.fail("DescribeTasks", lost())
        with pytest.raises(TryAgainError):
            await backend.observe([handle(result)])
        assert await answers(backend, handle(result)) == [Answer.RUNNING]

    async def test_of_an_ecs_cluster_that_was_deleted_is_gone_in_the_end(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        (result,) = await backend.launch(asking(*workers(1, 1)))
        for _ in range(2):
            ecs.fail("DescribeTasks", aws_error("ClusterNotFoundException", "Cluster not found."))
            assert await answers(backend, handle(result)) in ([Answer.UNKNOWN], [Answer.GONE])
            clock.now += GRACE
        assert await answers(backend, handle(result)) == [Answer.RUNNING]  # it was back: nothing was forgotten

    async def test_is_soon_worth_while_after_a_launch_and_seldom_when_all_runs(
        self, backend: AwsBackend, ecs: FakeEcs, clock: Clock
    ) -> None:
        nodes = [handle(result) for result in await backend.launch(asking(*workers(1, 3)))]
        await backend.observe(nodes)
        assert backend._lookout._due() - clock.now <= 1
        ecs.run()
        clock.now += 1
        await backend.observe(nodes)
        assert backend._lookout._due() - clock.now == SLOW
        await backend.stop(nodes[:1])
        assert backend._lookout._due() - clock.now <= 1
        await asyncio.wait_for(backend.changed(), PATIENCE)


class TestStop:
    async def test_ends_tasks_and_can_be_asked_again(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        nodes = [handle(result) for result in await backend.launch(asking(*workers(1, 3)))]
        await backend.stop(nodes)
        await backend.stop(nodes)
        assert ecs.living() == []
        assert await answers(backend, *nodes) == [Answer.GONE] * 3

    async def test_of_what_ecs_does_not_know_any_more_is_no_error(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        nodes = [handle(result) for result in await backend.launch(asking(*workers(1, 2)))]
        del ecs.tasks[nodes[0].cloud_id or ""]
        await backend.stop(nodes)
        assert ecs.living() == []

    async def test_of_one_that_fails_still_asks_the_others(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        nodes = [handle(result) for result in await backend.launch(asking(*workers(1, 3)))]
        ecs.fail("StopTask", lost())
        with pytest.raises(TryAgainError):
            await backend.stop(nodes)
        assert len(ecs.living()) == 1

    async def test_of_a_name_whose_launch_was_never_answered_ends_its_task(self, make: Make, ecs: FakeEcs) -> None:
        ecs.fail("RunTask", lost(), effect=True)
        await make().launch(asking(*workers(1, 3)))
        await make().stop([NodeHandle(f"c1-worker-{i}", "c1", NodeRole.WORKER) for i in (1, 2, 3)])
        assert ecs.living() == []


class TestInventory:
    async def test_lists_what_lives_of_this_installation(self, make: Make, ecs: FakeEcs) -> None:
        results = await make().launch(asking(*workers(1, 3)))
        (other,) = await make().launch(asking(node("scheduler", cluster="c2"), cluster="c2"))
        ecs.tasks["foreign"] = {**ecs.tasks[other.cloud_id or ""], "taskArn": "foreign", "group": "service:web"}
        strange = Batch("i-other", "c9", NodeRole.WORKER, ("c9-worker-1",))
        ecs.tasks["strange"] = {**ecs.tasks["foreign"], "taskArn": "strange", "group": strange.group}
        found = {each.name: each for each in await make().inventory()}
        assert set(found) == {"c1-worker-1", "c1-worker-2", "c1-worker-3", "c2-scheduler"}
        assert found["c2-scheduler"] == handle(other, NodeRole.SCHEDULER, "c2")
        assert {found[r.name].cloud_id for r in results} == {r.cloud_id for r in results}

    def test_a_group_tells_the_names_of_a_batch(self) -> None:
        batch = Batch("i-test", "c1", NodeRole.WORKER, ("c1-worker-1", "c1-worker-10", "odd"))
        assert Batch.of(batch.group) == batch
        assert Batch.of("family:web") is None
        assert Batch.of(None) is None


class TestLogs:
    def stream(self, worker: NodeHandle) -> str:
        return f"ropewalk/node/{task_id(worker.cloud_id or '')}"

    async def test_are_read_page_by_page_to_the_end_across_empty_pages(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (worker,) = [handle(result) for result in await backend.launch(asking(*workers(1, 1)))]
        lines = ["eins", "zwei", "drei", "", "", "", "vier", "fünf ☂", "", "sechs"]
        ecs.events[self.stream(worker)] = lines
        text, cursor = "", None
        while True:
            chunk = await backend.logs(worker, cursor, limit=4)
            text, cursor = text + chunk.text, chunk.cursor
            assert len(chunk.text.encode()) <= 4
            if not chunk.text:
                break
        assert text == "eins\nzwei\ndrei\nvier\nfünf ☂\nsechs\n"
        assert not chunk.complete
        ecs.events[self.stream(worker)] += ["sieben"]
        assert (await backend.logs(worker, cursor)).text == "sieben\n"

    async def test_are_complete_once_the_node_has_ended_and_all_was_read(
        self, backend: AwsBackend, ecs: FakeEcs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (worker,) = [handle(result) for result in await backend.launch(asking(*workers(1, 1)))]
        ecs.events[self.stream(worker)] = ["last words"]
        ecs.end(worker.cloud_id or "", 1)
        now = ecs.tasks[worker.cloud_id or ""]["stoppedAt"].timestamp()
        monkeypatch.setattr(backend._logs, "_clock", lambda: now)
        chunk = await backend.logs(worker)
        assert (chunk.text, chunk.complete) == ("last words\n", False)
        assert not (await backend.logs(worker, chunk.cursor)).complete  # more may become visible
        now += 60
        assert (await backend.logs(worker, chunk.cursor)).complete

    async def test_of_a_node_that_has_said_nothing_yet_is_empty(self, backend: AwsBackend) -> None:
        (worker,) = [handle(result) for result in await backend.launch(asking(*workers(1, 1)))]
        chunk = await backend.logs(worker)
        assert (chunk.text, chunk.complete) == ("", False)

    async def test_of_a_task_that_ecs_forgot_can_still_be_read(self, backend: AwsBackend, ecs: FakeEcs) -> None:
        (worker,) = [handle(result) for result in await backend.launch(asking(*workers(1, 1)))]
        ecs.events[self.stream(worker)] = ["long ago"]
        ecs.tasks.clear()
        chunk = await backend.logs(worker)
        assert chunk.text == "long ago\n"
        assert (await backend.logs(worker, chunk.cursor)).complete

    @pytest.mark.parametrize("cursor", ["nonsense", "x@f/1", "-1@f/1"])
    async def test_refuse_what_is_no_cursor(self, backend: AwsBackend, cursor: str) -> None:
        (worker,) = [handle(result) for result in await backend.launch(asking(*workers(1, 1)))]
        with pytest.raises(FixItError) as caught:
            await backend.logs(worker, cursor)
        assert caught.value.field == "cursor"


class TestPrice:
    def test_follows_options_and_settings(self, make: Make) -> None:
        normal, currency = make().hourly_price(SHAPE)
        arm, _ = make().hourly_price(SHAPE, options={"architecture": "ARM64"})
        private, _ = make(AwsSettings(private_subnets=True)).hourly_price(SHAPE)
        spot, _ = make().hourly_price(SHAPE, spot=True)
        assert currency == "USD"
        assert spot < arm < normal
        assert private < normal
        assert "estimate" in (make().price_note(spot=True) or "")


def test_capacity_is_recognised_in_aws_own_words() -> None:
    assert lacks_capacity(NO_CAPACITY)
    assert not lacks_capacity("Essential container in task exited")
