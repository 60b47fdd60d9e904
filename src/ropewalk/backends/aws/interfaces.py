"""Network interfaces in what is to be removed: those of tasks go by themselves, others belong to somebody."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["clear", "interfaces"]

_FIELDS = {"vpc-id": "VpcId", "subnet-id": "SubnetId"}
_OF_TASKS = re.compile(r"arn:aws[a-z-]*:ecs:")
"""How ECS describes the interfaces that it makes for tasks ("Fargate task networking", ECS developer guide)."""

_LEAVING_WITHIN = 300.0  # seconds; Fargate detaches the interface of a stopped task within a minute or two


async def interfaces(work: Work, filter_: str, ids: Sequence[str]) -> list[dict[str, Any]]:
    """Return the network interfaces in VPCs or subnets, those of NAT gateways left out."""
    if not ids:
        return []
    pages = work.aws.pages(
        "ec2", "DescribeNetworkInterfaces", "NetworkInterfaces", Filters=[{"Name": filter_, "Values": list(ids)}]
    )
    return [item async for item in pages if item.get(_FIELDS[filter_]) in ids and not _of_gateway(item)]


def _of_gateway(item: dict[str, Any]) -> bool:
    return item.get("InterfaceType") == "nat_gateway" or str(item.get("Description")).startswith(
        "Interface for NAT Gateway"
    )


async def clear(work: Work, vpc_ids: Sequence[str]) -> None:
    """Wait until the interfaces of tasks have left the VPCs, and delete those that were left behind.

    Raises:
        FixItError: Something that Ropewalk did not start uses a VPC. Nothing of the VPC was removed yet.
    """

    async def look() -> bool | None:
        found = await interfaces(work, "vpc-id", vpc_ids)
        foreign = [item for item in found if not _OF_TASKS.match(str(item.get("Description") or ""))]
        if foreign:
            raise _somebody(foreign)
        for item in found:
            if item.get("Status") == "available":
                await _delete(work, item["NetworkInterfaceId"])
        return None if found else True

    if not await work.patience.until(look, _LEAVING_WITHIN):
        raise TryAgainError(
            f"Tasks still have network interfaces in {', '.join(vpc_ids)} after five minutes.", delay=60.0
        )


async def _delete(work: Work, id_: str) -> None:
    try:
        await work.ec2("DeleteNetworkInterface", NetworkInterfaceId=id_)
    except FixItError as error:
        if denied(error):
            return  # AWS cleans up by itself, later
        if not not_there(error):
            raise


def _somebody(foreign: Sequence[dict[str, Any]]) -> FixItError:
    shown = ", ".join(f"{item['NetworkInterfaceId']} ({_about(item)})" for item in foreign[:5])
    more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
    return FixItError(
        f"Something that Ropewalk did not start uses its VPC {foreign[0]['VpcId']}: network interfaces {shown}{more}.",
        advice="Move or remove what they belong to, then tear down again.",
        details={"interfaces": [item["NetworkInterfaceId"] for item in foreign]},
    )


def _about(item: dict[str, Any]) -> str:
    instance = (item.get("Attachment") or {}).get("InstanceId")
    return str(instance or item.get("Description") or item.get("InterfaceType") or "no description")
