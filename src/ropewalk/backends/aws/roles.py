"""The two roles of tasks: one with which ECS pulls images and writes logs, one with the rights of users' code: none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.tags import (
    CLOUD_ACCOUNT,
    INSTALLATION,
    as_tags,
    execution_role_name,
    from_tags,
    place_tags,
    task_role_name,
)
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import Place
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws_scopes import EXECUTION_POLICY

__all__ = [
    "SERVICE",
    "description",
    "execution_policy",
    "execution_role",
    "find_role",
    "made_here",
    "task_role",
    "trusts",
]

SERVICE = "ecs-tasks.amazonaws.com"
"""Who assumes the roles: only ECS, for tasks ("Amazon ECS task execution IAM role", ECS developer guide)."""

_TRUST = json.dumps({
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole"}],
})  # fmt: skip


def execution_policy(region: str) -> str:
    """Return the ARN of AWS's policy for the execution role, in the partition of the region."""
    return EXECUTION_POLICY.format(partition=partition(region))


def partition(region: str) -> str:
    """Return the partition of AWS that a region is in ("Partitions", AWS fault isolation boundaries)."""
    prefixes = {"cn-": "aws-cn", "us-gov-": "aws-us-gov"}
    return next((name for prefix, name in prefixes.items() if region.startswith(prefix)), "aws")


async def execution_role(work: Work) -> None:
    """Complete the role with which ECS pulls images and writes logs."""
    name = execution_role_name(work.place)
    await _role(work, "execution_role", name)
    await work.patience.insist(
        lambda: work.aws.call("iam", "AttachRolePolicy", RoleName=name, PolicyArn=execution_policy(work.aws.region))
    )


async def task_role(work: Work) -> None:
    """Complete the role that users' code has. It has no rights; teams add what their code needs, or bring their own."""
    await _role(work, "task_role", task_role_name(work.place))


async def _role(work: Work, kind: str, name: str) -> None:
    role = await find_role(work, name)
    if role is None:
        role, note = await _create(work, kind, name)
    else:
        note = await _complete(work, kind, role)
    for former in work.known(kind):
        if former.id != role["Arn"]:
            await work.forget(kind, former.id)
    await work.has(kind, role["Arn"], name=name, note=note)


async def find_role(work: Work, name: str) -> dict[str, Any] | None:
    """Return a role by name; None if it does not exist."""
    try:
        answer = await work.aws.call("iam", "GetRole", RoleName=name)
    except FixItError as error:
        if not_there(error):
            return None
        raise
    role: dict[str, Any] = answer["Role"]
    return role


async def _create(work: Work, kind: str, name: str) -> tuple[dict[str, Any], str | None]:
    facts = {"RoleName": name, "AssumeRolePolicyDocument": _TRUST, "Description": description(work.place, kind)}

    async def create() -> tuple[dict[str, Any], str | None]:
        tags = as_tags(place_tags(work.place))
        return await work.tagged("iam", "CreateRole", {"Tags": tags}, **facts)

    try:
        answer, note = await create()
    except TryAgainError:
        found = await work.patience.until(lambda: find_role(work, name), within=10.0)
        if found is None:
            raise
        return found, None
    return answer["Role"], note


def description(place: Place, kind: str) -> str:
    """Return a description that says whose role it is, also where tags may not be set."""
    return f"Ropewalk {kind.replace('_', ' ')} of {place.cloud_account} in installation {place.installation}"


def made_here(role: Mapping[str, Any], place: Place, kind: str) -> bool:
    """Whether a role was made for this cloud account: its tags say so, or, where it has none, its description."""
    tags = from_tags(role.get("Tags") or ())
    if INSTALLATION in tags:
        return tags[INSTALLATION] == place.installation and tags.get(CLOUD_ACCOUNT) == place.cloud_account
    return role.get("Description") == description(place, kind)


async def _complete(work: Work, kind: str, role: dict[str, Any]) -> str | None:
    """Mend what people changed; return what could not be mended, as a note."""
    name = role["RoleName"]
    if not made_here(role, work.place, kind):
        raise FixItError(
            f"There is a role {name} that was not made by this installation of Ropewalk for this cloud account.",
            advice="Remove or rename it, or bring your own role along "
            f"(`{'execution_role_arn' if kind == 'execution_role' else 'task_role_arn'}`).",
        )
    if not trusts(role, SERVICE):
        await work.aws.call("iam", "UpdateAssumeRolePolicy", RoleName=name, PolicyDocument=_TRUST)
    if INSTALLATION not in from_tags(role.get("Tags") or ()):
        return await _tag(work, name)
    return None


async def _tag(work: Work, name: str) -> str | None:
    try:
        await work.aws.call("iam", "TagRole", RoleName=name, Tags=as_tags(place_tags(work.place)))
    except FixItError as error:
        if action := denied(error):
            return work.untagged(action)
        raise
    return None


def trusts(role: Mapping[str, Any], service: str) -> bool:
    """Whether an AWS service may assume a role."""
    document = role.get("AssumeRolePolicyDocument") or {}
    if isinstance(document, str):
        document = json.loads(document)
    return any(_allows(statement, service) for statement in _listed(document.get("Statement")))


def _allows(statement: Mapping[str, Any], service: str) -> bool:
    principal = statement.get("Principal")
    services = _listed(principal.get("Service")) if isinstance(principal, Mapping) else [principal]
    actions = _listed(statement.get("Action"))
    assumes = any(action in {"sts:AssumeRole", "sts:*", "*"} for action in actions)
    return statement.get("Effect") == "Allow" and assumes and (service in services or "*" in services)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list) else [value]
