"""The CloudWatch log group for the logs of nodes, and how long they are kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.tags import log_group_name, place_tags
from ropewalk.backends.aws.work import Work
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["PERIODS", "find_log_group", "log_group", "problems"]

# "PutRetentionPolicy" in the CloudWatch Logs API reference; days.
PERIODS = (
    1, 3, 5, 7, 14, 30, 60, 90, 120, 150, 180, 365, 400, 545, 731, 1096, 1827, 2192, 2557, 2922, 3288, 3653,
)  # fmt: skip


def problems(settings: AwsSettings) -> Iterator[FixItError]:
    """Yield an error if logs cannot be kept for so long."""
    days = settings.log_retention_days
    if days not in PERIODS:
        nearest = min(PERIODS, key=lambda period: abs(period - days))
        yield FixItError(
            f"CloudWatch Logs cannot keep logs for {days} days.",
            advice=f"The nearest period that it knows is {nearest} days.",
            field="log_retention_days",
        )


async def log_group(work: Work) -> None:
    """Complete the log group."""
    name, days = log_group_name(work.place), work.settings.log_retention_days
    note = await _create(work, name)
    await work.has("log_group", name, retention_days=days, note=note)
    await work.patience.insist(
        lambda: work.aws.call("logs", "PutRetentionPolicy", logGroupName=name, retentionInDays=days), _settling
    )


def _settling(error: BackendError) -> bool:
    return aws_code(error) in {"ResourceNotFoundException", "OperationAbortedException"}


async def _create(work: Work, name: str) -> str | None:
    """Create it. That it is there is no error to a key that may not look for it."""
    for attempt in range(2):
        try:
            _, note = await work.tagged("logs", "CreateLogGroup", {"tags": place_tags(work.place)}, logGroupName=name)
        except TryAgainError:  # made or not: the second attempt finds out
            if attempt:
                raise
        except FixItError as error:
            if aws_code(error) != "ResourceAlreadyExistsException":
                raise
            return str(work.remembered("log_group", name).get("note") or "") or None
        else:
            return note
    return None


async def find_log_group(work: Work, name: str) -> dict[str, Any] | None:
    """Describe a log group by name; None if it does not exist."""
    pages = work.aws.pages("logs", "DescribeLogGroups", "logGroups", logGroupNamePrefix=name)
    async for group in pages:
        if group["logGroupName"] == name:
            found: dict[str, Any] = group
            return found
    return None
