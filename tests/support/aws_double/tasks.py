"""ECS tasks."""

from __future__ import annotations

from typing import Any

from ministack.services import ecs

from tests.support.aws_double.patching import demand


def install() -> None:
    """Use what ministack has."""
    demand(ecs, "_tasks", "_mark_task_stopped")


def end_task(task: str, stopCode: str = "UserInitiated", stoppedReason: str = "", exitCode: int | None = None) -> Any:  # noqa: N803 - AWS's names
    """End a task as something other than its owner would."""
    for _, record in ecs._tasks.all_items():
        if record["taskArn"] == task:
            return {"ended": ecs._mark_task_stopped(task, record, stoppedReason, stopCode, exitCode)}
    raise ValueError(f"no such task: {task}")
