"""Why AWS did not start a task or ended one, in sentences that say what to do."""

from __future__ import annotations

import pytest

from ropewalk.backends.aws import reasons
from ropewalk.backends.aws.tasks import Task
from ropewalk.errors import FixItError, TryAgainError
from tests.support.fake_ecs import NO_CAPACITY, aws_error


def stopped(
    reason: str | None = None,
    code: str | None = "TaskFailedToStart",
    *,
    exit_code: int | None = None,
    container: str | None = None,
    spot: bool = False,
) -> Task:
    return Task.of(
        {
            "taskArn": "arn",
            "lastStatus": "STOPPED",
            "stopCode": code,
            "stoppedReason": reason,
            "capacityProviderName": "FARGATE_SPOT" if spot else "FARGATE",
            "containers": [{"name": "node", "exitCode": exit_code, "reason": container}],
        }
    )


# Texts as in the developer guide: "Stopped tasks error messages", "CannotPullContainer task errors".
@pytest.mark.parametrize(
    ("task", "words"),
    [
        (stopped("Spot interruption", "SpotInterruption"), ["took the spot capacity back", "new worker"]),
        (
            stopped(
                "Essential container in task exited",
                "EssentialContainerExited",
                exit_code=137,
                container="OutOfMemoryError: Container killed due to memory usage",
            ),
            ["more memory than it has", "worker_memory"],
        ),
        (
            stopped(
                "CannotPullContainerError: pull image manifest has been retried 5 time(s): failed to resolve ref "
                "1.dkr.ecr.us-east-1.amazonaws.com/x:latest: 1.dkr.ecr.us-east-1.amazonaws.com/x:latest: not found"
            ),
            ["no such image", "container="],
        ),
        (
            stopped(
                "CannotPullContainerError: image Manifest does not contain descriptor matching platform 'linux/amd64'"
            ),
            ["another processor architecture", "ARM64"],
        ),
        (
            stopped("CannotPullContainerError: ref pull has been retried 1 time(s): dial tcp 1.2.3.4:443: i/o timeout"),
            ["could not be reached from the subnet", "NAT gateway"],
        ),
        (
            stopped(
                "CannotPullContainerError: Error response from daemon: pull access denied for x, repository does not "
                "exist or may require 'docker login'"
            ),
            ["no such image"],
        ),
        (
            stopped(
                "CannotPullContainerError: pull image manifest has been retried 1 time(s): unexpected status from HEAD "
                "request to https://1.dkr.ecr.us-east-1.amazonaws.com/v2/x/manifests/1: 403 Forbidden"
            ),
            ["did not let ECS pull", "execution role"],
        ),
        (
            stopped("CannotPullContainerError: toomanyrequests: You have reached your pull rate limit"),
            ["limits how often", "ECR"],
        ),
        (
            stopped(
                "ResourceInitializationError: unable to pull secrets or registry auth: execution resource retrieval "
                "failed: unable to retrieve ecr registry auth: service call has been retried 3 time(s): RequestError"
            ),
            ["ECR could not be asked", "VPC endpoints"],
        ),
        (
            stopped(
                "ResourceInitializationError: failed to validate logger args: create stream has been retried 1 times: "
                "failed to create Cloudwatch log stream: AccessDeniedException"
            ),
            ["log could not be opened", "logs:CreateLogStream"],
        ),
        (
            stopped("Timeout waiting for network interface provisioning to complete."),
            ["no network interface", "subnet_ids"],
        ),
        (stopped(NO_CAPACITY), ["no Fargate capacity", "ARM64"]),
        (stopped(NO_CAPACITY, spot=True), ["no Fargate Spot capacity", "spot_with_fallback"]),
        (stopped("ECS is deprovisioning", "InfrastructureHealth"), ["AWS ended the task"]),
        (stopped("Ada did it", "UserInitiated"), ["stopped in the AWS account", "Ada did it"]),
        (
            stopped('CannotStartContainerError: exec: "python": executable file not found in $PATH'),
            ["could not be started", "`python` on its PATH"],
        ),
        (stopped("Something quite new", None), ["ECS says: Something quite new."]),
    ],
)
def test_an_end_is_explained(task: Task, words: list[str]) -> None:
    said = reasons.why_stopped(task)
    assert said is not None
    assert [word for word in words if word not in said] == []


def test_an_exit_status_speaks_for_itself() -> None:
    assert (
        reasons.why_stopped(stopped("Essential container in task exited", "EssentialContainerExited", exit_code=80))
        is None
    )


@pytest.mark.parametrize(("code", "expected"), [(0, 0), (80, 80), (137, -9), (143, -15), (None, None), (255, 255)])
def test_a_signal_is_told_from_an_exit_status(code: int | None, expected: int | None) -> None:
    assert reasons.exit_code(stopped(exit_code=code)) == expected


def test_a_lack_of_capacity_passes() -> None:
    error = reasons.refusal({"reason": NO_CAPACITY}, spot=False)
    assert isinstance(error, TryAgainError)
    assert error.delay == reasons.CAPACITY_DELAY
    assert "availability" in (error.advice or "")


def test_a_lack_of_spot_capacity_names_the_way_round() -> None:
    error = reasons.refusal({"reason": NO_CAPACITY}, spot=True)
    assert error.details["capacity"] == "spot"
    assert "spot_with_fallback" in (error.advice or "")


@pytest.mark.parametrize(("spot", "code"), [(False, "L-3032A538"), (True, "L-36FBB829")])
def test_a_quota_is_named_with_where_to_raise_it(spot: bool, code: str) -> None:
    error = reasons.refusal(
        {"reason": "You've reached the limit on the number of vCPUs you can run concurrently"}, spot=spot
    )
    assert isinstance(error, FixItError)
    assert error.details["quota"]["code"] == code
    assert code in (error.advice or "")


@pytest.mark.parametrize("reason", ["RESOURCE:ENI", "The subnet has insufficient free addresses, free addresses: 0"])
def test_a_lack_of_interfaces_or_addresses_passes(reason: str) -> None:
    error = reasons.refusal({"reason": reason}, spot=False)
    assert isinstance(error, TryAgainError)
    assert "subnet_ids" in (error.advice or "")


def test_a_cluster_that_was_removed_needs_a_person() -> None:
    error = reasons.refusal({"reason": "INACTIVE", "arn": "arn:x"}, spot=False)
    assert isinstance(error, FixItError)
    assert "prepare" in (error.advice or "")


def test_what_is_not_known_is_quoted_and_tried_again() -> None:
    error = reasons.refusal({"reason": "MOON", "detail": "Full moon."}, spot=False)
    assert isinstance(error, TryAgainError)
    assert "MOON Full moon" in error.message


def test_a_role_that_was_made_just_now_is_waited_for() -> None:
    refused = aws_error("ClientException", "ECS was unable to assume the role 'arn:x' that was provided.")
    assert isinstance(reasons.passing(refused), TryAgainError)
    assert reasons.passing(aws_error("ClientException", "No.")) is None
