"""Removing one thing in EC2: only what is ours by its tags, once nothing uses it, until AWS says that it is gone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.ec2 import EC2, Item, described, is_ours
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.tags import CLOUD_ACCOUNT, INSTALLATION
from ropewalk.backends.aws.work import Work
from ropewalk.errors import BackendError, FixItError, TryAgainError

__all__ = ["SPOKEN", "remove", "remove_extra", "see"]

_USED_WITHIN = 600.0
"""Seconds to wait for what uses a thing to go: interfaces of stopped tasks take a minute or two, NAT gateways some
minutes ("Delete a NAT gateway", VPC user guide)."""

_USED = frozenset({"DependencyViolation", "InvalidIPAddress.InUse", "IncorrectState", "InvalidNetworkInterface.InUse"})

SPOKEN = {
    "vpc": "VPC",
    "subnet": "subnet",
    "internet_gateway": "internet gateway",
    "route_table": "route table",
    "security_group": "security group",
    "elastic_ip": "elastic IP address",
    "nat_gateway": "NAT gateway",
    "peering": "VPC peering connection",
    "ecs_cluster": "ECS cluster",
    "execution_role": "execution role",
    "task_role": "task role",
    "service_linked_role": "service-linked role",
    "repository": "ECR repository",
    "log_group": "log group",
}
"""What kinds are called in sentences."""


async def see(work: Work, kind: str, id_: str) -> dict[str, Any] | None:
    """Return the description of a thing in EC2; None if it does not exist."""
    ec2 = EC2[kind]
    found = await described(work.aws, kind, ec2.filter, [id_])
    return next((item for item in found if item[ec2.id] == id_), None)


async def remove(work: Work, kind: str, id_: str, before: Callable[[Item], Awaitable[None]] | None = None) -> None:
    """Remove one thing of ours, and tell when it is gone. What is gone already is told, too.

    *before* is called with its description once it is known to be ours.

    Raises:
        FixItError: It does not carry our tags, or something that is not ours uses it.
        TryAgainError: It is still being used, or still there, after minutes.
    """
    item = await see(work, kind, id_)
    if item is not None:
        if not is_ours(item, work.place):
            raise _not_ours(kind, id_)
        if before is not None:
            await before(item)
        await _loosen(work, kind, item)
        await _delete(work, kind, id_)
        await _gone(work, kind, id_)
    await work.forget(kind, id_)


async def remove_extra(work: Work, kind: str, items: Sequence[dict[str, Any]]) -> None:
    """Remove what there is too many of. Where that may not be, it is told with a note, so that teardown knows of it."""
    for item in items:
        id_ = str(item[EC2[kind].id])
        try:
            await remove(work, kind, id_)
        except FixItError as error:
            note = f"A second {SPOKEN[kind]} was made when an answer of AWS was lost, and could not be removed: {error}"
            await work.has(kind, id_, extra=True, note=note)


def _not_ours(kind: str, id_: str) -> FixItError:
    return FixItError(
        f"The {SPOKEN[kind]} {id_} does not carry Ropewalk's tags any more, so it is left alone.",
        advice=f"Remove it yourself if nobody needs it; or run `ropewalk cloud-account prepare`, which sets the tags "
        f"{INSTALLATION} and {CLOUD_ACCOUNT} again, and then teardown.",
        details={"kind": kind, "id": id_},
    )


async def _loosen(work: Work, kind: str, item: dict[str, Any]) -> None:
    """Undo what ties a thing to others of ours, as far as its own deletion does not."""
    if kind == "internet_gateway":
        for attachment in item.get("Attachments") or ():
            await _insist(
                work,
                "DetachInternetGateway",
                InternetGatewayId=item["InternetGatewayId"],
                VpcId=attachment["VpcId"],
            )
    elif kind == "route_table":
        for association in item.get("Associations") or ():
            if not association.get("Main"):
                await _insist(work, "DisassociateRouteTable", AssociationId=association["RouteTableAssociationId"])


async def _delete(work: Work, kind: str, id_: str) -> None:
    ec2 = EC2[kind]
    try:
        await _insist(work, ec2.delete, **{ec2.id: id_})
    except FixItError as error:
        if aws_code(error) not in _USED:
            raise
        raise TryAgainError(
            f"The {SPOKEN[kind]} {id_} is still being used by something, {_USED_WITHIN / 60:g} minutes after all of "
            "Ropewalk's things in it were removed.",
            advice=f"Look in the AWS console for what uses it ({error.message}); Ropewalk keeps trying.",
            delay=60.0,
            details=error.details,
        ) from error


async def _insist(work: Work, operation: str, **parameters: Any) -> None:
    """Do it as soon as nothing stands in the way; that there is nothing to do it to is as good."""

    async def do() -> None:
        try:
            await work.ec2(operation, **parameters)
        except FixItError as error:
            if not not_there(error) and aws_code(error) != "Gateway.NotAttached":
                raise

    await work.patience.insist(do, _used, _USED_WITHIN)


def _used(error: BackendError) -> bool:
    return aws_code(error) in _USED


async def _gone(work: Work, kind: str, id_: str) -> None:
    async def look() -> bool | None:
        return True if await see(work, kind, id_) is None else None

    if not await work.patience.until(look, _USED_WITHIN):
        raise TryAgainError(f"The {SPOKEN[kind]} {id_} was deleted, but AWS still lists it.", delay=30.0)
