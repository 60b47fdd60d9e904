"""EC2: what its networking refuses, delays and answers to dry runs ("Error codes for the Amazon EC2 API").

ministack accepts overlapping networks, duplicate rules, missing references and the deletion of things in use.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

from ministack import app as application
from ministack.services import ec2

from tests.support.aws_double.control import control
from tests.support.aws_double.gate import Answer, error, request_action, request_params
from tests.support.aws_double.patching import demand, replace_item

_IDENTIFIER = re.compile(r"(?:vpc|subnet|igw|rtb|sg|eipalloc|nat|pcx)-[0-9a-f]{8,17}")
_UNKNOWN = {
    "vpc": "InvalidVpcID.NotFound",
    "subnet": "InvalidSubnetID.NotFound",
    "igw": "InvalidInternetGatewayID.NotFound",
    "rtb": "InvalidRouteTableID.NotFound",
    "sg": "InvalidGroup.NotFound",
    "eipalloc": "InvalidAllocationID.NotFound",
    "nat": "NatGatewayNotFound",
    "pcx": "InvalidVpcPeeringConnectionID.NotFound",
}
_STORES = {
    "vpc": "_vpcs",
    "subnet": "_subnets",
    "igw": "_internet_gateways",
    "rtb": "_route_tables",
    "sg": "_security_groups",
    "eipalloc": "_addresses",
    "nat": "_nat_gateways",
    "pcx": "_vpc_peering",
}
_LAX = {"ec2:DeleteTags"}


def install() -> None:
    """Check requests before ministack's handlers see them."""
    demand(ec2, "_network_interfaces", "_tags", "_rules_match", "_parse_ip_permissions", *_STORES.values())
    replace_item(application.SERVICE_HANDLERS, "ec2", _checked)


def refuse(code: str, message: str, status: int = 400) -> Answer:
    """Return an error of EC2."""
    return error("ec2:", code, message, status)


def _checked(handler: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    async def checked(method: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
        ec2._ensure_defaults_initialized()
        action, params = request_action.get(), request_params.get()
        refusal = _missing(action, params)
        if refusal is None and str(params.get("DryRun", "")).lower() == "true":
            refusal = refuse("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        check = _CHECKS.get(action.partition(":")[2])
        if refusal is None and check is not None:
            refusal = check(params)
        if refusal is not None:
            return refusal
        public = f"<publicIp>{address.get('PublicIp')}</publicIp>"

    known = f"<item><allocationId>{nat['AllocationId']}</allocationId>{public}</item>"
    return (
        f"<natGatewayId>{nat['NatGatewayId']}</natGatewayId><subnetId>{nat['SubnetId']}</subnetId>"
        f"<vpcId>{nat['VpcId']}</vpcId><state>{_nat_state(nat)}</state><createTime>{nat['CreateTime']}</createTime>"
        f"<connectivityType>{nat['ConnectivityType']}</connectivityType>"
        f"<natGatewayAddressSet>{known if address else ''}</natGatewayAddressSet>{ec2._tag_set_xml(nat['NatGatewayId'])}"
    )


def _describe_nats(params: Mapping[str, Any]) -> Answer:
    listed = {name: [value] for name, value in params.items()}
    ids, filters = ec2._parse_member_list(listed, "NatGatewayId"), ec2._parse_filters(listed)
    fields = {"vpc-id": "VpcId", "subnet-id": "SubnetId", "nat-gateway-id": "NatGatewayId"}
    items = ""
    for nat in ec2._nat_gateways.values():
        facts = {name: nat[field] for name, field in fields.items()} | {"state": _nat_state(nat)}
        if ids and nat["NatGatewayId"] not in ids:
            continue
        if not ec2._resource_matches_tag_filters(nat["NatGatewayId"], filters):
            continue
        if all(facts[name] in values for name, values in filters.items() if name in facts):
            items += f"<item>{_nat_xml(nat)}</item>"
    answer: Answer = ec2._xml(200, "DescribeNatGatewaysResponse", f"<natGatewaySet>{items}</natGatewaySet>")
    return answer


def _create_nat(params: Mapping[str, Any]) -> Answer | None:
    used = {nat["AllocationId"] for nat in ec2._nat_gateways.values() if _nat_state(nat) != "deleted"}
    if params.get("AllocationId") in used:
        return refuse("Resource.AlreadyAssociated", f"resource {params['AllocationId']} is already associated")
    return None


def _delete_nat(params: Mapping[str, Any]) -> Answer | None:
    nat = ec2._nat_gateways[params["NatGatewayId"]]
    if nat["State"] != "deleted":
        nat["State"] = "deleting"
        control.born[f"{nat['NatGatewayId']}/deleting"] = control.now()
    body = f"<natGatewayId>{nat['NatGatewayId']}</natGatewayId>"
    answer: Answer = ec2._xml(200, "DeleteNatGatewayResponse", body)
    return answer


def _release(params: Mapping[str, Any]) -> Answer | None:
    for nat in ec2._nat_gateways.values():
        if nat["AllocationId"] == params.get("AllocationId") and _nat_state(nat) != "deleted":
            return refuse("InvalidIPAddress.InUse", f"The address '{params['AllocationId']}' is in use.")
    return None


_CHECKS: dict[str, Callable[[Mapping[str, Any]], Answer | None]] = {
    "AssociateRouteTable": _associate_table,
    "AttachInternetGateway": _attach_gateway,
    "AuthorizeSecurityGroupIngress": _authorize,
    "CreateNatGateway": _create_nat,
    "CreateRoute": _create_route,
    "CreateSubnet": _create_subnet,
    "CreateVpc": _create_vpc,
    "DeleteInternetGateway": _delete_gateway,
    "DeleteNatGateway": _delete_nat,
    "DeleteRouteTable": _delete_table,
    "DeleteSecurityGroup": _delete_group,
    "DeleteSubnet": _delete_subnet,
    "DeleteVpc": _delete_vpc,
    "DescribeNatGateways": _describe_nats,
    "DetachInternetGateway": _detach_gateway,
    "ReleaseAddress": _release,
}
