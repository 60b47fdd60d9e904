"""Peering with other VPCs: the connection, its acceptance, and routes on both sides as far as the key reaches.

"VPC peering connection lifecycle" and "Update your route tables for a VPC peering connection" (VPC peering guide).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.blocks import block
from ropewalk.backends.aws.ec2 import Item, described
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.removal import remove, see
from ropewalk.backends.aws.routes import route, route_to
from ropewalk.backends.aws.together import together
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws import AwsPeering

__all__ = ["peerings", "remove_peering", "unwanted"]

_SETTLED_WITHIN = 120.0  # seconds until a new connection waits to be accepted, or an accepted one is active
_WAITING = frozenset({"initiating-request", "provisioning"})


async def peerings(work: Work, vpc_id: str) -> None:
    """Complete the peerings that are asked for, and remove those that are asked for no more."""
    wanted = work.settings.peering
    if not wanted and not work.known("peering"):
        return  # and no right to look for any is needed
    found = [item for item in await work.ours("peering") if item["RequesterVpcInfo"]["VpcId"] == vpc_id]
    await together(
        *(_peering(work, vpc_id, number, found) for number in range(len(wanted))),
        *(remove_peering(work, item["VpcPeeringConnectionId"]) for item in unwanted(work, found)),
    )


def unwanted(work: Work, found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the connections that the settings do not ask for."""
    vpcs = {peer.vpc_id for peer in work.settings.peering}
    return [item for item in found if item["AccepterVpcInfo"]["VpcId"] not in vpcs]


async def _peering(work: Work, vpc_id: str, number: int, found: Sequence[dict[str, Any]]) -> None:
    peer = work.settings.peering[number]
    await _check(work, number, peer)
    item = next((one for one in found if one["AccepterVpcInfo"]["VpcId"] == peer.vpc_id), None)
    item = item or await _request(work, vpc_id, number, peer)
    id_ = str(item["VpcPeeringConnectionId"])
    facts = {
        "vpc_id": peer.vpc_id,
        "cidr": peer.cidr,
        "region": peer.region,
        "owner_id": peer.owner_id,
        "part": _part(peer),
    }
    if id_ not in work.known_ids("peering"):
        await work.has("peering", id_, **facts)
    item = await _settled(work, id_, number)
    notes = [await _accept(work, peer, item)]
    for table in await work.ours("route_table"):
        # Not the VPC's main one: no subnet of ours uses it, and without our tags a policy need not reach it.
        if table["VpcId"] == vpc_id:
            await route(work, str(table["RouteTableId"]), str(block(peer.cidr, "cidr")), VpcPeeringConnectionId=id_)
    if notes == [None]:
        notes.append(await _routes_back(work, number, item))
    await work.has("peering", id_, **facts, note=" ".join(filter(None, notes)) or None)


def _part(peer: AwsPeering) -> str:
    return f"peer-{peer.vpc_id}"


async def _check(work: Work, number: int, peer: AwsPeering) -> None:
    """Compare what is said of the other VPC with what it is, if the key can see it."""
    aws = _in_region(work, peer.region)
    if peer.owner_id is not None or aws is None:
        return
    found = [item for item in await described(aws, "vpc", "vpc-id", [peer.vpc_id]) if item["VpcId"] == peer.vpc_id]
    if not found:
        raise FixItError(
            f"There is no VPC {peer.vpc_id} in the region {aws.region} of this AWS account.",
            advice="Correct `vpc_id`, or name the `region` or the AWS account (`owner_id`) that it is in.",
            field=f"peering.{number}.vpc_id",
        )
    blocks = [str(one["CidrBlock"]) for one in found[0].get("CidrBlockAssociationSet") or () if one.get("CidrBlock")]
    own = block(peer.cidr, f"peering.{number}.cidr")
    if str(own) not in {*blocks, str(found[0]["CidrBlock"])}:
        raise FixItError(
            f"The VPC {peer.vpc_id} has the addresses {', '.join(blocks) or found[0]['CidrBlock']}, and not {own}.",
            advice="Correct `cidr`.",
            field=f"peering.{number}.cidr",
        )


def _in_region(work: Work, region: str | None) -> Aws | None:
    """Return AWS in the region of the other VPC; None if this program was given no way to it."""
    if region in {None, work.aws.region}:
        return work.aws
    return work.elsewhere(region) if work.elsewhere and region else None


def _same_account(item: Item) -> bool:
    return bool(item["AccepterVpcInfo"].get("OwnerId") == item["RequesterVpcInfo"].get("OwnerId"))


async def _request(work: Work, vpc_id: str, number: int, peer: AwsPeering) -> dict[str, Any]:
    facts = {"PeerOwnerId": peer.owner_id, "PeerRegion": peer.region if peer.region != work.aws.region else None}
    given = {name: value for name, value in facts.items() if value}
    try:
        return await work.make("peering", _part(peer), VpcId=vpc_id, PeerVpcId=peer.vpc_id, **given)
    except FixItError as error:
        if aws_code(error) == "OverlappingCidrBlock":
            raise _overlap(number, peer) from error
        raise


def _overlap(number: int, peer: AwsPeering) -> FixItError:
    return FixItError(
        f"The VPC {peer.vpc_id} cannot be peered, because its addresses overlap with those of Ropewalk's VPC.",
        advice="Tear the cloud account down, choose another `vpc_cidr`, and prepare again.",
        field=f"peering.{number}.cidr",
    )


async def _settled(work: Work, id_: str, number: int) -> dict[str, Any]:
    """Return the connection once it waits for its acceptance or is active."""
    peer = work.settings.peering[number]

    async def look() -> dict[str, Any] | None:
        answer = await work.settled("DescribeVpcPeeringConnections", VpcPeeringConnectionIds=[id_])
        item: dict[str, Any] = next(iter(answer.get("VpcPeeringConnections") or ()), {})
        return item if item.get("Status", {}).get("Code") not in {None, *_WAITING} else None

    item = await work.patience.until(look, _SETTLED_WITHIN)
    if item is None:
        raise TryAgainError(f"The peering {id_} with {peer.vpc_id} is still being set up.", delay=30.0)
    if item["Status"]["Code"] == "failed":  # AWS's reasons: the other VPC does not exist, or addresses overlap
        message = str(item["Status"].get("Message") or "no explanation")
        if "overlap" in message.lower():
            raise _overlap(number, peer)
        raise FixItError(
            f"The peering with {peer.vpc_id} failed: {message}.",
            advice="Check its id, region and AWS account (`owner_id`).",
            field=f"peering.{number}.vpc_id",
        )
    return item


async def _accept(work: Work, peer: AwsPeering, item: Mapping[str, Any]) -> str | None:
    """Accept the connection where it is ours to accept; return what its owner has to do if it is not."""
    id_, status = str(item["VpcPeeringConnectionId"]), item["Status"]["Code"]
    if status == "active":
        return None
    if status != "pending-acceptance":
        return f"The peering {id_} is {status}: the owner of {peer.vpc_id} did not accept it."
    aws = _in_region(work, peer.region) if _same_account(item) else None
    region = peer.region or work.aws.region
    command = f"aws ec2 accept-vpc-peering-connection --region {region} --vpc-peering-connection-id {id_}"
    if aws is None:
        return (
            f"The AWS account {peer.owner_id or 'of the other VPC'} has to accept the peering within a week: "
            f"`{command}`, and to route {_own_block(work)} to {id_} in the route tables of {peer.vpc_id}."
        )
    try:
        await work.patience.insist(
            lambda: aws.call("ec2", "AcceptVpcPeeringConnection", VpcPeeringConnectionId=id_), not_there
        )
    except FixItError as error:
        if not denied(error):
            raise
        return f"Somebody with the right has to accept the peering: `{command}`. {error} Then prepare again."
    return await _active(work, id_)


async def _active(work: Work, id_: str) -> str | None:
    async def look() -> bool | None:
        item = await see(work, "peering", id_)
        return (item is not None and item["Status"]["Code"] == "active") or None

    if not await work.patience.until(look, _SETTLED_WITHIN):
        raise TryAgainError(f"The peering {id_} was accepted, but is not active yet.", delay=30.0)
    return None


def _own_block(work: Work) -> str:
    return str(block(work.settings.vpc_cidr, "vpc_cidr"))


async def _routes_back(work: Work, number: int, item: Item) -> str | None:
    """Make routes in all tables of the other VPC; return what has to be done by hand where the key may not."""
    id_, other = str(item["VpcPeeringConnectionId"]), item["AccepterVpcInfo"]
    aws = _in_region(work, other.get("Region")) if _same_account(item) else None
    if aws is None:
        return None  # its owner was told, when they were asked to accept
    own = _own_block(work)
    for table in await described(aws, "route_table", "vpc-id", [other["VpcId"]]):
        present = route_to(table, own) or {}
        if table["VpcId"] != other["VpcId"] or present.get("VpcPeeringConnectionId") == id_:
            continue
        if present and present.get("State") != "blackhole":
            raise FixItError(
                f"The route table {table['RouteTableId']} of {other['VpcId']} sends {own} elsewhere already.",
                advice="Remove that route, or tear down and choose another `vpc_cidr`.",
                field=f"peering.{number}.vpc_id",
            )
        if note := await _route_back(aws, table, own, id_, replace=bool(present)):
            return note
    return None


async def _route_back(aws: Aws, table: Mapping[str, Any], own: str, id_: str, *, replace: bool) -> str | None:
    operation = "ReplaceRoute" if replace else "CreateRoute"
    try:
        await aws.call(
            "ec2",
            operation,
            RouteTableId=table["RouteTableId"],
            DestinationCidrBlock=own,
            VpcPeeringConnectionId=id_,
        )
    except FixItError as error:
        if aws_code(error) == "RouteAlreadyExists":
            return None
        if not denied(error):
            raise
        return f"Nothing answers yet: route {own} to {id_} in the route tables of {table['VpcId']}. {error}"
    return None


async def remove_peering(work: Work, id_: str) -> None:
    """Remove a peering of ours with its routes on both sides, and tell when it is gone."""

    async def before(item: Item) -> None:
        await _remove_routes(work, work.aws, item["RequesterVpcInfo"]["VpcId"], id_)
        other = item["AccepterVpcInfo"]
        if _same_account(item) and (aws := _in_region(work, other.get("Region"))):
            await _remove_routes(work, aws, other["VpcId"], id_)

    await remove(work, "peering", id_, before)


async def _remove_routes(work: Work, aws: Aws, vpc_id: str, id_: str) -> None:
    """Delete the routes to a peering, which AWS would leave behind as black holes."""
    for item in await described(aws, "route_table", "vpc-id", [vpc_id]):
        for one in item.get("Routes") or ():
            if item["VpcId"] == vpc_id and one.get("VpcPeeringConnectionId") == id_:
                facts = {"RouteTableId": item["RouteTableId"], "DestinationCidrBlock": one["DestinationCidrBlock"]}
                await work.patience.insist(lambda facts=facts: _delete_route(aws, facts))  # type: ignore[misc] # mypy cannot infer it


async def _delete_route(aws: Aws, facts: Mapping[str, str]) -> None:
    try:
        await aws.call("ec2", "DeleteRoute", **facts)
    except FixItError as error:
        if not not_there(error):
            raise
