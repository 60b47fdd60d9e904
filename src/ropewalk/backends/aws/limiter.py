"""Stay below AWS's request limits, and find them where they are lower than documented.

AWS throttles with token buckets, per AWS account, region and API. Here is the same bucket on our side, for each API,
with the documented size and rate. Other programs share the AWS account's limit, so each throttled answer halves our
rate and empties the bucket; calls that succeed win the rate back step by step.

One limiter serves all backends with the same key in the same region, see :func:`limiter_for`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakValueDictionary

__all__ = ["Limiter", "Rate", "limiter_for", "rate_of"]


@dataclass(frozen=True, slots=True)
class Rate:
    """Size of a bucket, in requests, and its refill in requests per second."""

    burst: float
    per_second: float


# "Request throttling for the Amazon ECS API" (ECS API reference) for those of ECS, "AWS Fargate service quotas" for the
# launches; "Request throttling for the Amazon EC2 API" (EC2 developer guide), which evaluates each API by itself;
# "Amazon ECR service quotas"; "CloudWatch Logs quotas"; "Service Quotas: quotas".
_READ_ECS = Rate(50, 20)
_RATES: dict[tuple[str, str], Rate] = {
    ("ecs", "RunTask"): Rate(100, 40),
    ("ecs", "StopTask"): Rate(100, 40),
    ("ecs", "DescribeTasks"): Rate(100, 20),
    ("ecs", "ListTasks"): Rate(100, 20),
    ("ecs", "RegisterTaskDefinition"): Rate(20, 1),
    ("ecs", "DeregisterTaskDefinition"): Rate(20, 1),
    ("ecs", "DeleteTaskDefinitions"): Rate(5, 1),
    ("ecs", "DescribeTaskDefinition"): _READ_ECS,
    ("ecs", "ListTaskDefinitions"): _READ_ECS,
    ("ecs", "DescribeClusters"): _READ_ECS,
    ("ecs", "ListClusters"): _READ_ECS,
    ("ecs", "CreateCluster"): Rate(20, 1),
    ("ecs", "DeleteCluster"): Rate(20, 1),
    ("ecs", "PutClusterCapacityProviders"): Rate(20, 1),
    ("ecs", "TagResource"): Rate(20, 10),
    ("fargate", "launch"): Rate(100, 20),  # tasks, not calls
    ("ecr", "GetAuthorizationToken"): Rate(500, 500),
    ("ecr", "InitiateLayerUpload"): Rate(100, 100),
    ("ecr", "UploadLayerPart"): Rate(500, 500),
    ("ecr", "CompleteLayerUpload"): Rate(100, 100),
    ("ecr", "PutImage"): Rate(10, 10),
    ("ecr", "BatchCheckLayerAvailability"): Rate(1000, 1000),
    ("ecr", "BatchGetImage"): Rate(2000, 2000),
    ("ecr", "GetDownloadUrlForLayer"): Rate(3000, 3000),
    ("logs", "GetLogEvents"): Rate(25, 25),
    ("logs", "DescribeLogStreams"): Rate(25, 25),
    ("logs", "FilterLogEvents"): Rate(5, 5),
    ("service-quotas", "GetServiceQuota"): Rate(5, 5),
}
_READ_EC2 = Rate(50, 10)  # "unfiltered and unpaginated non-mutating actions", the lowest of the classes of reads
_CHANGE_EC2 = Rate(50, 5)
_OTHERS = Rate(20, 10)  # IAM and others whose limits AWS does not publish; throttling teaches

_FLOOR = 0.05  # of the documented rate, however often AWS throttles
_STEP = 0.05  # of the documented rate that a successful call wins back
_SETTLE = 1.0  # seconds within which throttled answers count as one: they were sent before any could teach


def rate_of(service: str, operation: str) -> Rate:
    """Return the documented limit of one API."""
    if known := _RATES.get((service, operation)):
        return known
    if service == "ec2":
        return _READ_EC2 if operation.startswith("Describe") else _CHANGE_EC2
    return _OTHERS


@dataclass(slots=True)
class _Bucket:
    rate: Rate
    level: float
    looked: float
    share: float = 1.0
    slowed: float = field(default=-_SETTLE)

    def refill(self, now: float) -> None:
        gained = (now - self.looked) * self.rate.per_second * self.share
        self.level = min(self.rate.burst * self.share, self.level + gained)
        self.looked = now

    def take(self, now: float, count: float) -> float:
        """Take tokens, also such as do not exist yet, and return how many seconds it takes until they do."""
        self.refill(now)
        self.level -= count
        return max(0.0, -self.level / (self.rate.per_second * self.share))


class Limiter:
    """Token buckets, one for each API, that slow down when AWS throttles.

    Waiting calls go in the order in which they came. Clock and sleep can be replaced in tests.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._clock = clock
        self._sleep = sleep
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    async def acquire(self, service: str, operation: str, count: float = 1) -> None:
        """Return when *count* requests may be sent."""
        bucket = self._bucket(service, operation)
        wait = bucket.take(self._clock(), count)
        if not wait:
            return
        try:
            await self._sleep(wait)
        except BaseException:
            bucket.level += count  # it is not going to send what it took
            raise

    def throttled(self, service: str, operation: str) -> None:
        """Learn that AWS refused a request: go at half the rate, from an empty bucket."""
        bucket = self._bucket(service, operation)
        now = self._clock()
        bucket.refill(now)
        bucket.level = min(bucket.level, 0.0)
        if now - bucket.slowed >= _SETTLE:
            bucket.share = max(_FLOOR, bucket.share / 2)
            bucket.slowed = now

    def succeeded(self, service: str, operation: str) -> None:
        """Learn that AWS took a request: win back some of the rate."""
        bucket = self._bucket(service, operation)
        if bucket.share < 1.0:
            bucket.refill(self._clock())
            bucket.share = min(1.0, bucket.share + _STEP)

    def share(self, service: str, operation: str) -> float:
        """Return which part of the documented rate is used at present, 0 to 1."""
        return self._bucket(service, operation).share

    def _bucket(self, service: str, operation: str) -> _Bucket:
        found = self._buckets.get((service, operation))
        if found is None:
            rate = rate_of(service, operation)
            found = self._buckets[service, operation] = _Bucket(rate, rate.burst, self._clock())
        return found


_shared: WeakValueDictionary[tuple[str, str, str], Limiter] = WeakValueDictionary()


def limiter_for(access_key_id: str, region: str, role_arn: str | None = None) -> Limiter:
    """Return the one limiter of a credential in a region; it lives as long as somebody uses it."""
    key = (access_key_id, region, role_arn or "")
    found = _shared.get(key)
    if found is None:
        found = _shared[key] = Limiter()
    return found
