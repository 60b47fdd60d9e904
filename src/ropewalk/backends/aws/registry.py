"""The ECR repository for the cloud account's images."""

from __future__ import annotations

from typing import Any

from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.tags import as_tags, place_tags, repository_name
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["find_repository", "repository"]


async def repository(work: Work) -> None:
    """Complete the repository. Tags of images cannot be moved: what a cluster was started with stays what it was."""
    name = repository_name(work.place)
    item = await find_repository(work, name)
    note = None
    if item is None:
        item, note = await _create(work, name)
    elif "note" in work.remembered("repository", item["repositoryUri"]):
        note = await _tag(work, item["repositoryArn"])
    for former in work.known("repository"):
        if former.id != item["repositoryUri"]:
            await work.forget("repository", former.id)
    await work.has("repository", item["repositoryUri"], name=name, arn=item["repositoryArn"], note=note)


async def find_repository(work: Work, name: str) -> dict[str, Any] | None:
    """Describe a repository by name; None if it does not exist."""
    try:
        answer = await work.aws.call("ecr", "DescribeRepositories", repositoryNames=[name])
    except FixItError as error:
        if not_there(error):
            return None
        raise
    item: dict[str, Any] = answer["repositories"][0]
    return item


async def _create(work: Work, name: str) -> tuple[dict[str, Any], str | None]:
    try:
        answer, note = await work.tagged(
            "ecr",
            "CreateRepository",
            {"tags": as_tags(place_tags(work.place))},
            repositoryName=name,
            imageTagMutability="IMMUTABLE",
        )
    except TryAgainError:
        found = await work.patience.until(lambda: find_repository(work, name), within=10.0)
        if found is None:
            raise
        return found, None
    return answer["repository"], note


async def _tag(work: Work, arn: str) -> str | None:
    try:
        await work.aws.call("ecr", "TagResource", resourceArn=arn, tags=as_tags(place_tags(work.place)))
    except FixItError as error:
        if action := denied(error):
            return work.untagged(action)
        raise
    return None
