"""Looks whether what is stored exists and is fit for use. Changes nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.ec2 import EC2, Item, described, is_ours
from ropewalk.backends.aws.ecs import look_at
from ropewalk.backends.aws.infrastructure import PREPARE, Infrastructure
from ropewalk.backends.aws.inspection_network import unfit
from ropewalk.backends.aws.log_group import find_log_group
from ropewalk.backends.aws.own import own_cluster, own_log_group, own_repository, own_role
from ropewalk.backends.aws.own_network import brings_network, own_network, own_security_group
from ropewalk.backends.aws.prepare import problems
from ropewalk.backends.aws.registry import find_repository
from ropewalk.backends.aws.removal import SPOKEN
from ropewalk.backends.aws.roles import SERVICE, find_role, trusts
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus

__all__ = ["inspect"]


async def inspect(
    aws: Aws, place: Place, settings: AwsSettings, resources: Sequence[Resource], *, caller_address: str | None = None
) -> list[CheckItem]:
    """Return one item for each stored thing that is gone or unfit, for each wrong setting, and for what is missing.

    A cloud account that was never prepared has only its settings and what it brings along to be looked at.
    """
    work = Work(aws, place, settings, resources, _nobody, caller_address=caller_address)
    items = [_failed(f"setting {error.field}", error) for error in problems(settings)]
    looks = [_own(work), *(_stored(work, kind) for kind in SPOKEN if work.known(kind))]
    for found in await asyncio.gather(*looks):
        items += found
    if resources and not items:
        items += _incomplete(settings, resources)
    if resources and not any(item.status is CheckStatus.FAILED for item in items):
        items.append(_item("infrastructure", CheckStatus.OK, "Everything that was prepared is there."))
    return items


async def _nobody(resource: Resource) -> None:
    raise AssertionError(f"an inspection changed something: {resource.kind}")


def _item(name: str, status: CheckStatus, message: str, advice: str | None = None) -> CheckItem:
    return CheckItem(name=name, status=status, message=message, advice=advice)


def _failed(name: str, error: BackendError) -> CheckItem:
    return _item(name, CheckStatus.FAILED, error.message, error.advice)


def _incomplete(settings: AwsSettings, resources: Sequence[Resource]) -> list[CheckItem]:
    missing = Infrastructure(settings, resources).missing()
    names = ", ".join(SPOKEN[kind] for kind in missing)
    return [_item("infrastructure", CheckStatus.FAILED, f"Not prepared yet: {names}.", PREPARE)] if missing else []


async def _stored(work: Work, kind: str) -> list[CheckItem]:
    """Look at all stored things of a kind that Ropewalk made."""
    try:
        return await (_in_ec2(work, kind) if kind in EC2 else _named(work, kind))
    except FixItError as error:
        if not denied(error):
            raise
        return [_item(SPOKEN[kind], CheckStatus.UNKNOWN, f"It could not be looked at. {error.message}", error.advice)]


async def _in_ec2(work: Work, kind: str) -> list[CheckItem]:
    ec2 = EC2[kind]
    ids = work.known_ids(kind)
    found = {item[ec2.id]: item for item in await described(work.aws, kind, ec2.filter, ids)}
    items = [_missing(kind, id_) for id_ in ids if id_ not in found]
    for id_ in ids:
        if id_ in found:
            items += _condition(work, kind, id_, found[id_])
    return items


def _condition(work: Work, kind: str, id_: str, item: Item) -> list[CheckItem]:
    name = f"{SPOKEN[kind]} {id_}"
    if why := unfit(work, kind, item):
        return [_item(name, CheckStatus.FAILED, f"The {name} {why}.", PREPARE)]
    if not is_ours(item, work.place):
        text = f"The {name} lost Ropewalk's tags, so teardown would leave it behind."
        return [_item(name, CheckStatus.WARNING, text, PREPARE)]
    return []


def _missing(kind: str, id_: str) -> CheckItem:
    name = f"{SPOKEN[kind]} {id_}"
    return _item(name, CheckStatus.FAILED, f"The {name} does not exist any more: clusters cannot start.", PREPARE)


async def _named(work: Work, kind: str) -> list[CheckItem]:
    look = _LOOKS[kind]
    return [item for resource in work.known(kind) for item in await look(work, resource)]


async def _role(work: Work, resource: Resource) -> list[CheckItem]:
    role = await find_role(work, str(resource.details["name"]))
    if role is None:
        return [_missing(resource.kind, resource.id)]
    if not trusts(role, SERVICE):
        name = f"{SPOKEN[resource.kind]} {resource.id}"
        return [_item(name, CheckStatus.FAILED, f"ECS tasks may not assume the {name} any more.", PREPARE)]
    return []


async def _linked_role(work: Work, resource: Resource) -> list[CheckItem]:
    return [] if await find_role(work, resource.id) else [_missing(resource.kind, resource.id)]


async def _cluster(work: Work, resource: Resource) -> list[CheckItem]:
    arns = [arn async for arn in work.aws.pages("ecs", "ListClusters", "clusterArns")]
    seen = await look_at(work, resource.id)
    if resource.id not in arns or (seen and seen.get("status") != "ACTIVE"):
        return [_missing(resource.kind, resource.id)]
    return []


async def _repository(work: Work, resource: Resource) -> list[CheckItem]:
    found = await find_repository(work, str(resource.details["name"]))
    return [] if found else [_missing(resource.kind, resource.id)]


async def _log_group(work: Work, resource: Resource) -> list[CheckItem]:
    found = await find_log_group(work, resource.id)
    return [] if found else [_missing(resource.kind, resource.id)]


_LOOKS: dict[str, Callable[[Work, Resource], Awaitable[list[CheckItem]]]] = {
    "execution_role": _role,
    "task_role": _role,
    "service_linked_role": _linked_role,
    "ecs_cluster": _cluster,
    "repository": _repository,
    "log_group": _log_group,
}


async def _own(work: Work) -> list[CheckItem]:
    """Look at what the team brings along."""
    settings, items = work.settings, list[CheckItem]()
    looks: list[tuple[str, bool, Callable[[], Awaitable[Any]]]] = [
        ("network", brings_network(settings), lambda: _network(work)),
        ("ECS cluster", bool(settings.ecs_cluster), lambda: own_cluster(work)),
        ("execution role", bool(settings.execution_role_arn), lambda: own_role(work, "execution_role")),
        ("task role", bool(settings.task_role_arn), lambda: own_role(work, "task_role")),
        ("repository", bool(settings.repository), lambda: own_repository(work)),
        ("log group", bool(settings.log_group), lambda: own_log_group(work)),
    ]
    for name, brought, look in looks:
        if brought:
            items += await _fitness(f"your {name}", look)
    return items


async def _fitness(name: str, look: Callable[[], Awaitable[Any]]) -> list[CheckItem]:
    try:
        found = await look()
    except FixItError as error:
        status = CheckStatus.UNKNOWN if denied(error) else CheckStatus.FAILED
        return [_item(name, status, error.message, error.advice)]
    resources: list[Resource] = found if isinstance(found, list) else [found]
    notes = [f"{one.id}: {one.details['note']}" for one in resources if one.details.get("note")]
    if notes:
        return [_item(name, CheckStatus.WARNING, " ".join(notes))]
    return [_item(name, CheckStatus.OK, f"Clusters can use {', '.join(one.id for one in resources)}.")]


async def _network(work: Work) -> list[Resource]:
    found = await own_network(work)
    if work.settings.security_group_id:
        found.append(await own_security_group(work, found[0].id))
    return found
