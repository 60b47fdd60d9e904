"""Why AWS did not start a task, or ended one, as sentences that say what to do.

Codes and texts: "API failure reasons", "Amazon ECS stopped task error codes", "Viewing stopped task errors",
"CannotPullContainer task errors" and "ResourceInitializationError" in the Amazon ECS Developer Guide.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.backends.aws.quotas import quota_of
from ropewalk.backends.aws.tasks import Task
from ropewalk.errors import BackendError, FixItError, TryAgainError

__all__ = ["CAPACITY_DELAY", "exit_code", "found_no_spot", "lacks_capacity", "passing", "refusal", "why_stopped"]

CAPACITY_DELAY = 15.0
"""Seconds until capacity is asked for again; AWS says only "later"."""

ROLE_DELAY = 5.0
"""Seconds until a role is tried again; IAM needs up to half a minute to tell all of AWS of a new one ("Changes that I
make are not always immediately visible", IAM User Guide)."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """A pattern of AWS's words, what they mean, and what to do."""

    pattern: str
    sentence: str
    advice: str


_CAPACITY = "AWS has no Fargate capacity of this size at the moment"
_SPOT_CAPACITY = "AWS has no Fargate Spot capacity of this size at the moment"
_CAPACITY_ADVICE = (
    "It is asked again. What helps: another size, architecture ARM64 (with an image for it), subnets in more "
    "availability zones, or another region."
)
_SPOT_ADVICE = "It is asked again. What helps: spot_policy='spot_with_fallback' or 'on-demand', or another size."

_LACKING = re.compile(r"capacity is unavailable|insufficient capacity|EMPTY CAPACITY|no capacity", re.IGNORECASE)

_IMAGE = "Check the image (container=, or `image` of the cloud account)."
_PULLS = (
    _Reading(
        r"no matching manifest|does not contain descriptor matching platform|exec format",
        "its image is for another processor architecture",
        "Use an image for it, or set the backend option architecture to X86_64 or ARM64.",
    ),
    _Reading(
        r"not found|manifest unknown|does not exist|no such image|repository.*not exist",
        "there is no such image, or no such tag",
        _IMAGE,
    ),
    _Reading(
        r"toomanyrequests|pull rate limit|429",
        "the registry limits how often images may be pulled without logging in",
        "Copy the image into the account's own ECR repository.",
    ),
    _Reading(
        r"403|401|denied|not authorized|unauthorized|no basic auth|authorization|pull access",
        "the registry did not let ECS pull its image",
        "The execution role needs AmazonECSTaskExecutionRolePolicy (`ropewalk cloud-account prepare` mends it); an "
        "image of another AWS account needs a repository policy there; other private registries cannot be used.",
    ),
    _Reading(
        r"timeout|timed out|deadline|dial tcp|i/o|connection refused|no such host|request canceled|connect:",
        "the registry could not be reached from the subnet",
        "The subnet needs a way to it: an internet gateway and public addresses, a NAT gateway, or VPC endpoints for "
        "ECR (api and dkr) and S3. `ropewalk cloud-account check` looks at that.",
    ),
    _Reading(r"no space left", "its image does not fit on the disk", "Set the backend option ephemeral_storage."),
    _Reading(r"", "its image could not be pulled", _IMAGE),
)
_INITIALIZATIONS = (
    _Reading(
        r"log stream|log group|awslogs|CreateLogStream",
        "its log could not be opened",
        "The execution role needs logs:CreateLogStream and logs:PutLogEvents, and the log group has to exist: run "
        "`ropewalk cloud-account prepare`.",
    ),
    _Reading(
        r"ecr|registry|auth",
        "ECR could not be asked for its image",
        "Either the subnet has no way to AWS's API (internet gateway, NAT gateway or VPC endpoints), or the execution "
        "role lacks AmazonECSTaskExecutionRolePolicy. `ropewalk cloud-account check` looks at both.",
    ),
    _Reading(r"", "its surroundings could not be set up", "`ropewalk cloud-account check` looks for the cause."),
)
_STARTS = (
    _Reading(
        r"service.linked role",
        "ECS may not act in this AWS account, because its service-linked role is missing",
        "Run `aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com`.",
    ),
    _Reading(
        r"unable to assume|assume the role",
        "ECS may not assume the execution role or the task role",
        "Their trust policies have to name ecs-tasks.amazonaws.com; run `ropewalk cloud-account prepare`.",
    ),
    _Reading(
        r"network interface|RESOURCE:ENI|ENI\b",
        "it got no network interface",
        "Network interfaces (quota L-DF5E4CA3) or the free addresses of the subnets may be used up: stop clusters or "
        "give the cloud account more or larger subnets (`subnet_ids`).",
    ),
    _Reading(
        r"free addresses|InsufficientFreeAddresses|no available ip",
        "its subnet has no free addresses",
        "Stop clusters, or give the cloud account more or larger subnets (`subnet_ids`).",
    ),
)


def lacks_capacity(text: str) -> bool:
    """Say whether AWS means that it has no room now."""
    return _LACKING.search(text) is not None


def refusal(failure: Mapping[str, Any], *, spot: bool) -> BackendError:
    """Return the error that an item of RunTask's ``failures`` stands for."""
    said = " ".join(str(failure[key]) for key in ("reason", "detail") if failure.get(key)) or "no reason was given"
    details = {"aws_code": failure.get("reason") or "Unknown", "aws_message": said, "call": "ecs:RunTask"}
    if lacks_capacity(said):
        return TryAgainError(
            f"{_SPOT_CAPACITY if spot else _CAPACITY} ({said.rstrip('.')}).",
            delay=CAPACITY_DELAY,
            advice=_SPOT_ADVICE if spot else _CAPACITY_ADVICE,
            details=details | {"capacity": "spot" if spot else "on-demand"},
        )
    if (quota := quota_of("ecs", "", said + (" spot" if spot else ""))) is not None:
        return quota.error(said, details)
    if "INACTIVE" in said or said.startswith("MISSING"):
        text = f"The ECS cluster or the task definition was removed from the AWS account ({said})."
        return FixItError(text, advice="Run `ropewalk cloud-account prepare`.", details=details)
    for reading in _STARTS:
        if re.search(reading.pattern, said, re.IGNORECASE):
            text = f"The task was not started: {reading.sentence} ({said.rstrip('.')})."
            return TryAgainError(text, delay=CAPACITY_DELAY, advice=reading.advice, details=details)
    return TryAgainError(f"ECS did not start the task: {said.rstrip('.')}.", delay=CAPACITY_DELAY, details=details)


def passing(error: BackendError) -> TryAgainError | None:
    """Return the error for a refusal that passes by itself.

    A role that was made just now is not known everywhere; a task definition that was removed is registered anew.
    """
    said = str(error.details.get("aws_message") or "")
    if re.search(r"TaskDefinition (not found|is inactive)", said):
        text = "The task definition was removed from the AWS account: it is registered anew."
        return TryAgainError(text, delay=1.0, details=error.details)
    if not re.search(r"role is not valid|unable to assume the role", said, re.IGNORECASE):
        return None
    return TryAgainError(
        f"ECS cannot use a role yet, or no more: {said.rstrip('.')}.",
        delay=ROLE_DELAY,
        advice="A new role takes up to half a minute. If it stays so, run `ropewalk cloud-account prepare`.",
        details=error.details,
    )


def found_no_spot(task: Task) -> bool:
    """Say whether a task was to run on Fargate Spot and ended before it did, for want of capacity or by interruption.

    RunTask may take a task for which there is no room: it then stops with the sentence that RunTask else refuses with.
    """
    taken_back = task.stop_code == "SpotInterruption" or lacks_capacity(task.stopped_reason or "")
    return task.spot and task.stopped and not task.ran and taken_back


def exit_code(task: Task) -> int | None:
    """Return the exit status of a task's container, or minus the signal that ended it."""
    code = task.exit_code
    # Shells and container engines report a signal as 128 more than its number.
    return code if code is None or not 128 < code <= 192 else 128 - code


def why_stopped(task: Task) -> str | None:
    """Return why a task is over, as a sentence with advice; None: the exit status says."""
    said = " ".join(filter(None, (task.stopped_reason, task.container_reason)))
    found = _by_code(task, said) or _by_words(task, said)
    if found is None and said and not (task.stop_code == "EssentialContainerExited" and task.exit_code is not None):
        found = f"ECS says: {_short(said)}."
    return found or _by_signal(exit_code(task))


def _by_signal(code: int | None) -> str | None:
    if code is None or code >= 0:
        return None
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = str(-code)
    advice = " It may have used more memory than it has." if -code == signal.SIGKILL else " Its log may say why."
    return f"Its container was ended by the signal {name}.{advice}"


def _by_code(task: Task, said: str) -> str | None:
    if task.stop_code == "SpotInterruption" or "spot interruption" in said.lower():
        return "AWS took the spot capacity back. A new worker takes its place."
    if task.stop_code == "UserInitiated":
        return f"It was stopped in the AWS account: {_short(task.stopped_reason or 'by a call of StopTask')}."
    if task.stop_code in ("InfrastructureHealth", "ServiceSchedulerInitiated", "TerminationNotice"):
        return f"AWS ended the task ({_short(said or task.stop_code)}). Nothing is wrong with your code."
    return None


def _by_words(task: Task, said: str) -> str | None:
    if "OutOfMemory" in said:
        return (
            "Its container used more memory than it has. Ask for more worker_memory or scheduler_memory, or for "
            "smaller partitions."
        )
    if lacks_capacity(said):
        return f"{_SPOT_CAPACITY if task.spot else _CAPACITY}. {_SPOT_ADVICE if task.spot else _CAPACITY_ADVICE}"
    for word, readings in (("CannotPull", _PULLS), ("ResourceInitialization", _INITIALIZATIONS), ("", _STARTS)):
        if word in said and (found := _read(readings, said)):
            return found
    if re.search(r"CannotStartContainer|CannotCreateContainer|executable file not found", said):
        return f"Its container could not be started ({_short(said)}). The image needs `python` on its PATH."
    return None


def _read(readings: tuple[_Reading, ...], said: str) -> str | None:
    for reading in readings:
        if re.search(reading.pattern, said, re.IGNORECASE):
            sentence = reading.sentence[0].upper() + reading.sentence[1:]
            return f"{sentence} ({_short(said)}). {reading.advice}"
    return None


def _short(said: str, longest: int = 300) -> str:
    said = said.strip().rstrip(".")
    return said if len(said) <= longest else said[:longest] + "…"
