"""What a check looks at besides rights: the region, ECS's service-linked role, Fargate's quotas."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.linked_role import COMMAND, ROLE, linked_role_exists
from ropewalk.backends.aws.quotas import FARGATE, FARGATE_SPOT, Quota
from ropewalk.errors import BackendError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus

__all__ = ["facts"]

SMALL = 16  # vCPUs below which a quota is worth a word: a scheduler and four workers of the default size need it


async def facts(aws: Aws, until: float) -> list[CheckItem]:
    """Return an item for each, at *until* (the loop's time) at the latest; an error of one hides no other."""
    looks = {
        "region": _region(aws),
        "service-linked role": _linked_role(aws),
        FARGATE.name: _quota(aws, FARGATE),
        FARGATE_SPOT.name: _quota(aws, FARGATE_SPOT),
    }
    return list(await asyncio.gather(*(_guarded(name, look, until) for name, look in looks.items())))


async def _guarded(name: str, look: Awaitable[CheckItem], until: float) -> CheckItem:
    try:
        async with asyncio.timeout_at(until):
            return await look
    except TimeoutError:
        return CheckItem(name=name, status=CheckStatus.UNKNOWN, message="AWS did not answer in time.")
    except BackendError as error:
        return CheckItem(
            name=name, status=CheckStatus.UNKNOWN, message=error.message, advice=error.advice, details=error.details
        )


async def _region(aws: Aws) -> CheckItem:
    answer = await aws.call("ec2", "DescribeAvailabilityZones")
    zones = sorted(zone["ZoneName"] for zone in answer["AvailabilityZones"] if zone.get("State") == "available")
    enough = len(zones) >= 2
    return CheckItem(
        name="region",
        status=CheckStatus.OK if enough else CheckStatus.FAILED,
        message=f"{aws.region} is enabled, with {len(zones)} zones: {', '.join(zones)}.",
        advice=None if enough else "Choose a region with two zones at least.",
        details={"region": aws.region, "zones": zones},
    )


async def _linked_role(aws: Aws) -> CheckItem:
    name = "service-linked role"
    exists = await linked_role_exists(aws)
    if exists:
        return CheckItem(name=name, status=CheckStatus.OK, message=f"{ROLE} exists.")
    if exists is None:
        return CheckItem(
            name=name, status=CheckStatus.UNKNOWN, message=f"The key may not see whether {ROLE} exists (iam:GetRole)."
        )
    return CheckItem(
        name=name,
        status=CheckStatus.WARNING,
        message=f"{ROLE} is missing: nobody has used ECS in this AWS account. Without it no task gets a network.",
        advice=f"Preparing makes it if the key may use iam:CreateServiceLinkedRole; otherwise run, once: {COMMAND}",
        details={"command": COMMAND},
    )


async def _quota(aws: Aws, quota: Quota) -> CheckItem:
    answer = await aws.call("service-quotas", "GetServiceQuota", ServiceCode=quota.service, QuotaCode=quota.code)
    value = float(answer["Quota"]["Value"])
    return CheckItem(
        name=quota.name,
        status=CheckStatus.OK if value >= SMALL else CheckStatus.WARNING,
        message=f"{value:g} vCPUs may run at once in {aws.region}, of all that uses Fargate in this AWS account.",
        advice=None if value >= SMALL else quota.advice(),
        details={"service": quota.service, "quota": quota.code, "value": value},
    )
