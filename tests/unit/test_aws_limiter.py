"""The limiter keeps below AWS's limits, slows down when told, and recovers."""

from __future__ import annotations

import asyncio
import gc

import pytest

from ropewalk.backends.aws.limiter import Limiter, limiter_for, rate_of


class Clock:
    """Time that passes only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limiter(clock: Clock) -> Limiter:
    return Limiter(clock, clock.sleep)


async def calls(limiter: Limiter, operation: str, count: int, service: str = "ecs") -> None:
    for _ in range(count):
        await limiter.acquire(service, operation)


async def test_a_burst_is_sent_at_once(limiter: Limiter, clock: Clock) -> None:
    await calls(limiter, "RegisterTaskDefinition", 20)
    assert clock.slept == []


async def test_after_the_burst_calls_go_at_the_documented_rate(limiter: Limiter, clock: Clock) -> None:
    await calls(limiter, "RegisterTaskDefinition", 25)
    assert sum(clock.slept) == pytest.approx(5)


async def test_apis_do_not_slow_each_other_down(limiter: Limiter, clock: Clock) -> None:
    await calls(limiter, "RegisterTaskDefinition", 20)
    await calls(limiter, "DescribeTasks", 100)
    assert clock.slept == []


async def test_a_bucket_holds_no_more_than_the_burst_however_long_it_rests(limiter: Limiter, clock: Clock) -> None:
    clock.now += 1e6
    await calls(limiter, "RegisterTaskDefinition", 21)
    assert sum(clock.slept) == pytest.approx(1)


async def test_launches_are_counted_in_tasks(limiter: Limiter, clock: Clock) -> None:
    for _ in range(12):
        await limiter.acquire("fargate", "launch", 10)
    assert sum(clock.slept) == pytest.approx(20 / 20)


async def test_throttling_halves_the_rate_and_empties_the_bucket(limiter: Limiter, clock: Clock) -> None:
    limiter.throttled("ecs", "DescribeTasks")
    assert limiter.share("ecs", "DescribeTasks") == 0.5
    await calls(limiter, "DescribeTasks", 10)
    assert sum(clock.slept) == pytest.approx(10 / 10)


async def test_many_throttled_answers_at_once_teach_once(limiter: Limiter, clock: Clock) -> None:
    for _ in range(50):
        limiter.throttled("ecs", "RunTask")
    assert limiter.share("ecs", "RunTask") == 0.5
    clock.now += 2
    limiter.throttled("ecs", "RunTask")
    assert limiter.share("ecs", "RunTask") == 0.25


async def test_it_never_stops_altogether(limiter: Limiter, clock: Clock) -> None:
    for _ in range(100):
        clock.now += 2
        limiter.throttled("ecs", "RunTask")
    assert limiter.share("ecs", "RunTask") == 0.05


async def test_success_wins_the_rate_back(limiter: Limiter, clock: Clock) -> None:
    limiter.throttled("ecs", "RunTask")
    for _ in range(20):
        limiter.succeeded("ecs", "RunTask")
    assert limiter.share("ecs", "RunTask") == 1.0


async def test_who_gives_up_waiting_gives_back_what_it_took(clock: Clock) -> None:
    begun, forever = asyncio.Event(), asyncio.Event()

    async def sleep(seconds: float) -> None:
        clock.slept.append(seconds)
        begun.set()
        await forever.wait()

    limiter = Limiter(clock, sleep)
    await calls(limiter, "RegisterTaskDefinition", 20)
    waiting = asyncio.create_task(limiter.acquire("ecs", "RegisterTaskDefinition"))
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    clock.now += 1
    await limiter.acquire("ecs", "RegisterTaskDefinition")
    assert clock.slept == [pytest.approx(1)]


async def test_waiting_calls_go_in_the_order_in_which_they_came(clock: Clock) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    limiter = Limiter(clock, sleep)
    await asyncio.gather(*(limiter.acquire("ecs", "RegisterTaskDefinition") for _ in range(23)))
    assert waits == [pytest.approx(1), pytest.approx(2), pytest.approx(3)]


def test_one_credential_in_one_region_has_one_limiter() -> None:
    first = limiter_for("AKIA1", "eu-west-1")
    assert limiter_for("AKIA1", "eu-west-1") is first
    assert limiter_for("AKIA1", "eu-west-2") is not first
    assert limiter_for("AKIA2", "eu-west-1") is not first
    assert limiter_for("AKIA1", "eu-west-1", "arn:role") is not first


def test_a_limiter_is_forgotten_with_its_last_user() -> None:
    first = limiter_for("AKIA3", "eu-west-1")
    first.throttled("ecs", "RunTask")
    del first
    gc.collect()
    assert limiter_for("AKIA3", "eu-west-1").share("ecs", "RunTask") == 1.0


@pytest.mark.parametrize(
    ("service", "operation", "burst", "per_second"),
    [
        ("ecs", "RunTask", 100, 40),
        ("ecs", "StopTask", 100, 40),
        ("ecs", "DescribeTasks", 100, 20),
        ("ecs", "ListTasks", 100, 20),
        ("ecs", "RegisterTaskDefinition", 20, 1),
        ("fargate", "launch", 100, 20),
    ],
)
def test_rates_are_those_that_aws_documents(service: str, operation: str, burst: float, per_second: float) -> None:
    rate = rate_of(service, operation)
    assert (rate.burst, rate.per_second) == (burst, per_second)


def test_ec2_reads_faster_than_it_changes() -> None:
    assert rate_of("ec2", "DescribeVpcs").per_second > rate_of("ec2", "CreateVpc").per_second
