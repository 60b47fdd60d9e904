"""One way to AWS's API for everything in this package: limited in rate, repeated where that is safe, and explained."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ropewalk.backends.aws.faults import Effect, Fault, aws_code, judge
from ropewalk.backends.aws.limiter import Limiter, limiter_for
from ropewalk.backends.aws.sessions import Keys, Sessions
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws import AwsCredentials

__all__ = ["Aws", "aws_code"]

_READS = ("Batch", "Describe", "Get", "List", "Filter", "Simulate", "Lookup")
_IDEMPOTENT = frozenset({
    # Repeated, they find done what they did, and say nothing or something harmless.
    "AssociateRouteTable", "AttachRolePolicy", "CompleteLayerUpload", "CreateCluster", "CreateTags", "DeleteTags",
    "DetachRolePolicy", "InitiateLayerUpload", "ModifySubnetAttribute", "ModifyVpcAttribute", "PutImage",
    "PutClusterCapacityProviders", "PutRetentionPolicy", "PutRolePolicy", "StopTask", "TagLogGroup", "TagResource",
    "TagRole", "UploadLayerPart", "AssumeRole",
})  # fmt: skip
_TOKENS = ("clientToken", "ClientToken")
_ATTEMPTS = {Effect.REFUSED: 1, Effect.THROTTLED: 8, Effect.NOT_SENT: 3, Effect.LOST: 4}
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 5.0  # seconds; between them it doubles, with full jitter ("Error retries and
# exponential backoff in AWS": at 8 attempts 12 s on average)


class Aws:
    """AWS as seen with one credential in one region. Cheap to make; opens connections when they are needed.

    Args:
        credentials: The long-lived key.
        region: Region of all calls.
        role_arn: Role to assume with the key for every call.
        external_id: What that role's trust policy asks for.
        endpoint_url: Other endpoint for all services: an emulator or a VPC endpoint; only the operator may set it.
        limiter: Replaces the limiter that is shared by key and region.
        sleep: Replaces waiting between attempts, in tests.
    """

    def __init__(
        self,
        credentials: AwsCredentials,
        region: str,
        *,
        role_arn: str | None = None,
        external_id: str | None = None,
        endpoint_url: str | None = None,
        limiter: Limiter | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.region = region
        self.role_arn = role_arn
        self.limiter = limiter or limiter_for(credentials.access_key_id, region, role_arn)
        self._external_id = external_id
        self._sleep = sleep
        self._base = Sessions(credentials, region, endpoint_url, None)
        keys: Keys | None = self._assume if role_arn else None
        self._sessions = Sessions(credentials, region, endpoint_url, keys) if keys else self._base

    async def call(self, service: str, operation: str, /, **parameters: Any) -> dict[str, Any]:
        """Call one operation, in AWS's spelling (``"ecs", "RunTask"``), and return its answer.

        Throttled calls are repeated. A call whose answer was lost is repeated if it reads, is idempotent or carries a
        client token; otherwise it may have taken effect: the caller looks for its effect by tag or name first.

        Raises:
            FixItError: AWS refused. ``aws_code(error)`` is AWS's code; ``details["action"]`` the action that is
                denied; ``details["credentials"] == "invalid"`` if the key is no longer good.
            TryAgainError: AWS is not reachable, throttles or failed, more often than is waited for here.
        """
        return await self._call(self._sessions, service, operation, parameters)

    async def pages(self, service: str, operation: str, key: str, /, **parameters: Any) -> AsyncIterator[Any]:
        """Yield the items under *key* of all pages; follows ``nextToken``, ``NextToken`` and IAM's ``Marker``."""
        while True:
            answer = await self.call(service, operation, **parameters)
            for item in answer.get(key) or ():
                yield item
            follow = _next_page(answer)
            if follow is None:
                return
            parameters = {**parameters, **follow}

    async def close(self) -> None:
        """Close all connections. Calls after that raise TryAgainError."""
        await self._sessions.close()
        await self._base.close()

    async def _call(
        self, sessions: Sessions, service: str, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any]:
        attempt = 0
        while True:
            attempt += 1
            fault = await self._once(sessions, service, operation, parameters)
            if not isinstance(fault, Fault):
                return fault
            if attempt >= _ATTEMPTS[fault.effect] or not _may_repeat(fault.effect, operation, parameters):
                raise await self._explained(fault)
            longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2**attempt)
            await self._sleep(random.uniform(0, longest))  # noqa: S311 - spreads attempts, keeps no secret

    async def _once(
        self, sessions: Sessions, service: str, operation: str, parameters: dict[str, Any]
    ) -> dict[str, Any] | Fault:
        if sessions.closed:
            return Fault(TryAgainError("The connection to AWS is being closed."), Effect.REFUSED)
        await self._limit(service, operation, parameters)
        try:
            client = await sessions.client(service)
            answer: dict[str, Any] = await client._make_api_call(operation, parameters)  # noqa: SLF001 - takes AWS's spelling
        except BackendError as error:  # of assuming the role
            return Fault(error, Effect.REFUSED)
        except Exception as exc:  # noqa: BLE001 - nothing but BackendError may leave a backend
            fault = judge(exc, service, operation)
            if fault.effect is Effect.THROTTLED:
                self.limiter.throttled(service, operation)
            return fault
        self.limiter.succeeded(service, operation)
        return answer

    async def _limit(self, service: str, operation: str, parameters: dict[str, Any]) -> None:
        await self.limiter.acquire(service, operation)
        if operation == "RunTask":
            await self.limiter.acquire("fargate", "launch", parameters.get("count") or 1)

    async def _explained(self, fault: Fault) -> BackendError:
        """Add the present value of a quota that is used up, if the key may read it."""
        quota = fault.quota
        if quota is None:
            return fault.error
        try:
            answer = await self.call(
                "service-quotas", "GetServiceQuota", ServiceCode=quota.service, QuotaCode=quota.code
            )
        except BackendError:
            return fault.error
        details = fault.error.details
        return quota.error(str(details.get("aws_message") or ""), details, float(answer["Quota"]["Value"]))

    async def _assume(self) -> dict[str, str]:
        """Assume the role. botocore asks again 15 minutes before the hour is over."""
        parameters = {"RoleArn": self.role_arn, "RoleSessionName": "ropewalk", "DurationSeconds": 3600}
        if self._external_id:
            parameters["ExternalId"] = self._external_id
        try:
            answer = await self._call(self._base, "sts", "AssumeRole", parameters)
        except FixItError as error:
            raise self._not_assumed(error) from error
        found = answer["Credentials"]
        return {
            "access_key": found["AccessKeyId"],
            "secret_key": found["SecretAccessKey"],
            "token": found["SessionToken"],
            "expiry_time": found["Expiration"].isoformat(),
        }

    def _not_assumed(self, error: FixItError) -> FixItError:
        if error.details.get("action") != "sts:AssumeRole":
            return error
        return FixItError(
            f"The key may not assume the role {self.role_arn}.",
            advice="The key's user needs sts:AssumeRole on the role, and the role's trust policy has to name the user "
            "and the external id that Ropewalk shows.",
            field="role_arn",
            details=error.details,
        )


def _may_repeat(effect: Effect, operation: str, parameters: dict[str, Any]) -> bool:
    if effect is not Effect.LOST:
        return True
    reads = operation.startswith(_READS) and operation != "BatchDeleteImage"
    return reads or operation in _IDEMPOTENT or any(parameters.get(token) for token in _TOKENS)


def _next_page(answer: dict[str, Any]) -> dict[str, str] | None:
    for name in ("nextToken", "NextToken"):
        if answer.get(name):
            return {name: answer[name]}
    if answer.get("IsTruncated") and answer.get("Marker"):
        return {"Marker": answer["Marker"]}
    return None
