"""Availability zones for subnets."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.blocks import PARTS
from ropewalk.errors import FixItError

__all__ = ["pick", "zones"]

# "Linux containers on AWS Fargate" (ECS developer guide, Supported Regions) names for some regions the only zones in
# which Fargate works; these are the others.
_WITHOUT_FARGATE = frozenset({"use1-az3", "usw1-az2", "cac1-az3", "apne1-az3", "cnn1-az3"})


async def zones(aws: Aws) -> list[str]:
    """Return names of the zones of the region in which Fargate can run tasks, sorted."""
    answer = await aws.call("ec2", "DescribeAvailabilityZones", Filters=[{"Name": "state", "Values": ["available"]}])
    return sorted(str(zone["ZoneName"]) for zone in answer.get("AvailabilityZones") or () if _fit(zone))


def _fit(zone: Mapping[str, Any]) -> bool:
    """Whether it is up, is no local or wavelength zone, and has Fargate."""
    usual = zone.get("ZoneType", "availability-zone") == "availability-zone"
    return usual and zone.get("State") == "available" and zone.get("ZoneId") not in _WITHOUT_FARGATE


def pick(available: Iterable[str], taken: Mapping[str, str], parts: Collection[str], region: str) -> dict[str, str]:
    """Return a zone for each of *parts*, two different ones in a pair; *taken* are the zones of those that exist.

    ``private-a`` is in the zone of ``public-a`` where that is known, so that traffic through a gateway stays there.
    """
    names = sorted(available)
    if len(names) < 2:
        raise FixItError(
            f"The region {region} has fewer than two zones in which this AWS account can use Fargate "
            f"({', '.join(names) or 'none'}).",
            advice="Choose another region.",
            field="region",
        )
    chosen = dict(taken)
    for part in (part for part in PARTS if part in parts):
        kind, letter = part.split("-")
        beside = chosen.get(f"{'public' if kind == 'private' else 'private'}-{letter}")
        pair = {zone for name, zone in chosen.items() if name.startswith(f"{kind}-") and name != part}
        chosen[part] = next(zone for zone in ([beside] if beside else []) + names if zone not in pair)
    return {part: chosen[part] for part in parts}
