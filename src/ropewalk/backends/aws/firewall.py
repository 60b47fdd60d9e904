"""The security group: the scheduler's port from chosen addresses, everything between nodes, nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.blocks import ingress
from ropewalk.backends.aws.ec2 import described, is_ours, specification
from ropewalk.backends.aws.removal import see
from ropewalk.backends.aws.tags import resource_name
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import SCHEDULER_PORT
from ropewalk.errors import FixItError, TryAgainError

__all__ = ["covers", "security_group"]

_OPEN = "Ropewalk: clients to schedulers"
_WITHIN = "Ropewalk: between nodes"
_TWICE = "InvalidPermission.Duplicate"


async def security_group(work: Work, vpc_id: str) -> None:
    """Complete the security group in the VPC, and its rules."""
    item = await _find(work, vpc_id)
    id_ = str(item["GroupId"]) if item else await _create(work, vpc_id)
    wanted = ingress(work.settings, work.caller_address)
    await work.has("security_group", id_, vpc_id=vpc_id, allow=wanted, note=None if wanted else _nobody())
    rules = (item or await _seen(work, id_)).get("IpPermissions") or ()
    await _allow_within(work, id_, rules)
    await _allow_from(work, id_, rules, wanted)


def _nobody() -> str:
    return f"Nobody outside may reach schedulers (port {SCHEDULER_PORT}): `allow_ingress_from` is empty."


async def _find(work: Work, vpc_id: str) -> dict[str, Any] | None:
    found = [item for item in await work.ours("security_group") if item["VpcId"] == vpc_id]
    return next(iter(work.stored_first("security_group", found)), None) or await _named(work, vpc_id)


async def _named(work: Work, vpc_id: str) -> dict[str, Any] | None:
    """Return the group with our name; names are unique in a VPC."""
    name = resource_name(work.place)
    found = await described(work.aws, "security_group", "group-name", [name])
    item = next((item for item in found if item["GroupName"] == name and item["VpcId"] == vpc_id), None)
    if item and not is_ours(item, work.place):
        raise FixItError(
            f"The security group {item['GroupId']} is called {name}, but lacks the tags of this cloud account.",
            advice="Rename or remove it, or bring it along (`security_group_id`).",
            details={"id": item["GroupId"]},
        )
    return item


async def _create(work: Work, vpc_id: str) -> str:
    try:
        made = await work.settled(
            "CreateSecurityGroup",
            GroupName=resource_name(work.place),
            Description=f"Dask clusters of Ropewalk, cloud account {work.place.cloud_account}",
            VpcId=vpc_id,
            TagSpecifications=specification(work.place, "security_group"),
        )
        return str(made["GroupId"])
    except (FixItError, TryAgainError) as error:
        if isinstance(error, FixItError) and aws_code(error) != "InvalidGroup.Duplicate":
            raise
        found = await work.patience.until(lambda: _named(work, vpc_id), within=10.0)
        if found is None:
            raise
        return str(found["GroupId"])


async def _seen(work: Work, id_: str) -> dict[str, Any]:
    found = await work.patience.until(lambda: see(work, "security_group", id_), within=60.0)
    return found or {}


async def _allow_within(work: Work, id_: str, rules: Sequence[Mapping[str, Any]]) -> None:
    if any(_within(rule, id_) for rule in rules):
        return
    pairs = [{"GroupId": id_, "Description": _WITHIN}]
    await _authorize(work, id_, {"IpProtocol": "-1", "UserIdGroupPairs": pairs})


def _within(rule: Mapping[str, Any], id_: str) -> bool:
    pairs = rule.get("UserIdGroupPairs") or ()
    return rule.get("IpProtocol") == "-1" and any(pair.get("GroupId") == id_ for pair in pairs)


async def _allow_from(work: Work, id_: str, rules: Sequence[Mapping[str, Any]], wanted: Sequence[str]) -> None:
    """Open the port for *wanted*, and close it for what we opened it for before. Rules of other people stay."""
    present = dict(_opened(rules))
    for source in wanted:
        if source not in present:
            await _authorize(work, id_, _rule(source))
    outdated = [source for source, description in present.items() if source not in wanted and description == _OPEN]
    try:
        for source in outdated:
            await work.ec2("RevokeSecurityGroupIngress", GroupId=id_, IpPermissions=[_rule(source, described=False)])
    except FixItError as error:
        if not denied(error):
            raise
        note = f"Port {SCHEDULER_PORT} is still open for {', '.join(outdated)}. {error}"
        facts = work.told("security_group", id_)
        await work.has("security_group", id_, **{**facts, "note": note})


def _opened(rules: Iterable[Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Yield each block for which a rule opens just the scheduler's port, with the rule's description."""
    for rule in rules:
        if (rule.get("FromPort"), rule.get("ToPort"), rule.get("IpProtocol")) == (
            SCHEDULER_PORT,
            SCHEDULER_PORT,
            "tcp",
        ):
            for source in rule.get("IpRanges") or ():
                yield str(source["CidrIp"]), str(source.get("Description") or "")
            for source in rule.get("Ipv6Ranges") or ():
                yield str(source["CidrIpv6"]), str(source.get("Description") or "")


def _rule(source: str, *, described: bool = True) -> dict[str, Any]:
    ranges, name = ("Ipv6Ranges", "CidrIpv6") if ":" in source else ("IpRanges", "CidrIp")
    entry = {name: source} | ({"Description": _OPEN} if described else {})
    return {"IpProtocol": "tcp", "FromPort": SCHEDULER_PORT, "ToPort": SCHEDULER_PORT, ranges: [entry]}


async def _authorize(work: Work, id_: str, rule: dict[str, Any]) -> None:
    try:
        await work.settled("AuthorizeSecurityGroupIngress", GroupId=id_, IpPermissions=[rule])
    except FixItError as error:
        if aws_code(error) != _TWICE:
            raise


def covers(rule: Mapping[str, Any], port: int) -> bool:
    """Whether a rule lets TCP to *port* through."""
    if rule.get("IpProtocol") == "-1":
        return True
    return rule.get("IpProtocol") in {"tcp", "6"} and rule.get("FromPort", 0) <= port <= rule.get("ToPort", 65535)
