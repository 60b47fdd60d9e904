"""What kinds of resources are called, and where AWS's console shows each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from ropewalk.schemas.aws_policy import partition
from ropewalk.schemas.cloud_accounts import CloudAccount, CloudKind, CloudResource

__all__ = ["Row", "rows", "spoken"]

_HOSTS = {
    "aws": "console.aws.amazon.com",
    "aws-cn": "console.amazonaws.cn",
    "aws-us-gov": "console.amazonaws-us-gov.com",
}
"""Each partition of AWS has a console of its own ("AWS Management Console service endpoints")."""

_VPC = "{regional}/vpcconsole/home?region={region}#"
_ROLE = "{console}/iam/home#/roles/details/{name}"
_KINDS = {
    "vpc": ("VPC", _VPC + "VpcDetails:VpcId={id}"),
    "subnet": ("Subnet", _VPC + "SubnetDetails:subnetId={id}"),
    "internet_gateway": ("Internet gateway", _VPC + "InternetGateway:internetGatewayId={id}"),
    "route_table": ("Route table", _VPC + "RouteTableDetails:RouteTableId={id}"),
    "security_group": ("Security group", _VPC + "SecurityGroup:groupId={id}"),
    "elastic_ip": ("Elastic IP address", _VPC + "ElasticIpDetails:AllocationId={id}"),
    "nat_gateway": ("NAT gateway", _VPC + "NatGatewayDetails:natGatewayId={id}"),
    "peering": ("VPC peering", _VPC + "PeeringConnectionDetails:vpcPeeringConnectionId={id}"),
    "ecs_cluster": ("ECS cluster", "{regional}/ecs/v2/clusters/{name}?region={region}"),
    "execution_role": ("Execution role", _ROLE),
    "task_role": ("Task role", _ROLE),
    "service_linked_role": ("Service-linked role", _ROLE),
    "repository": ("ECR repository", "{regional}/ecr/repositories/private/{owner}/{name}?region={region}"),
    # The console writes "%" of its own escapes as "$25".
    "log_group": ("Log group", "{regional}/cloudwatch/home?region={region}#logsV2:log-groups/log-group/{group}"),
}
"""By kind: what it is called, and where the console shows it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A resource as a page shows it."""

    kind: str
    id: str
    name: str
    """The short part of the id, where that is an ARN or an address."""
    url: str | None
    owned: bool
    monthly_cost: float
    note: str | None


def spoken(kind: str) -> str:
    """Return what a kind of resource is called."""
    known = _KINDS.get(kind)
    return known[0] if known else kind.replace("_", " ").capitalize()


def rows(cloud: CloudAccount) -> list[Row]:
    """Return a cloud account's resources, in the order in which they were made."""
    return [_row(cloud, item) for item in cloud.resources]


def _row(cloud: CloudAccount, item: CloudResource) -> Row:
    details: Mapping[str, Any] = item.details
    name = str(details.get("name") or item.id.rpartition("/")[2] if item.kind != "log_group" else item.id)
    return Row(
        spoken(item.kind),
        item.id,
        name,
        _url(cloud, item, name),
        bool(details.get("owned", True)),
        float(details.get("monthly_cost", 0.0)),
        details.get("note"),
    )


def _url(cloud: CloudAccount, item: CloudResource, name: str) -> str | None:
    if cloud.kind is not CloudKind.AWS or item.kind not in _KINDS:
        return None
    # A peering may belong to another region, which shows it as well.
    region = str(cloud.settings.get("region"))
    host = _HOSTS[partition(region)]
    return _KINDS[item.kind][1].format(
        console=f"https://{host}",
        regional=f"https://{quote(region)}.{host}",
        region=quote(region),
        id=quote(item.id, safe=""),
        name=quote(name, safe="/"),
        owner=quote(cloud.identity.owner if cloud.identity else "", safe=""),
        group=quote(quote(item.id, safe=""), safe="").replace("%", "$"),
    )
