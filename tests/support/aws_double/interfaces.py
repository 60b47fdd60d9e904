"""Network interfaces of tasks: attached by Fargate, found by DescribeNetworkInterfaces, gone with the task."""

from __future__ import annotations

import itertools
import re
import secrets
import threading
from collections.abc import Callable, Mapping
from typing import Any

from ministack.core.responses import get_account_id
from ministack.services import ec2

from tests.support.aws_double.gate import Answer, error
from tests.support.aws_double.patching import demand, replace, replace_item

_numbers = itertools.count(2)
changing = threading.RLock()
"""Held while a task gets or loses its interface. Requests are answered in threads: two of them could give it one each,
of which the first would stay for ever, or one after it has ended."""


def install() -> None:
    """Show public addresses, and filter as AWS does."""
    demand(ec2, "_network_interfaces", "_parse_filters", "_parse_member_list", "_xml")
    replace(ec2, "_eni_fields_xml", _with_public_address)
    replace_item(ec2._ACTION_MAP, "DescribeNetworkInterfaces", lambda _: _describe)


def attach(record: dict[str, Any], address: str | None = None) -> None:
    """Give a task its interface. *address*: of its container; without one, loopback addresses nobody else has.

    Addresses of loopback keep packets to a task that is none on this machine.
    """
    network = record.get("_network") or {}
    subnet = network.get("subnets", [""])[0]
    ec2._ensure_defaults_initialized()
    place = ec2._subnets.get(subnet, {})
    number = next(_numbers)
    private = address or f"127.78.{number // 250 % 250}.{number % 250 + 1}"
    public = address or f"127.77.{number // 250 % 250}.{number % 250 + 1}"
    name = f"eni-{secrets.token_hex(8)}f"
    ec2._network_interfaces[name] = {
        "NetworkInterfaceId": name,
        "SubnetId": subnet,
        "VpcId": place.get("VpcId", ""),
        "AvailabilityZone": place.get("AvailabilityZone", ""),
        "Description": f"arn:aws:ecs:{record['taskArn'].rpartition('/')[2]}",
        "OwnerId": get_account_id(),
        "Status": "in-use",
        "PrivateIpAddress": private,
        "PublicIp": public if network.get("assignPublicIp") == "ENABLED" else None,
        "InterfaceType": "interface",
        "MacAddress": "0a:00:00:00:00:01",
        "Groups": [{"GroupId": group, "GroupName": group} for group in network.get("securityGroups", [])],
        "Attachment": None,
    }
    record["_interface"] = name
    record["attachments"] = [_attachment(record, name, subnet, private)]
    for container in record["containers"]:
        container["networkInterfaces"] = [{"attachmentId": name, "privateIpv4Address": private}]


def _attachment(record: Mapping[str, Any], name: str, subnet: str, private: str) -> dict[str, Any]:
    facts = {"subnetId": subnet, "networkInterfaceId": name, "macAddress": "0a:00:00:00:00:01"}
    facts["privateIPv4Address"] = private
    return {
        "id": record["taskArn"].rpartition("/")[2],
        "type": "ElasticNetworkInterface",
        "status": "ATTACHED",
        "details": [{"name": key, "value": value} for key, value in facts.items()],
    }


def detach(record: dict[str, Any]) -> None:
    """Remove the interface of a task that ended."""
    name = record.pop("_interface", None)
    if name is not None:
        ec2._network_interfaces.pop(name, None)
    for attachment in record.get("attachments", []):
        attachment["status"] = "DELETED"


def _with_public_address(fields: Callable[..., str]) -> Callable[..., str]:
    def shown(interface: Mapping[str, Any], tag: str = "item") -> str:
        text = fields(interface, tag)
        public = interface.get("PublicIp")
        if not public:
            return text
        association = f"<association><publicIp>{public}</publicIp><ipOwnerId>amazon</ipOwnerId></association>"
        return re.sub(r"(<networkInterfaceId>)", association + r"\1", text, count=1)

    return shown


def _describe(params: dict[str, Any]) -> Answer:
    names, filters = ec2._parse_member_list(params, "NetworkInterfaceId"), ec2._parse_filters(params)
    for name in names:
        if name not in ec2._network_interfaces:
            message = f"The networkInterface ID '{name}' does not exist"
            return error("ec2:", "InvalidNetworkInterfaceID.NotFound", message, 400)
    items = ""
    for name, interface in ec2._network_interfaces.items():
        if (not names or name in names) and _matches(interface, filters):
            items += ec2._eni_fields_xml(interface)
    answer: Answer = ec2._xml(
        200, "DescribeNetworkInterfacesResponse", f"<networkInterfaceSet>{items}</networkInterfaceSet>"
    )
    return answer


def _matches(interface: Mapping[str, Any], filters: Mapping[str, list[str]]) -> bool:
    facts = {
        "network-interface-id": {interface["NetworkInterfaceId"]},
        "subnet-id": {interface["SubnetId"]},
        "vpc-id": {interface["VpcId"]},
        "group-id": {group["GroupId"] for group in interface["Groups"]},
        "status": {interface["Status"]},
        "addresses.private-ip-address": {interface["PrivateIpAddress"]},
    }
    return all(name not in facts or facts[name] & set(values) for name, values in filters.items())
