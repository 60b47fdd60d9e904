"""Looking for tasks: by ARN in hundreds, by cluster, by what a conflict names."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.tasks import PAGE, Batch, Task, assign, started_by
from ropewalk.errors import BackendError, FixItError, TryAgainError

__all__ = ["Search"]


class Search:
    """Asks ECS about the tasks of one cloud account."""

    def __init__(self, aws: Aws, infrastructure: Infrastructure) -> None:
        self._aws = aws
        self._infrastructure = infrastructure

    async def describe(self, arns: Sequence[str]) -> dict[str, Task]:
        """Return the tasks that ECS knows, by ARN."""
        answers = await asyncio.gather(*(self._describe(arns[i : i + PAGE]) for i in range(0, len(arns), PAGE)))
        tasks = (Task.of(raw) for answer in answers for raw in answer)
        return {task.arn: task for task in tasks}

    async def _describe(self, arns: Sequence[str]) -> list[dict[str, Any]]:
        cluster = self._infrastructure.cluster_arn
        try:
            answer = await self._aws.call("ecs", "DescribeTasks", cluster=cluster, tasks=list(arns))
        except FixItError as exc:
            if aws_code(exc) == "ClusterNotFoundException":
                return []  # ECS deletes no cluster in which a task runs
            raise
        return list(answer.get("tasks") or ())

    async def by_name(self, cluster_id: str, claimed: Iterable[str] = ()) -> dict[str, Task]:
        """Return the tasks of a cluster by name, stopped ones included; *claimed* are ARNs that have a name."""
        tasks = await self._listed(["RUNNING", "STOPPED"], startedBy=started_by(cluster_id))
        return assign(tasks, set(claimed))

    async def living(self) -> list[Task]:
        """Return all tasks of the ECS cluster that are meant to run, whoever started them."""
        return await self._listed(["RUNNING"])

    async def _listed(self, wanted: Sequence[str], **filters: str) -> list[Task]:
        cluster = self._infrastructure.cluster_arn

        async def arns(status: str) -> list[str]:
            pages = self._aws.pages("ecs", "ListTasks", "taskArns", cluster=cluster, desiredStatus=status, **filters)
            return [arn async for arn in pages]

        found = [arn for answer in await asyncio.gather(*map(arns, wanted)) for arn in answer]
        # A task may stop between the two listings.
        return list((await self.describe(list(dict.fromkeys(found)))).values())

    async def of_conflict(self, conflict: BackendError, batch: Batch) -> dict[str, Any]:
        """Return the answer of the RunTask that used the same client token with other parameters, as it would be now.

        That happens when Ropewalk was upgraded between the two, and fills tasks' parameters differently.
        """
        tasks = await self._listed(["RUNNING", "STOPPED"], startedBy=started_by(batch.cluster))
        arns = [task.arn for task in tasks if task.group == batch.group]
        if not arns:
            raise TryAgainError("ECS is still busy with an earlier launch of the same nodes.", delay=5.0) from conflict
        return {"tasks": await self._describe(arns[:PAGE])}
