"""What EC2 calls its kinds of things, and how ours are found among them.

Filters of a describe call save pages; what is ours is decided here once more, by tags and ids: an endpoint that does
not know a filter must not make somebody else's network ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.tags import (
    CLOUD_ACCOUNT,
    INSTALLATION,
    as_tags,
    ec2_filters,
    from_tags,
    place_tags,
    resource_name,
)
from ropewalk.backends.port import Place

__all__ = ["EC2", "PART", "Ec2Kind", "Item", "described", "is_ours", "ours", "part_of", "specification"]

PART = "ropewalk:part"
"""Tag that tells apart things of one kind: ``public-a``, ``private``…"""

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ec2Kind:
    """A kind of thing in EC2's API: operations, the key of the list in answers, the name of ids, the type in tags.

    ``made`` is the key under which the answer to its creation describes it; empty where the answer itself does.
    """

    describe: str
    items: str
    id: str
    filter: str
    create: str
    made: str
    delete: str
    tagged: str
    dead: frozenset[str] = frozenset()
    """States of things that are listed for a while, but are no more."""

    def state(self, item: Item) -> str:
        """Return its state, as far as it has one."""
        status = item.get("Status")
        return str(status.get("Code")) if isinstance(status, Mapping) else str(item.get("State") or "")


EC2: dict[str, Ec2Kind] = {
    "vpc": Ec2Kind("DescribeVpcs", "Vpcs", "VpcId", "vpc-id", "CreateVpc", "Vpc", "DeleteVpc", "vpc"),
    "subnet": Ec2Kind(
        "DescribeSubnets", "Subnets", "SubnetId", "subnet-id", "CreateSubnet", "Subnet", "DeleteSubnet", "subnet"
    ),
    "internet_gateway": Ec2Kind(
        "DescribeInternetGateways",
        "InternetGateways",
        "InternetGatewayId",
        "internet-gateway-id",
        "CreateInternetGateway",
        "InternetGateway",
        "DeleteInternetGateway",
        "internet-gateway",
    ),
    "route_table": Ec2Kind(
        "DescribeRouteTables",
        "RouteTables",
        "RouteTableId",
        "route-table-id",
        "CreateRouteTable",
        "RouteTable",
        "DeleteRouteTable",
        "route-table",
    ),
    "security_group": Ec2Kind(
        "DescribeSecurityGroups",
        "SecurityGroups",
        "GroupId",
        "group-id",
        "CreateSecurityGroup",
        "",
        "DeleteSecurityGroup",
        "security-group",
    ),
    "elastic_ip": Ec2Kind(
        "DescribeAddresses",
        "Addresses",
        "AllocationId",
        "allocation-id",
        "AllocateAddress",
        "",
        "ReleaseAddress",
        "elastic-ip",
    ),
    # NAT gateways stay listed for about an hour after their end ("Delete a NAT gateway", VPC user guide).
    "nat_gateway": Ec2Kind(
        "DescribeNatGateways",
        "NatGateways",
        "NatGatewayId",
        "nat-gateway-id",
        "CreateNatGateway",
        "NatGateway",
        "DeleteNatGateway",
        "natgateway",
        frozenset({"deleted", "failed"}),
    ),
    # "VPC peering connection lifecycle" (VPC peering guide): each of these is final, listed for hours to days.
    "peering": Ec2Kind(
        "DescribeVpcPeeringConnections",
        "VpcPeeringConnections",
        "VpcPeeringConnectionId",
        "vpc-peering-connection-id",
        "CreateVpcPeeringConnection",
        "VpcPeeringConnection",
        "DeleteVpcPeeringConnection",
        "vpc-peering-connection",
        frozenset({"deleting", "deleted", "failed", "expired", "rejected"}),
    ),
}


def tags_of(item: Item) -> dict[str, str]:
    return from_tags(item.get("Tags") or ())


def is_ours(item: Item, place: Place) -> bool:
    """Whether its tags say that it was made for this cloud account of this installation."""
    tags = tags_of(item)
    return tags.get(INSTALLATION) == place.installation and tags.get(CLOUD_ACCOUNT) == place.cloud_account


def part_of(item: Item) -> str:
    """Return which of several things of its kind it is."""
    return tags_of(item).get(PART, "")


def specification(place: Place, kind: str, part: str = "") -> list[dict[str, Any]]:
    """Return `TagSpecifications` of a create call: tagged in the same instant as it is made."""
    tags = place_tags(place) | {"Name": f"{resource_name(place)}-{part}" if part else resource_name(place)}
    if part:
        tags[PART] = part
    return [{"ResourceType": EC2[kind].tagged, "Tags": as_tags(tags)}]


async def described(aws: Aws, kind: str, name: str, values: Sequence[str]) -> list[dict[str, Any]]:
    """Return the things of a kind that a filter lets through, dead ones left out."""
    return await _listed(aws, kind, [{"Name": name, "Values": list(values)}])


async def ours(aws: Aws, kind: str, place: Place, ids: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return what is ours of a kind, by tag, and those with *ids* that exist, whatever their tags; sorted by id."""
    ec2 = EC2[kind]
    found = {item[ec2.id]: item for item in await _listed(aws, kind, ec2_filters(place)) if is_ours(item, place)}
    if lost := [wanted for wanted in ids if wanted not in found]:
        also = await described(aws, kind, ec2.filter, lost)
        found |= {item[ec2.id]: item for item in also if item[ec2.id] in lost}
    return [found[key] for key in sorted(found)]


async def _listed(aws: Aws, kind: str, filters: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    ec2 = EC2[kind]
    name = "Filter" if kind == "nat_gateway" else "Filters"  # EC2's API has this one exception
    pages = aws.pages("ec2", ec2.describe, ec2.items, **{name: list(filters)})
    return [item async for item in pages if ec2.state(item) not in ec2.dead]
