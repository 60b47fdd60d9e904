"""The internet gateway. Found also by keys that may not describe gateways: through routes, and by attaching it."""

from __future__ import annotations

from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.ec2 import described, specification
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.removal import remove_extra
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import FixItError

__all__ = ["internet_gateway"]


async def internet_gateway(work: Work, vpc_id: str) -> str:
    """Return the id of the gateway that is attached to the VPC, made and attached unless it is."""
    try:
        found = await work.ours("internet_gateway")
    except FixItError as error:
        if not denied(error):
            raise
        return await _in_the_dark(work, vpc_id)
    here = [item for item in found if _attached_to(item) in {vpc_id, None}]
    here.sort(key=lambda item: _attached_to(item) is None)  # stable: stored ones first among equals
    item = here[0] if here else await work.make("internet_gateway")
    id_ = str(item["InternetGatewayId"])
    await work.has("internet_gateway", id_)
    if _attached_to(item) is None:
        await _attach(work, id_, vpc_id)
    await remove_extra(work, "internet_gateway", [other for other in here[1:] if _attached_to(other) is None])
    return id_


def _attached_to(item: dict[str, Any]) -> str | None:
    attachments = item.get("Attachments") or ()
    return next((str(attachment["VpcId"]) for attachment in attachments), None)


async def _attach(work: Work, id_: str, vpc_id: str) -> None:
    try:
        await work.settled("AttachInternetGateway", InternetGatewayId=id_, VpcId=vpc_id)
    except FixItError as error:
        if aws_code(error) != "Resource.AlreadyAssociated":
            raise


async def _in_the_dark(work: Work, vpc_id: str) -> str:
    """As :func:`internet_gateway`, with a key that may not describe gateways, as the policy of the old page has it."""
    for id_ in [*work.known_ids("internet_gateway"), *await _routed(work, vpc_id)]:
        try:
            await _attach(work, id_, vpc_id)
        except FixItError as error:
            if not not_there(error):
                raise
            await work.forget("internet_gateway", id_)
        else:
            await work.has("internet_gateway", id_)
            return id_
    made = await work.ec2("CreateInternetGateway", TagSpecifications=specification(work.place, "internet_gateway"))
    id_ = str(made["InternetGateway"]["InternetGatewayId"])
    await work.has("internet_gateway", id_)
    await _attach(work, id_, vpc_id)
    return id_


async def _routed(work: Work, vpc_id: str) -> list[str]:
    """Return the gateways that routes of the VPC lead to, and still exist."""
    tables = await described(work.aws, "route_table", "vpc-id", [vpc_id])
    routes = [route for table in tables if table["VpcId"] == vpc_id for route in table.get("Routes") or ()]
    live = [str(route.get("GatewayId")) for route in routes if route.get("State") != "blackhole"]
    return [id_ for id_ in dict.fromkeys(live) if id_.startswith("igw-")]
