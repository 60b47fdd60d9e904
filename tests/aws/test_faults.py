"""Whatever goes wrong between Ropewalk and ECS: nothing runs twice, nothing is forgotten, and the reason is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.port import Answer, LaunchRequest, LaunchResult, NodeHandle, Place, Resource, Sighting
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws import AwsCredentials
from tests.conformance import harness
from tests.support import aws_world
from tests.support.ministack import Double
from tests.support.waiting import eventually

PLACE = Place(harness.INSTALLATION, "ca-faults", "team")
WORKERS = ("w1", "w2", "w3", "w4", "w5")
SCHEDULER = "tls://192.0.2.1:8786"


class Account:
    """A cloud account with a server that may be restarted and given another key."""

    def __init__(self, aws: Double) -> None:
        self.aws = aws
        self.key = aws.make_user()
        self.resources: Sequence[Resource] = aws_world.furnish(aws, PLACE)
        self.backends: list[AwsBackend] = []
        self.backend = self.restart()
        aws.count_anew()

    def restart(self, key: AwsCredentials | None = None, grace: float = 60.0) -> AwsBackend:
        self.key = key or self.key
        self.backend = AwsBackend(
            PLACE, aws_world.settings(), self.key, self.resources, endpoint_url=self.aws.endpoint, grace=grace
        )
        self.backends.append(self.backend)
        return self.backend

    async def launch(self, *names: str, attempt: int = 1) -> Sequence[LaunchResult]:
        return await self.backend.launch(request(*names, attempt=attempt))

    def tasks(self) -> list[str]:
        """Return the tasks that run, as AWS sees it."""
        ecs = self.aws.client("ecs")
        found: list[str] = ecs.list_tasks(cluster=f"ropewalk-{PLACE.cloud_account}")["taskArns"]
        return found

    async def sighting(self, result: LaunchResult) -> Sighting:
        node = replace(harness.handle(result.name), cloud_id=result.cloud_id)
        return (await self.backend.observe([node])).sightings[result.name]


def request(*names: str, attempt: int = 1) -> LaunchRequest:
    asked = harness.request(*names, scheduler=SCHEDULER)
    return replace(asked, nodes=[replace(node, attempt=attempt) for node in asked.nodes])


def handles(results: Sequence[LaunchResult]) -> list[NodeHandle]:
    return [replace(harness.handle(result.name), cloud_id=result.cloud_id) for result in results]


@pytest.fixture
async def account(aws: Double) -> AsyncIterator[Account]:
    made = Account(aws)
    yield made
    for backend in made.backends:
        await backend.close()


def arns(results: Sequence[LaunchResult]) -> list[str]:
    assert [result.error for result in results] == [None] * len(results)
    return sorted(str(result.cloud_id) for result in results)


PASSING: list[dict[str, Any]] = [
    {"code": "ThrottlingException", "status": 400},
    {"code": "ServerException", "status": 500},
    {"kind": "error_after", "code": "ServerException", "status": 500},
    {"kind": "lost"},
    {"kind": "broken"},
]
NAMES = ["throttled", "failed", "failed after the effect", "answer lost", "connection broken"]


class TestLaunch:
    @pytest.mark.parametrize("fault", PASSING, ids=NAMES)
    async def test_a_passing_fault_launches_each_node_once(self, account: Account, fault: dict[str, Any]) -> None:
        account.aws.inject("ecs:RunTask", times=2, **fault)
        assert arns(await account.launch(*WORKERS)) == sorted(account.tasks())
        assert len(account.tasks()) == len(WORKERS)
        assert [fault["used"] for fault in account.aws.faults()] == [2]

    @pytest.mark.parametrize("fault", PASSING[2:4], ids=NAMES[2:4])
    async def test_a_lasting_fault_is_told_and_the_next_try_finds_what_the_first_made(
        self, account: Account, fault: dict[str, Any]
    ) -> None:
        account.aws.inject("ecs:RunTask", times=None, **fault)
        results = await account.launch(*WORKERS)
        assert all(isinstance(result.error, TryAgainError) for result in results)
        made = account.tasks()
        assert len(made) == len(WORKERS)
        account.aws.heal()
        assert arns(await account.launch(*WORKERS, attempt=2)) == sorted(made) == sorted(account.tasks())

    @pytest.mark.parametrize("fault", PASSING[2:4], ids=NAMES[2:4])
    async def test_after_a_restart_too(self, account: Account, fault: dict[str, Any]) -> None:
        account.aws.inject("ecs:RunTask", times=None, **fault)
        await account.launch(*WORKERS)
        account.aws.heal()
        account.restart()
        assert arns(await account.launch(*WORKERS, attempt=2)) == sorted(account.tasks())
        assert len(account.tasks()) == len(WORKERS)

    async def test_by_two_servers_of_which_one_loses_its_answer_happens_once(self, account: Account) -> None:
        one, two = account.backend, account.restart()
        account.aws.inject("ecs:RunTask", "lost")
        both = await asyncio.gather(one.launch(request(*WORKERS)), two.launch(request(*WORKERS)))
        assert arns(both[0]) == arns(both[1]) == sorted(account.tasks())

    async def test_a_lost_registration_is_found_again(self, account: Account) -> None:
        account.aws.inject("ecs:RegisterTaskDefinition", "lost", times=1)
        results = await account.launch("w1")
        if results[0].error:
            assert isinstance(results[0].error, TryAgainError)
            results = await account.launch("w1", attempt=2)
        assert arns(results) == account.tasks()
        families = account.aws.client("ecs").list_task_definitions()["taskDefinitionArns"]
        assert len({family.rpartition(":")[0] for family in families}) == 1

    async def test_whose_task_definition_somebody_removed_is_made_with_another(self, account: Account) -> None:
        first = await account.launch("w1")
        ecs = account.aws.client("ecs")
        (definition,) = ecs.list_task_definitions()["taskDefinitionArns"]
        ecs.deregister_task_definition(taskDefinition=definition)
        (refused,) = await account.launch("w2")
        assert isinstance(refused.error, TryAgainError)
        assert "registered anew" in str(refused.error)
        second = await account.launch("w2", attempt=2)
        account.restart()  # knows nothing, and is told of an old one
        third = await account.launch("w3")
        assert arns([*first, *second, *third]) == sorted(account.tasks())

    async def test_without_the_right_nothing_runs_and_the_right_is_named(self, account: Account) -> None:
        everything_else = ["ecs:Describe*", "ecs:List*", "ecs:Register*", "ecs:TagResource", "iam:PassRole"]
        account.aws.set_policy(everything_else)
        results = await account.launch(*WORKERS)
        for result in results:
            assert isinstance(result.error, FixItError)
            assert result.error.details["action"] == "ecs:RunTask"
        assert account.tasks() == []
        account.aws.set_policy(None)
        assert len(arns(await account.launch(*WORKERS, attempt=2))) == len(WORKERS)

    async def test_without_room_for_all_those_that_fit_run_and_the_others_follow(self, account: Account) -> None:
        account.aws.set(capacity=2)
        results = await account.launch(*WORKERS)
        left = [result.name for result in results if result.error]
        assert len(account.tasks()) == 2
        assert len(left) == 3
        for result in results:
            assert result.error is None or (
                isinstance(result.error, TryAgainError) and "capacity" in result.error.message.lower()
            )
        account.aws.set(capacity=None)
        assert len(arns(await account.launch(*left, attempt=2))) == 3
        assert len(account.tasks()) == len(WORKERS)

    async def test_beyond_the_quota_says_which_and_where_it_is_raised(self, account: Account) -> None:
        account.aws.set(vcpu_quota=1)
        results = await account.launch(*WORKERS)
        assert len(account.tasks()) == 1
        refused = [result.error for result in results if result.error]
        assert len(refused) == 4
        assert all("vCPU" in f"{error}" and "quota" in f"{error}".lower() for error in refused)

    async def test_a_role_that_is_not_known_yet_is_tried_again(self, account: Account) -> None:
        account.aws.set(role_visible_after=3600)
        results = await account.launch("w1")
        assert isinstance(results[0].error, TryAgainError)
        account.aws.set(role_visible_after=0)
        assert arns(await account.launch("w1", attempt=2)) == account.tasks()


class TestObserve:
    @pytest.mark.parametrize("fault", [PASSING[0], PASSING[1], PASSING[4]], ids=[NAMES[0], NAMES[1], NAMES[4]])
    async def test_a_fault_never_makes_a_node_gone(self, account: Account, fault: dict[str, Any]) -> None:
        results = await account.launch("w1", "w2")
        account.restart()  # knows nothing
        account.aws.inject("ecs:DescribeTasks", times=None, **fault)
        with pytest.raises(TryAgainError):
            await account.backend.observe(handles(results))
        account.aws.heal()
        assert (await account.sighting(results[0])).answer is Answer.RUNNING

    async def test_a_revoked_key_is_told_and_nothing_is_forgotten(self, account: Account) -> None:
        results = await account.launch("w1", "w2")
        account.aws.revoke(account.key)
        account.restart()
        with pytest.raises(FixItError) as caught:
            await account.backend.observe(handles(results))
        assert caught.value.details["credentials"] == "invalid"
        with pytest.raises(FixItError):
            await account.backend.stop(handles(results))
        assert len(account.tasks()) == 2
        account.restart(account.aws.new_key())
        assert (await account.sighting(results[0])).answer is Answer.RUNNING
        await account.backend.stop(handles(results))
        assert account.tasks() == []

    async def test_a_task_that_is_not_shown_yet_is_unknown(self, account: Account) -> None:
        account.aws.set(task_visible_after=3600)
        results = await account.launch("w1")
        assert (await account.sighting(results[0])).answer is Answer.UNKNOWN
        account.aws.set(task_visible_after=0)

        async def running() -> bool:
            return (await account.sighting(results[0])).answer is Answer.RUNNING

        await eventually(running)

    @pytest.mark.parametrize(
        ("code", "reason", "told"),
        [
            ("UserInitiated", "Stopped by Mallory", "Stopped by Mallory"),
            ("SpotInterruption", "Your Spot Task was interrupted.", "spot"),
            ("TaskFailedToStart", "CannotPullContainerError: pull access denied", "image"),
            ("EssentialContainerExited", "OutOfMemoryError: Container killed due to memory usage", "memory"),
        ],
    )
    async def test_a_task_that_others_ended_is_gone_with_the_reason(
        self, account: Account, code: str, reason: str, told: str
    ) -> None:
        results = await account.launch("w1", "w2")
        account.aws.end_task(str(results[0].cloud_id), stopCode=code, stoppedReason=reason)
        account.restart()
        seen = await account.sighting(results[0])
        assert seen.answer is Answer.GONE
        assert told.lower() in (seen.reason or "").lower()
        assert (await account.sighting(results[1])).answer is Answer.RUNNING


class TestStop:
    @pytest.mark.parametrize("fault", PASSING, ids=NAMES)
    async def test_a_passing_fault_stops_each_node(self, account: Account, fault: dict[str, Any]) -> None:
        results = await account.launch("w1", "w2")
        account.aws.inject("ecs:StopTask", times=2, **fault)
        await account.backend.stop(handles(results))
        assert account.tasks() == []

    async def test_what_cannot_be_stopped_is_an_error_and_is_not_called_gone(self, account: Account) -> None:
        results = await account.launch("w1")
        account.aws.inject("ecs:StopTask", times=None, code="ServerException", status=500)
        with pytest.raises(TryAgainError):
            await account.backend.stop(handles(results))
        assert (await account.sighting(results[0])).answer is Answer.RUNNING
        account.aws.heal()
        await account.backend.stop(handles(results))
        assert account.tasks() == []

    async def test_a_launch_whose_answer_was_lost_is_stopped_too(self, account: Account) -> None:
        account.aws.inject("ecs:RunTask", "lost", times=None)
        await account.launch("w1")
        account.aws.heal()
        account.restart()
        await account.backend.stop([harness.handle("w1")])
        assert account.tasks() == []
