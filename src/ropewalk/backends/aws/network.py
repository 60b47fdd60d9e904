"""The network that Ropewalk makes: a VPC with two public subnets in different zones, and the way to the internet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.blocks import block, subnet_blocks
from ropewalk.backends.aws.ec2 import described
from ropewalk.backends.aws.gateway import internet_gateway
from ropewalk.backends.aws.removal import remove_extra
from ropewalk.backends.aws.routes import associate, route, table
from ropewalk.backends.aws.together import together
from ropewalk.backends.aws.work import Work
from ropewalk.backends.aws.zones import pick, zones
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["EVERYWHERE", "public_network", "subnets", "vpc"]

EVERYWHERE = "0.0.0.0/0"


async def vpc(work: Work) -> str:
    """Return the id of the VPC, made unless it exists. Of several, which only lost answers leave, one is kept."""
    found = work.stored_first("vpc", await work.ours("vpc"))
    item = found[0] if found else await work.make("vpc", CidrBlock=work.settings.vpc_cidr)
    wanted = block(work.settings.vpc_cidr, "vpc_cidr")
    if block(item["CidrBlock"], "vpc_cidr") != wanted:
        raise FixItError(
            f"The VPC {item['VpcId']} has the addresses {item['CidrBlock']}, and AWS cannot change them to {wanted}.",
            advice=f"Set `vpc_cidr` back to {item['CidrBlock']}, or tear the cloud account down first.",
            field="vpc_cidr",
        )
    await work.has("vpc", item["VpcId"], cidr=str(wanted))
    await remove_extra(work, "vpc", found[1:])
    return str(item["VpcId"])


async def _available(work: Work, vpc_id: str) -> None:
    """Wait until the VPC is there for everybody, and let nodes have names: both settings that DNS in it needs."""

    async def look() -> bool | None:
        found = await described(work.aws, "vpc", "vpc-id", [vpc_id])
        return any(item["VpcId"] == vpc_id and item["State"] == "available" for item in found) or None

    if not await work.patience.until(look, within=120.0):
        raise TryAgainError(f"The VPC {vpc_id} is not available after two minutes.", delay=30.0)
    for attribute in ("EnableDnsSupport", "EnableDnsHostnames"):  # one call changes one attribute
        await work.settled("ModifyVpcAttribute", VpcId=vpc_id, **{attribute: {"Value": True}})


async def public_network(work: Work, vpc_id: str) -> dict[str, str]:
    """Complete the public part of the VPC; return its subnets by part."""
    made: dict[str, str] = {}
    found: dict[str, Any] = {}

    async def make_subnets() -> None:
        made.update(await subnets(work, vpc_id, ("public-a", "public-b")))

    async def make_gateway() -> None:
        found["gateway"] = await internet_gateway(work, vpc_id)

    async def make_table() -> None:
        found["table"] = await table(work, vpc_id, "public")

    await _available(work, vpc_id)
    await together(make_subnets(), make_gateway(), make_table())
    await route(work, found["table"], EVERYWHERE, GatewayId=found["gateway"])
    await associate(work, found["table"], list(made.values()))
    return made


async def subnets(work: Work, vpc_id: str, parts: Sequence[str]) -> dict[str, str]:
    """Return ids of the subnets by part, made unless they exist."""
    blocks = subnet_blocks(work.settings.vpc_cidr)
    there = [item for item in await work.ours("subnet") if item["VpcId"] == vpc_id]
    by_part = {part: item for part, quarter in blocks.items() for item in there if item["CidrBlock"] == quarter}
    missing = [part for part in parts if part not in by_part]
    if missing:
        taken = {part: str(item["AvailabilityZone"]) for part, item in by_part.items()}
        chosen = pick(await zones(work.aws), taken, missing, work.aws.region)
    for part in missing:
        by_part[part] = await work.make(
            "subnet", part, VpcId=vpc_id, CidrBlock=blocks[part], AvailabilityZone=chosen[part]
        )
        await _tell(work, part, by_part[part])
    for part in parts:
        if part not in missing:
            await _tell(work, part, by_part[part])
        if part.startswith("public") and not by_part[part].get("MapPublicIpOnLaunch"):
            await _map_public(work, by_part[part]["SubnetId"])
    return {part: str(by_part[part]["SubnetId"]) for part in parts}


async def _tell(work: Work, part: str, item: Mapping[str, Any]) -> None:
    await work.has(
        "subnet", item["SubnetId"], zone=item["AvailabilityZone"], public=part.startswith("public"), part=part
    )


async def _map_public(work: Work, subnet_id: str) -> None:
    """Let it be seen that the subnet is public. Fargate asks for public addresses itself."""
    await work.settled("ModifySubnetAttribute", SubnetId=subnet_id, MapPublicIpOnLaunch={"Value": True})
