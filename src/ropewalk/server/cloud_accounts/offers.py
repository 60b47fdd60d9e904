"""What people want to know before they choose: what a cloud account would consist of, and what it would cost.

From tables and settings alone: nothing is asked of a cloud, and no key is needed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

from ropewalk.errors import FixItError, InputError
from ropewalk.server.cloud_accounts.making import load

if TYPE_CHECKING:
    from ropewalk.schemas.aws import AwsSettings
    from ropewalk.schemas.cloud_accounts import PreparePlan

__all__ = ["AwsOffer", "Region", "aws_offer"]

REGION_NAMES = {
    "us-east-1": "US East (N. Virginia)",
    "us-east-2": "US East (Ohio)",
    "us-west-1": "US West (N. California)",
    "us-west-2": "US West (Oregon)",
    "ca-central-1": "Canada (Central)",
    "eu-west-1": "Europe (Ireland)",
    "eu-west-2": "Europe (London)",
    "eu-west-3": "Europe (Paris)",
    "eu-central-1": "Europe (Frankfurt)",
    "eu-north-1": "Europe (Stockholm)",
    "ap-northeast-1": "Asia Pacific (Tokyo)",
    "ap-northeast-2": "Asia Pacific (Seoul)",
    "ap-south-1": "Asia Pacific (Mumbai)",
    "ap-southeast-1": "Asia Pacific (Singapore)",
    "ap-southeast-2": "Asia Pacific (Sydney)",
    "sa-east-1": "South America (São Paulo)",
}
"""What AWS calls its regions ("AWS Regions and Availability Zones"), for those whose prices are known."""

NODE_CPU, NODE_MIB = 1024, 4096
"""A node of the default size, 1 CPU and 4 GiB, as Fargate counts."""


@dataclass(frozen=True, slots=True)
class Region:
    """An AWS region, with prices in USD."""

    name: str
    title: str
    node_hour: float
    """A node of the default size with a public address, while it runs."""
    nat_month: float
    """A NAT gateway and its address, whether or not a cluster runs."""


@dataclass(frozen=True, slots=True)
class AwsOffer:
    """What an AWS account with some settings would have, and what there is to choose from."""

    plan: PreparePlan
    region: Region
    regions: tuple[Region, ...]
    """Those whose prices are known, by name."""
    price_note: str


async def aws_offer(settings: AwsSettings) -> AwsOffer:
    """Return what ``prepare`` would make with *settings*, and what that and a node cost.

    Raises:
        InputError: This server cannot drive AWS, or the settings cannot work; names the field.
    """
    try:
        await asyncio.to_thread(load, "aws")
    except FixItError as exc:
        raise InputError(exc.message, advice=exc.advice, field=exc.field, details=exc.details) from None
    plan = import_module("ropewalk.backends.aws.plan").plan(settings)
    prices = import_module("ropewalk.backends.aws.prices")
    names = sorted(prices.known_regions())
    note: str = prices.note(settings.region)
    return AwsOffer(plan, _region(settings.region), tuple(_region(name) for name in names), note)


def _region(name: str) -> Region:
    prices = import_module("ropewalk.backends.aws.prices")
    costs = import_module("ropewalk.backends.aws.costs")
    size = import_module("ropewalk.backends.aws.shapes").Size(NODE_CPU, NODE_MIB)
    hour, _ = prices.hourly(size, name)
    return Region(
        name, REGION_NAMES.get(name, name), hour, costs.gateway_monthly_cost(name) + costs.address_monthly_cost()
    )
