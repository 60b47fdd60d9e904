"""Tasks and task definitions of a cloud account that is torn down. Those of others stay."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.tags import resource_name
from ropewalk.backends.aws.work import Work
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["remove_definitions", "stop_tasks"]

_PAGE = 100  # tasks in one DescribeTasks, as its API reference says
_DEFINITIONS = 10  # task definitions in one DeleteTaskDefinitions
_ENDING_WITHIN = 300.0  # seconds; a task has 30 s to end by itself, and Fargate takes a minute to clean up
_REASON = "Ropewalk tears the cloud account down."


async def stop_tasks(work: Work, cluster: str) -> None:
    """Stop what Ropewalk started for this cloud account in an ECS cluster, and wait until it is over."""
    asked: set[str] = set()

    async def look() -> bool | None:
        live = [task["taskArn"] async for task in _tasks(work, cluster) if task.get("lastStatus") != "STOPPED"]
        for arn in live:
            if arn not in asked:
                await _stop(work, cluster, arn)
                asked.add(arn)
        return None if live else True

    if not await work.patience.until(look, _ENDING_WITHIN):
        raise TryAgainError(f"Tasks in the ECS cluster {cluster} do not end.", delay=60.0)


async def _tasks(work: Work, cluster: str) -> AsyncIterator[dict[str, Any]]:
    """Yield our tasks in a cluster; those that were told to stop are listed apart, and may still run."""
    try:
        arns = [
            arn
            for wish in ("RUNNING", "STOPPED")
            async for arn in work.aws.pages("ecs", "ListTasks", "taskArns", cluster=cluster, desiredStatus=wish)
        ]
    except FixItError as error:
        if not_there(error):
            return
        raise
    for start in range(0, len(arns), _PAGE):
        answer = await work.aws.call("ecs", "DescribeTasks", cluster=cluster, tasks=arns[start : start + _PAGE])
        for task in answer.get("tasks") or ():
            if _is_ours(work, task):
                yield task


def _is_ours(work: Work, task: dict[str, Any]) -> bool:
    """Whether a task runs one of the cloud account's task definitions, whose families begin with its name."""
    family = str(task.get("taskDefinitionArn") or "").rpartition("/")[2]
    return family.startswith(f"{resource_name(work.place)}-")


async def _stop(work: Work, cluster: str, arn: str) -> None:
    try:
        await work.aws.call("ecs", "StopTask", cluster=cluster, task=arn, reason=_REASON)
    except FixItError as error:
        if not not_there(error):
            raise


async def remove_definitions(work: Work) -> None:
    """Deregister and delete the task definitions; AWS keeps those of tasks that ended just now a while longer."""
    for arn in await _definitions(work, "ACTIVE"):
        await work.aws.call("ecs", "DeregisterTaskDefinition", taskDefinition=arn)
    inactive = await _definitions(work, "INACTIVE")
    for start in range(0, len(inactive), _DEFINITIONS):
        await work.aws.call("ecs", "DeleteTaskDefinitions", taskDefinitions=inactive[start : start + _DEFINITIONS])


async def _definitions(work: Work, status: str) -> Sequence[str]:
    prefix = f"{resource_name(work.place)}-"
    pages = work.aws.pages("ecs", "ListTaskDefinitions", "taskDefinitionArns", status=status)
    return [arn async for arn in pages if str(arn).rpartition("/")[2].startswith(prefix)]
