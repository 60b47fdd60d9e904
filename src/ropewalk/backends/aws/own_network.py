"""A network of the team's own: whether clusters can run in it. Nothing of it is ever changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.blocks import block, ingress
from ropewalk.backends.aws.ec2 import Item, described
from ropewalk.backends.aws.firewall import covers
from ropewalk.backends.aws.network import EVERYWHERE
from ropewalk.backends.aws.routes import route_to
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import SCHEDULER_PORT, Resource
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["brings_network", "own_network", "own_security_group"]

_FEW = 20  # free addresses of a subnet below which it is worth a word: each node takes one

# What tasks reach without a way to the internet: "Amazon ECR interface VPC endpoints" (ECS with Fargate, platform 1.4).
_ENDPOINTS = ("ecr.api", "ecr.dkr", "logs", "s3")


def brings_network(settings: AwsSettings) -> bool:
    """Whether clusters run in the team's own network."""
    return bool(settings.vpc_id or settings.subnet_ids)


async def own_network(work: Work) -> list[Resource]:
    """Return the VPC and subnets of the settings; raise FixItError if clusters cannot run in them."""
    settings = work.settings
    if not settings.subnet_ids:
        raise FixItError(
            f"Ropewalk makes no subnets in your own VPC {settings.vpc_id}.",
            advice="Name two or more of its subnets, in different zones, or leave `vpc_id` out.",
            field="subnet_ids",
        )
    if settings.peering:
        raise FixItError(
            "Ropewalk does not peer your own VPC with others, since it would have to change its routes.",
            advice="Make the peering yourself, and leave `peering` out.",
            field="peering",
        )
    found = await _subnets(work)
    vpc_id = _one_vpc(settings, found)
    _two_zones(found)
    await _resolves(work, vpc_id)
    public = await _routed(work, vpc_id, found)
    vpc = Resource("vpc", vpc_id, {"owned": False})
    return [vpc, *(_subnet(item, public=public) for item in found)]


async def _subnets(work: Work) -> list[Item]:
    wanted = list(dict.fromkeys(work.settings.subnet_ids))
    found = {item["SubnetId"]: item for item in await described(work.aws, "subnet", "subnet-id", wanted)}
    if missing := [id_ for id_ in wanted if id_ not in found]:
        raise FixItError(
            f"There are no subnets {', '.join(missing)} in the region {work.aws.region} of this AWS account.",
            advice="Correct the ids, or the region.",
            field="subnet_ids",
        )
    return [found[id_] for id_ in wanted]


def _one_vpc(settings: AwsSettings, found: Sequence[Item]) -> str:
    vpcs = sorted({str(item["VpcId"]) for item in found})
    if len(vpcs) > 1:
        raise FixItError(
            f"The subnets are in several VPCs: {', '.join(vpcs)}.",
            advice="Name subnets of one VPC.",
            field="subnet_ids",
        )
    if settings.vpc_id and vpcs != [settings.vpc_id]:
        raise FixItError(
            f"The subnets are in {vpcs[0]}, and not in {settings.vpc_id}.",
            advice="Correct `subnet_ids` or `vpc_id`.",
            field="subnet_ids",
        )
    return vpcs[0]


def _two_zones(found: Sequence[Item]) -> None:
    zones = sorted({str(item["AvailabilityZone"]) for item in found})
    if len(zones) < 2:
        raise FixItError(
            f"All subnets are in the zone {zones[0]}, so one failure or shortage there would stop everything.",
            advice="Name subnets in two zones at least.",
            field="subnet_ids",
        )


async def _resolves(work: Work, vpc_id: str) -> None:
    """Refuse a VPC without name resolution: its tasks find no registry. A key that may not see that is believed."""
    try:
        answer = await work.ec2("DescribeVpcAttribute", VpcId=vpc_id, Attribute="enableDnsSupport")
    except FixItError as error:
        if denied(error):
            return
        raise
    if not answer["EnableDnsSupport"]["Value"]:
        raise FixItError(
            f"Names are not resolved in the VPC {vpc_id}, so tasks cannot find the registry of their image.",
            advice=f'Run `aws ec2 modify-vpc-attribute --vpc-id {vpc_id} --enable-dns-support "{{\\"Value\\":true}}"`.',
            field="vpc_id",
        )


async def _routed(work: Work, vpc_id: str, found: Sequence[Item]) -> bool:
    """Return whether the subnets are public; refuse subnets without a way out, or of both sorts."""
    tables = [item for item in await described(work.aws, "route_table", "vpc-id", [vpc_id]) if item["VpcId"] == vpc_id]
    ways = {str(item["SubnetId"]): _way_out(tables, str(item["SubnetId"])) for item in found}
    public = sorted(id_ for id_, way in ways.items() if way.startswith("igw-"))
    private = sorted(id_ for id_ in ways if id_ not in public)
    if public and private:
        raise FixItError(
            f"Some subnets lead to an internet gateway ({', '.join(public)}) and some do not ({', '.join(private)}).",
            advice="Name either public or private subnets: nodes have public addresses in all of them, or in none.",
            field="subnet_ids",
        )
    closed = sorted(id_ for id_, way in ways.items() if not way)
    if closed and (missing := await _missing_endpoints(work, vpc_id)):
        raise FixItError(
            f"The subnets {', '.join(closed)} have no route to the internet, and their VPC has no endpoints for "
            f"{', '.join(missing)}: tasks could neither pull images nor write logs.",
            advice=f"Route {EVERYWHERE} to an internet or NAT gateway, or make these endpoints.",
            field="subnet_ids",
        )
    return bool(public)


def _way_out(tables: Sequence[Item], subnet_id: str) -> str:
    """Return what the default route of a subnet leads to; empty if it has none that works."""
    table = _table(tables, subnet_id)
    way = route_to(table, EVERYWHERE) if table else None
    if way is None or way.get("State") == "blackhole":
        return ""
    targets = [str(value) for name, value in way.items() if name.endswith(("Id", "Arn")) and value]
    return targets[0] if targets else ""


def _table(tables: Sequence[Item], subnet_id: str) -> Item | None:
    """Return the table of a subnet: its own, or else the VPC's main one."""
    uses: list[tuple[Mapping[str, Any], Item]] = [
        (use, item) for item in tables for use in item.get("Associations") or ()
    ]
    own = [item for use, item in uses if use.get("SubnetId") == subnet_id]
    return next(iter([*own, *(item for use, item in uses if use.get("Main"))]), None)


async def _missing_endpoints(work: Work, vpc_id: str) -> list[str]:
    try:
        pages = work.aws.pages(
            "ec2", "DescribeVpcEndpoints", "VpcEndpoints", Filters=[{"Name": "vpc-id", "Values": [vpc_id]}]
        )
        names = [str(item["ServiceName"]) async for item in pages if item.get("VpcId") == vpc_id]
    except FixItError as error:
        if denied(error):
            return list(_ENDPOINTS)
        raise
    return [wanted for wanted in _ENDPOINTS if not any(name.endswith(f".{wanted}") for name in names)]


def _subnet(item: Item, *, public: bool) -> Resource:
    details = {"owned": False, "zone": item["AvailabilityZone"], "public": public}
    free = item.get("AvailableIpAddressCount")
    if isinstance(free, int) and free < _FEW:
        details["note"] = f"It has only {free} free addresses, and each node takes one."
    return Resource("subnet", item["SubnetId"], details)


async def own_security_group(work: Work, vpc_id: str) -> Resource:
    """Return the security group of the settings; raise FixItError if it keeps clients or nodes out."""
    id_ = str(work.settings.security_group_id)
    found = await described(work.aws, "security_group", "group-id", [id_])
    item = next((one for one in found if one["GroupId"] == id_), None)
    if item is None or item["VpcId"] != vpc_id:
        where = f"in {item['VpcId']}, and clusters run in {vpc_id}" if item else f"not in the region {work.aws.region}"
        raise FixItError(
            f"The security group {id_} is {where}.",
            advice="Name a group of the same VPC; for a VPC of your own, name `subnet_ids` as well.",
            field="security_group_id",
        )
    rules = item.get("IpPermissions") or ()
    opened = [rule for rule in rules if covers(rule, SCHEDULER_PORT)]
    if not any(rule.get("IpRanges") or rule.get("Ipv6Ranges") or rule.get("PrefixListIds") for rule in opened):
        raise _shut(
            work, id_, f"lets nobody in at port {SCHEDULER_PORT}, where clients reach schedulers", _open(work, id_)
        )
    if not any(_between(rule, id_) for rule in rules):
        own = f"--protocol all --source-group {id_}"
        raise _shut(work, id_, "does not let nodes reach each other", own)
    if not any(rule.get("IpProtocol") == "-1" or covers(rule, 443) for rule in item.get("IpPermissionsEgress") or ()):
        raise FixItError(
            f"The security group {id_} lets nothing out, so tasks cannot pull images.",
            advice="Allow outgoing traffic, to port 443 and within the group at least.",
            field="security_group_id",
        )
    return Resource("security_group", id_, {"owned": False} | _left_out(work, opened))


def _between(rule: Mapping[str, Any], id_: str) -> bool:
    """Whether a rule lets everything of the same group, or of blocks of addresses, through."""
    every = rule.get("IpProtocol") == "-1"
    wide = every or (
        rule.get("IpProtocol") == "tcp" and rule.get("FromPort", 0) <= 1024 and rule.get("ToPort") == 65535
    )
    return wide and bool(
        rule.get("IpRanges") or any(pair.get("GroupId") == id_ for pair in rule.get("UserIdGroupPairs") or ())
    )


def _open(work: Work, id_: str) -> str:  # noqa: ARG001 - says the same for every group
    sources = ingress(work.settings, work.caller_address) or ["<your addresses>"]
    return f"--protocol tcp --port {SCHEDULER_PORT} --cidr {sources[0]}"


def _shut(work: Work, id_: str, what: str, rule: str) -> FixItError:
    command = f"aws ec2 authorize-security-group-ingress --region {work.aws.region} --group-id {id_} {rule}"
    return FixItError(f"The security group {id_} {what}.", advice=f"Run `{command}`.", field="security_group_id")


def _left_out(work: Work, opened: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Note which of the wanted addresses the group does not let in."""
    blocks = [block(str(one["CidrIp"]), "security_group_id") for rule in opened for one in rule.get("IpRanges") or ()]
    blocks += [
        block(str(one["CidrIpv6"]), "security_group_id") for rule in opened for one in rule.get("Ipv6Ranges") or ()
    ]
    out = []
    for wanted in ingress(work.settings, work.caller_address):
        source = block(wanted, "allow_ingress_from")
        covered = any(source.version == one.version and source.subnet_of(one) for one in blocks)  # type: ignore[arg-type] # of one version
        if not covered:
            out.append(wanted)
    if not out or any(rule.get("PrefixListIds") for rule in opened):
        return {}
    return {"note": f"It does not let {', '.join(out)} in at port {SCHEDULER_PORT}."}
