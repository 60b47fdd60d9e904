"""Route tables: one of ours for each part of the network, its routes, and the subnets that use it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.ec2 import described, part_of
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.removal import remove_extra
from ropewalk.backends.aws.work import Work
from ropewalk.errors import BackendError, FixItError

__all__ = ["associate", "route", "route_to", "table"]


async def table(work: Work, vpc_id: str, part: str) -> str:
    """Return the id of our route table for *part* of the VPC, made unless it exists."""
    found = [item for item in await work.ours("route_table") if item["VpcId"] == vpc_id and part_of(item) == part]
    found = work.stored_first("route_table", found)
    item = found[0] if found else await work.make("route_table", part, VpcId=vpc_id)
    await work.has("route_table", item["RouteTableId"], part=part)
    await remove_extra(work, "route_table", found[1:])
    return str(item["RouteTableId"])


async def route(work: Work, table_id: str, destination: str, **target: str) -> None:
    """Make the table send what goes to *destination* to *target* (`GatewayId=`, `NatGatewayId=`…).

    A route that leads to something that was deleted is replaced.
    """
    present = route_to(await _table(work, table_id), destination)
    facts = {"RouteTableId": table_id, "DestinationCidrBlock": destination, **target}
    (name, value) = next(iter(target.items()))
    if present is None:
        await work.patience.insist(lambda: _create(work, facts), _settling)
    elif present.get(name) != value:
        await work.patience.insist(lambda: work.ec2("ReplaceRoute", **facts), _settling)


def route_to(item: Mapping[str, Any], destination: str) -> Mapping[str, Any] | None:
    """Return the route of a described table to exactly *destination*."""
    routes: Sequence[Mapping[str, Any]] = item.get("Routes") or ()
    return next((one for one in routes if one.get("DestinationCidrBlock") == destination), None)


async def _create(work: Work, facts: Mapping[str, str]) -> None:
    try:
        await work.ec2("CreateRoute", **facts)
    except FixItError as error:
        if aws_code(error) != "RouteAlreadyExists":
            raise


def _settling(error: BackendError) -> bool:
    """Whether AWS does not see yet what was made just now; to it, a gateway that is not attached is a wrong value."""
    return not_there(error) or (aws_code(error) == "InvalidParameterValue" and "gateway" in error.message.lower())


async def _table(work: Work, table_id: str) -> Mapping[str, Any]:
    async def look() -> Mapping[str, Any] | None:
        found = await described(work.aws, "route_table", "route-table-id", [table_id])
        return next((item for item in found if item["RouteTableId"] == table_id), None)

    return await work.patience.until(look, within=60.0) or {}


async def associate(work: Work, table_id: str, subnet_ids: Sequence[str]) -> None:
    """Make the subnets use the table, whichever they used before."""
    vpc_id = (await _table(work, table_id)).get("VpcId")
    used = {
        str(association["SubnetId"]): (str(item["RouteTableId"]), str(association["RouteTableAssociationId"]))
        for item in await described(work.aws, "route_table", "vpc-id", [str(vpc_id)])
        for association in item.get("Associations") or ()
        if association.get("SubnetId")
    }
    for subnet_id in subnet_ids:
        if subnet_id not in used:
            await _associate(work, table_id, subnet_id)
        elif used[subnet_id][0] != table_id:
            await work.ec2("ReplaceRouteTableAssociation", RouteTableId=table_id, AssociationId=used[subnet_id][1])


async def _associate(work: Work, table_id: str, subnet_id: str) -> None:
    try:
        await work.settled("AssociateRouteTable", RouteTableId=table_id, SubnetId=subnet_id)
    except FixItError as error:
        if aws_code(error) != "Resource.AlreadyAssociated":  # by the call itself, if its answer was lost
            raise
