"""Private subnets, and the NAT gateway through which nodes in them reach the internet. It costs money all day."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.costs import address_monthly_cost, gateway_monthly_cost
from ropewalk.backends.aws.ec2 import part_of
from ropewalk.backends.aws.interfaces import interfaces
from ropewalk.backends.aws.network import EVERYWHERE, subnets
from ropewalk.backends.aws.removal import remove, remove_extra
from ropewalk.backends.aws.routes import associate, route, table
from ropewalk.backends.aws.together import together
from ropewalk.backends.aws.work import Work, denied
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["private_network", "remove_private_network"]

_PENDING_WITHIN = 600.0  # seconds; a NAT gateway is usually available after one or two minutes


async def private_network(work: Work, vpc_id: str, public_subnet_id: str) -> None:
    """Complete the private part of the VPC, once the public one is complete."""
    made: dict[str, str] = {}
    found: dict[str, str] = {}

    async def make_subnets() -> None:
        made.update(await subnets(work, vpc_id, ("private-a", "private-b")))

    async def make_table() -> None:
        found["table"] = await table(work, vpc_id, "private")

    async def make_gateway() -> None:
        found["gateway"] = await _gateway(work, vpc_id, public_subnet_id)
        await _available(work, found["gateway"])

    await together(make_subnets(), make_table(), make_gateway())
    await route(work, found["table"], EVERYWHERE, NatGatewayId=found["gateway"])
    await associate(work, found["table"], list(made.values()))


async def _gateway(work: Work, vpc_id: str, subnet_id: str) -> str:
    live = [item for item in await work.ours("nat_gateway") if item["VpcId"] == vpc_id and item["State"] != "deleting"]
    found = work.stored_first("nat_gateway", live)
    if found:
        await _known_address(work, found)
        id_ = str(found[0]["NatGatewayId"])
    else:
        id_ = await _make(work, subnet_id)
    await work.has("nat_gateway", id_, monthly_cost=gateway_monthly_cost(work.aws.region))
    await remove_extra(work, "nat_gateway", found[1:])
    return id_


async def _known_address(work: Work, gateways: Sequence[dict[str, Any]]) -> None:
    """Tell of the addresses that are there, and release those that no gateway uses."""
    used = {
        str(address["AllocationId"])
        for gateway in gateways
        for address in gateway.get("NatGatewayAddresses") or ()
        if address.get("AllocationId")
    }
    found = await _addresses(work, sorted(used))
    spare = [item for item in found if used and item["AllocationId"] not in used]
    for item in found:
        if item not in spare:
            await _tell_address(work, item["AllocationId"])
    await remove_extra(work, "elastic_ip", spare)


async def _addresses(work: Work, used: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return our addresses; a key that may not see addresses knows those that gateways use, and the stored ones."""
    try:
        return await work.ours("elastic_ip")
    except FixItError as error:
        if not denied(error):
            raise
        return [{"AllocationId": id_} for id_ in used or work.known_ids("elastic_ip")]


async def _tell_address(work: Work, id_: str) -> None:
    await work.has("elastic_ip", id_, monthly_cost=address_monthly_cost())


async def _make(work: Work, subnet_id: str) -> str:
    for _ in range(2):  # the address that is stored may have been released by hand
        address = await _address(work)
        try:
            made = await work.make("nat_gateway", SubnetId=subnet_id, AllocationId=address)
        except FixItError as error:
            if aws_code(error) != "InvalidAllocationID.NotFound":
                raise
            await work.forget("elastic_ip", address)
        else:
            return str(made["NatGatewayId"])
    raise TryAgainError("AWS does not know the elastic IP address that it has just given out.", delay=10.0)


async def _address(work: Work) -> str:
    """Return an address of ours for a new gateway, allocated unless there is one."""
    found = work.stored_first("elastic_ip", await _addresses(work))
    item = found[0] if found else await work.make("elastic_ip", Domain="vpc")
    await _tell_address(work, item["AllocationId"])
    await remove_extra(work, "elastic_ip", found[1:])
    return str(item["AllocationId"])


async def _available(work: Work, id_: str) -> None:
    async def look() -> dict[str, Any] | None:
        answer = await work.settled("DescribeNatGateways", NatGatewayIds=[id_])
        item: dict[str, Any] = next(iter(answer.get("NatGateways") or ()), {})
        return item if item.get("State") not in {None, "pending"} else None

    item = await work.patience.until(look, _PENDING_WITHIN)
    if item is None:
        raise TryAgainError(f"The NAT gateway {id_} is still pending after ten minutes.", delay=60.0)
    if item["State"] != "available":
        why = f"{item.get('FailureCode', '')} {item.get('FailureMessage', '')}".strip() or "AWS does not say why"
        raise TryAgainError(f"The NAT gateway {id_} is {item['State']}: {why}. Another one is made.", delay=30.0)


async def remove_private_network(work: Work) -> None:
    """Remove what private subnets needed, since they are not asked for any more and cost money."""
    gateways = await _gateways(work)
    addresses = [resource.id for resource in work.known("elastic_ip")]
    private = [item["SubnetId"] for item in await work.ours("subnet") if part_of(item).startswith("private")]
    if not (gateways or addresses or private):
        return
    if used := await interfaces(work, "subnet-id", private):
        await _keep(
            work, gateways, f"Not needed any more, but {len(used)} nodes still use it. Run prepare again later."
        )
        return
    tables = [item["RouteTableId"] for item in await work.ours("route_table") if part_of(item) == "private"]
    try:
        for kind, ids in (
            ("nat_gateway", gateways),
            ("elastic_ip", addresses),
            ("route_table", tables),
            ("subnet", private),
        ):
            await together(*(remove(work, kind, id_) for id_ in ids))
    except FixItError as error:
        if not denied(error):
            raise
        await _keep(work, gateways, f"Not needed any more, but it costs money until it is removed. {error}")


async def _gateways(work: Work) -> list[str]:
    """Return our gateways; none for a key that may not see them, because it never made any."""
    try:
        return [str(item["NatGatewayId"]) for item in await work.ours("nat_gateway")]
    except FixItError as error:
        if not denied(error) or work.known("nat_gateway"):
            raise
        return []


async def _keep(work: Work, gateways: Sequence[str], note: str) -> None:
    for id_ in gateways:
        await work.has("nat_gateway", id_, monthly_cost=gateway_monthly_cost(work.aws.region), note=note)
