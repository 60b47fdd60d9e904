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
        asked = (action, str(params.get("ClientToken", "")))
        if asked in control.answered:  # "Ensuring idempotency in Amazon EC2 API requests"
            answered: Answer = control.answered[asked]
            return answered
        refusal = _missing(action, params)
        if refusal is None and str(params.get("DryRun", "")).lower() == "true":
            refusal = refuse("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)
        check = _CHECKS.get(action.partition(":")[2])
        if refusal is None and check is not None:
            refusal = check(params)
        if refusal is not None:
            return refusal
        known = {store: set(getattr(ec2, store)) for store in _STORES.values()}
        answer = await handler(method, path, headers, body, query)
        for store, before in known.items():
            for new in set(getattr(ec2, store)) - before:
                control.born[new] = control.now()
        if asked[1] and answer[0] == 200:
            control.answered[asked] = answer
        return answer

    return checked


def _references(params: Mapping[str, Any]) -> Iterator[str]:
    for name, value in params.items():
        if isinstance(value, str) and not name.startswith(("Filter.", "TagSpecification.", "Tag.")):
            yield from _IDENTIFIER.findall(value)


def _missing(action: str, params: Mapping[str, Any]) -> Answer | None:
    """Refuse what names something that does not exist, or not visibly yet (API eventual consistency of EC2)."""
    if action in _LAX:
        return None
    for name in _references(params):
        kind = name.partition("-")[0]
        foreign = action == "ec2:CreateVpcPeeringConnection" and name == params.get("PeerVpcId")
        exists = foreign or name in getattr(ec2, _STORES[kind])
        if not exists or not control.visible(name, "network_visible_after"):
            return refuse(_UNKNOWN[kind], f"The {kind} ID '{name}' does not exist")
    return None


def _in_use(name: str, kind: str) -> bool:
    """Tell whether a living network interface or NAT gateway is in a subnet, or a group is on an interface."""
    if kind == "sg":
        interfaces = ec2._network_interfaces.values()
        return any(name in {group["GroupId"] for group in interface["Groups"]} for interface in interfaces)
    taken = {interface["SubnetId"] for interface in ec2._network_interfaces.values()}
    return name in taken | {nat["SubnetId"] for nat in ec2._nat_gateways.values() if _nat_state(nat) != "deleted"}


def _create_vpc(params: Mapping[str, Any]) -> Answer | None:
    prefix = ipaddress.ip_network(params["CidrBlock"]).prefixlen
    if not 16 <= prefix <= 28:
        return refuse("InvalidVpc.Range", f"The CIDR '{params['CidrBlock']}' is invalid.")
    if len(ec2._vpcs) >= control.settings["vpc_quota"]:
        return refuse("VpcLimitExceeded", "The maximum number of VPCs has been reached.")
    return None


def _create_subnet(params: Mapping[str, Any]) -> Answer | None:
    wanted = ipaddress.ip_network(params["CidrBlock"])
    vpc = ec2._vpcs[params["VpcId"]]
    if not wanted.subnet_of(ipaddress.ip_network(vpc["CidrBlock"])):  # type: ignore[arg-type] # both are version 4
        return refuse("InvalidSubnet.Range", f"The CIDR '{wanted}' is invalid.")
    for subnet in ec2._subnets.values():
        if subnet["VpcId"] == params["VpcId"] and wanted.overlaps(ipaddress.ip_network(subnet["CidrBlock"])):
            return refuse("InvalidSubnet.Conflict", f"The CIDR '{wanted}' conflicts with another subnet")
    return None


def _delete_subnet(params: Mapping[str, Any]) -> Answer | None:
    name = params["SubnetId"]
    if _in_use(name, "subnet"):
        return refuse("DependencyViolation", f"The subnet '{name}' has dependencies and cannot be deleted.")
    for table in ec2._route_tables.values():
        table["Associations"] = [a for a in table["Associations"] if a.get("SubnetId") != name]
    return None


def _delete_group(params: Mapping[str, Any]) -> Answer | None:
    name = params.get("GroupId", "")
    if _in_use(name, "sg"):
        return refuse("DependencyViolation", f"resource {name} has a dependent object")
    return None


def _public_addresses(vpc: str) -> bool:
    nats = any(n["VpcId"] == vpc and _nat_state(n) != "deleted" for n in ec2._nat_gateways.values())
    return nats or any(i["VpcId"] == vpc and i.get("PublicIp") for i in ec2._network_interfaces.values())


def _detach_gateway(params: Mapping[str, Any]) -> Answer | None:
    vpc = params["VpcId"]
    if vpc not in {a["VpcId"] for a in ec2._internet_gateways[params["InternetGatewayId"]]["Attachments"]}:
        return refuse("Gateway.NotAttached", f"resource {params['InternetGatewayId']} is not attached to network {vpc}")
    if _public_addresses(vpc):
        return refuse("DependencyViolation", f"Network {vpc} has some mapped public address(es).")
    return None


def _attach_gateway(params: Mapping[str, Any]) -> Answer | None:
    gateway = ec2._internet_gateways[params["InternetGatewayId"]]
    if gateway["Attachments"]:
        return None  # ministack refuses it
    for other in ec2._internet_gateways.values():
        if params["VpcId"] in {a["VpcId"] for a in other["Attachments"]}:
            return refuse(
                "InvalidParameterValue", f"Network {params['VpcId']} already has an internet gateway attached"
            )
    return None


def _delete_gateway(params: Mapping[str, Any]) -> Answer | None:
    name = params["InternetGatewayId"]
    if ec2._internet_gateways[name]["Attachments"]:
        return refuse("DependencyViolation", f"The internetGateway '{name}' has dependencies and cannot be deleted.")
    return None


def _delete_table(params: Mapping[str, Any]) -> Answer | None:
    name = params["RouteTableId"]
    if ec2._route_tables[name]["Associations"]:
        return refuse("DependencyViolation", f"The routeTable '{name}' has dependencies and cannot be deleted.")
    return None


def _delete_vpc(params: Mapping[str, Any]) -> Answer | None:
    name = params["VpcId"]
    tables = [table for table in ec2._route_tables.values() if table["VpcId"] == name]
    if any(not any(a.get("Main") for a in table["Associations"]) for table in tables):
        return refuse("DependencyViolation", f"The vpc '{name}' has dependencies and cannot be deleted.")
    return None


def _associate_table(params: Mapping[str, Any]) -> Answer | None:
    subnet = params.get("SubnetId")
    for table in ec2._route_tables.values():
        if subnet in {a.get("SubnetId") for a in table["Associations"]}:
            return refuse("Resource.AlreadyAssociated", f"the specified association for subnet {subnet} already exists")
    return None


def _create_route(params: Mapping[str, Any]) -> Answer | None:
    table = ec2._route_tables[params["RouteTableId"]]
    if params["DestinationCidrBlock"] in {route.get("DestinationCidrBlock") for route in table["Routes"]}:
        what = f"The route identified by {params['DestinationCidrBlock']} already exists."
        return refuse("RouteAlreadyExists", what)
    nat = params.get("NatGatewayId")
    if nat and _nat_state(ec2._nat_gateways[nat]) != "available":
        return refuse("InvalidNatGatewayID.NotFound", f"The natGateway ID '{nat}' does not exist")
    gateway = ec2._internet_gateways.get(params.get("GatewayId"))
    if gateway and table["VpcId"] not in {a["VpcId"] for a in gateway["Attachments"]}:
        return refuse("InvalidParameterValue", "route table and network gateway belong to different networks")
    return None


def _authorize(params: Mapping[str, Any]) -> Answer | None:
    group = ec2._security_groups[params["GroupId"]]
    listed = {name: [value] for name, value in params.items()}
    wanted = ec2._parse_ip_permissions(listed, "IpPermissions")
    if any(ec2._rules_match(rule, old) for rule in wanted for old in _plain(group["IpPermissions"])):
        return refuse("InvalidPermission.Duplicate", "the specified rule already exists")
    return None


def _plain(rules: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in rule.items() if name != "SecurityGroupRuleId"} for rule in rules]


def _nat_state(nat: dict[str, Any]) -> str:
    """Move a NAT gateway on with time, and return its state."""
    if nat["State"] == "deleting" and control.visible(f"{nat['NatGatewayId']}/deleting", "nat_available_after"):
        nat["State"] = "deleted"
    pending = nat["State"] == "available" and not control.visible(nat["NatGatewayId"], "nat_available_after")
    return "pending" if pending else str(nat["State"])


def _nat_xml(nat: dict[str, Any]) -> str:
    address = ec2._addresses.get(nat["AllocationId"], {})
    public = f"<publicIp>{address.get('PublicIp')}</publicIp>"
    known = f"<item><allocationId>{nat['AllocationId']}</allocationId>{public}</item>"
    return (
        f"<natGatewayId>{nat['NatGatewayId']}</natGatewayId><subnetId>{nat['SubnetId']}</subnetId>"
        f"<vpcId>{nat['VpcId']}</vpcId><state>{_nat_state(nat)}</state><createTime>{nat['CreateTime']}</createTime>"
        f"<connectivityType>{nat['ConnectivityType']}</connectivityType>"
        f"<natGatewayAddressSet>{known if address else ''}</natGatewayAddressSet>"
        f"{ec2._tag_set_xml(nat['NatGatewayId'])}"
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
