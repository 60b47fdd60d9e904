"""Removing what is known by its name, where keys without the right to tag may have made it."""

from __future__ import annotations

from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.ecs import listed, look_at, someone_elses
from ropewalk.backends.aws.linked_role import ROLE
from ropewalk.backends.aws.log_group import find_log_group
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.registry import find_repository
from ropewalk.backends.aws.roles import find_role, made_here
from ropewalk.backends.aws.tags import (
    cluster_name,
    execution_role_name,
    log_group_name,
    repository_name,
    task_role_name,
)
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import BackendError, FixItError, TryAgainError

__all__ = ["remove_ecs_cluster", "remove_linked_role", "remove_log_group", "remove_repository", "remove_role"]

_GONE_WITHIN = 120.0  # seconds


async def remove_linked_role(work: Work) -> None:
    """Remove ECS's role if it was made here and nobody else uses ECS: AWS refuses that while a cluster is anywhere."""
    if not work.known("service_linked_role"):
        return
    note = None
    own = cluster_name(work.place)  # AWS may list it for a while
    arns = [str(arn) async for arn in work.aws.pages("ecs", "ListClusters", "clusterArns")]
    if any(arn.rpartition("/")[2] != own for arn in arns):
        note = f"{ROLE} stays, since others use ECS in this AWS account."
    else:
        try:
            note = await _delete_linked_role(work)
        except FixItError as error:
            if not denied(error):
                raise
            note = f"{ROLE} stays; it costs nothing and gives nobody but ECS rights. {error.message}"
    await work.forget("service_linked_role", ROLE, **({"note": note} if note else {}))


async def _delete_linked_role(work: Work) -> str | None:
    """Return why AWS does not remove the role, if it does not."""
    try:
        answer = await work.aws.call("iam", "DeleteServiceLinkedRole", RoleName=ROLE)
    except FixItError as error:
        if not_there(error):
            return None
        raise
    task = answer["DeletionTaskId"]

    async def look() -> dict[str, Any] | None:
        seen = await work.aws.call("iam", "GetServiceLinkedRoleDeletionStatus", DeletionTaskId=task)
        return seen if seen["Status"] in {"SUCCEEDED", "FAILED"} else None

    seen = await work.patience.until(look, _GONE_WITHIN)
    if seen is None:
        raise TryAgainError(f"AWS is still removing the role {ROLE}.", delay=30.0)
    why = (seen.get("Reason") or {}).get("Reason") or "somebody uses ECS"
    return f"{ROLE} stays: {why}" if seen["Status"] == "FAILED" else None


async def _forget_all(work: Work, kind: str) -> None:
    for resource in work.known(kind):
        await work.forget(kind, resource.id)


async def _do(work: Work, service: str, operation: str, **parameters: Any) -> None:
    """Call it; that there is nothing to do it to is as good."""
    try:
        await work.aws.call(service, operation, **parameters)
    except FixItError as error:
        if not not_there(error):
            raise


async def remove_role(work: Work, kind: str) -> None:
    """Remove a role with what is attached to it. Policies that people made stay, without it."""
    name = execution_role_name(work.place) if kind == "execution_role" else task_role_name(work.place)
    role = await find_role(work, name)
    if role is not None:
        if not made_here(role, work.place, kind):
            raise FixItError(
                f"The role {name} was not made by this installation of Ropewalk, so it is left alone.",
                advice="Remove it yourself if nobody needs it.",
            )
        await _strip(work, name)
        await work.patience.insist(lambda: _do(work, "iam", "DeleteRole", RoleName=name), _conflict, _GONE_WITHIN)

        async def look() -> bool | None:
            return True if await find_role(work, name) is None else None

        if not await work.patience.until(look, _GONE_WITHIN):
            raise TryAgainError(f"The role {name} was deleted, but AWS still lists it.", delay=30.0)
    await _forget_all(work, kind)


def _conflict(error: BackendError) -> bool:
    """Whether IAM does not see yet that the role's policies are gone."""
    return aws_code(error) in {"DeleteConflict", "DeleteConflictException", "ConcurrentModification"}


async def _strip(work: Work, name: str) -> None:
    """Detach policies and delete those inside of the role: IAM deletes a bare role only."""
    attached = work.aws.pages("iam", "ListAttachedRolePolicies", "AttachedPolicies", RoleName=name)
    for policy in [item async for item in attached]:
        await _do(work, "iam", "DetachRolePolicy", RoleName=name, PolicyArn=policy["PolicyArn"])
    inside = work.aws.pages("iam", "ListRolePolicies", "PolicyNames", RoleName=name)
    try:
        names = [item async for item in inside]
    except FixItError as error:
        if not denied(error):
            raise
        return  # Ropewalk makes none; if somebody did, IAM says so when the role is deleted
    for policy in names:
        await _do(work, "iam", "DeleteRolePolicy", RoleName=name, PolicyName=policy)


async def remove_repository(work: Work) -> None:
    """Remove the repository with the images in it."""
    name = repository_name(work.place)
    if await find_repository(work, name) is not None:
        await _do(work, "ecr", "DeleteRepository", repositoryName=name, force=True)

        async def look() -> bool | None:
            return True if await find_repository(work, name) is None else None

        if not await work.patience.until(look, _GONE_WITHIN):
            raise TryAgainError(f"The repository {name} was deleted, but AWS still lists it.", delay=30.0)
    await _forget_all(work, "repository")


async def remove_log_group(work: Work) -> None:
    """Remove the log group with the logs in it. A key that may not look believes the answer to the deletion."""
    name = log_group_name(work.place)
    stored = bool(work.known("log_group"))

    async def look() -> bool | None:
        try:
            return True if await find_log_group(work, name) is None else None
        except FixItError as error:
            if denied(error):
                return True
            raise

    if not stored and await look():
        return
    await _do(work, "logs", "DeleteLogGroup", logGroupName=name)
    if not await work.patience.until(look, _GONE_WITHIN):
        raise TryAgainError(f"The log group {name} was deleted, but AWS still lists it.", delay=30.0)
    await _forget_all(work, "log_group")


async def remove_ecs_cluster(work: Work) -> None:
    """Remove the ECS cluster. Tasks of somebody else in it keep it."""
    name = cluster_name(work.place)
    arn = await listed(work, name)
    if arn is not None:
        await _delete_cluster(work, arn)
    await _forget_all(work, "ecs_cluster")


async def _delete_cluster(work: Work, arn: str) -> None:
    cluster = await look_at(work, arn)
    if someone_elses(cluster, work.place):
        raise FixItError(
            f"The ECS cluster {arn} was made by another installation of Ropewalk, so it is left alone.",
            advice="Tear it down there.",
        )
    try:
        await work.patience.insist(lambda: _do(work, "ecs", "DeleteCluster", cluster=arn), _busy, within=300.0)
    except FixItError as error:
        if not _busy(error):
            raise
        raise FixItError(
            f"The ECS cluster {arn} is in use by something that Ropewalk did not start: {error.message}",
            advice="Stop its tasks and services yourself, then tear down again.",
            details=error.details,
        ) from error

    async def look() -> bool | None:
        if await listed(work, arn) is None:
            return True
        seen = await look_at(work, arn)
        return True if seen and seen.get("status") == "INACTIVE" else None

    if not await work.patience.until(look, _GONE_WITHIN):
        raise TryAgainError(f"The ECS cluster {arn} was deleted, but AWS still lists it.", delay=30.0)


def _busy(error: BackendError) -> bool:
    return aws_code(error) in {
        "ClusterContainsTasksException",
        "ClusterContainsServicesException",
        "ClusterContainsContainerInstancesException",
        "ClusterContainsCapacityProviderException",
        "UpdateInProgressException",
    }
