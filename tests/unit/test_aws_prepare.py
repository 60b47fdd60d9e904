"""The parts of prepare that need no AWS: addresses, zones, waiting, doing things together, what is ready."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ropewalk.backends.aws.blocks import PARTS, block, ingress, problems, subnet_blocks
from ropewalk.backends.aws.costs import monthly_cost
from ropewalk.backends.aws.firewall import covers
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.log_group import problems as log_problems
from ropewalk.backends.aws.patience import Patience, not_there
from ropewalk.backends.aws.plan import plan
from ropewalk.backends.aws.roles import execution_policy, trusts
from ropewalk.backends.aws.together import Tell, combined, stream, together
from ropewalk.backends.aws.zones import pick
from ropewalk.backends.port import Resource
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws import AwsPeering, AwsSettings


def test_each_subnet_has_a_quarter_of_the_vpc_and_room_for_private_ones_is_kept() -> None:
    assert subnet_blocks("10.77.0.0/16") == dict(
        zip(PARTS, ("10.77.0.0/18", "10.77.64.0/18", "10.77.128.0/18", "10.77.192.0/18"), strict=True)
    )
    assert subnet_blocks("10.0.0.64/26")["private-b"] == "10.0.0.112/28"


@pytest.mark.parametrize("text", ["10.0.0.0/15", "10.0.0.0/27", "2001:db8::/48", "10.0.0.0/33", "300.0.0.0/16"])
def test_a_vpc_that_aws_or_four_subnets_do_not_fit_is_refused(text: str) -> None:
    (error,) = problems(AwsSettings.model_construct(vpc_cidr=text, peering=[], allow_ingress_from=[]))
    assert error.field == "vpc_cidr"


@pytest.mark.parametrize("text", ["10.0.0.0/16", "10.0.0.0/26", "10.77.3.4/16"])
def test_a_vpc_that_fits_is_not(text: str) -> None:
    assert list(problems(AwsSettings(vpc_cidr=text))) == []


def test_overlaps_name_both_fields() -> None:
    peers = [AwsPeering(vpc_id="vpc-1", cidr="10.8.0.0/16"), AwsPeering(vpc_id="vpc-2", cidr="10.8.9.0/24")]
    (error,) = problems(AwsSettings(peering=peers))
    assert error.field == "peering.1.cidr"
    assert "peering.0.cidr" in error.message


def test_the_addresses_of_a_vpc_that_is_not_made_do_not_matter() -> None:
    settings = AwsSettings(vpc_cidr="10.0.0.0/8", subnet_ids=["subnet-1", "subnet-2"])
    assert list(problems(settings)) == []


def test_schedulers_are_reached_from_where_the_settings_say_or_else_from_the_caller() -> None:
    assert ingress(AwsSettings(), None) == []
    assert ingress(AwsSettings(), "203.0.113.7") == ["203.0.113.7/32"]
    assert ingress(AwsSettings(), "2001:db8::1") == ["2001:db8::1/128"]
    chosen = AwsSettings(allow_ingress_from=["192.0.2.99/24", "192.0.2.0/24", "10.0.0.0/8"])
    assert ingress(chosen, "203.0.113.7") == ["10.0.0.0/8", "192.0.2.0/24"]


def test_what_is_no_block_is_explained() -> None:
    with pytest.raises(FixItError, match="is not a block of addresses") as caught:
        block("10.0.0.0/99", "allow_ingress_from")
    assert caught.value.field == "allow_ingress_from"


def test_a_period_that_cloudwatch_does_not_know_names_the_nearest() -> None:
    (error,) = log_problems(AwsSettings(log_retention_days=45))
    assert "30 days" in str(error.advice) or "60 days" in str(error.advice)
    assert error.field == "log_retention_days"
    assert list(log_problems(AwsSettings(log_retention_days=365))) == []


def test_pairs_of_subnets_are_in_different_zones_and_private_ones_beside_public_ones() -> None:
    chosen = pick(["r-c", "r-a", "r-b"], {}, PARTS, "r")
    assert chosen == {"public-a": "r-a", "public-b": "r-b", "private-a": "r-a", "private-b": "r-b"}


def test_a_subnet_made_again_is_in_another_zone_than_the_one_that_is_there() -> None:
    assert pick(["r-a", "r-b"], {"public-b": "r-a"}, ["public-a"], "r") == {"public-a": "r-b"}
    assert pick(["r-a", "r-b"], {"public-a": "r-b", "public-b": "r-a"}, ["private-a"], "r") == {"private-a": "r-b"}


def test_a_region_with_one_zone_is_refused() -> None:
    with pytest.raises(FixItError, match="fewer than two zones") as caught:
        pick(["r-a"], {}, ["public-a"], "r")
    assert caught.value.field == "region"


class Slept:
    """A patience that only remembers how long it waited."""

    def __init__(self) -> None:
        self.pauses: list[float] = []
        self.patience = Patience(sleep=self.sleep, first=1.0, growth=2.0, longest=8.0)

    async def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)


async def test_pauses_grow_up_to_a_limit_and_end_in_time() -> None:
    slept = Slept()

    async def never() -> None:
        return None

    assert await slept.patience.until(never, within=30.0) is None  # type: ignore[func-returns-value] # that it gives up
    assert slept.pauses == [1.0, 2.0, 4.0, 8.0, 8.0, 7.0]


async def test_only_the_errors_that_are_meant_are_waited_out() -> None:
    slept = Slept()
    errors = [FixItError("", details={"aws_code": "InvalidVpcID.NotFound"})] * 3

    async def work() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert await slept.patience.insist(work) == "done"
    assert slept.pauses == [1.0, 2.0, 4.0]
    errors.append(FixItError("", details={"aws_code": "VpcLimitExceeded"}))
    with pytest.raises(FixItError):
        await slept.patience.insist(work)


@pytest.mark.parametrize(
    "code", ["InvalidVpcID.NotFound", "NoSuchEntity", "ClusterNotFoundException", "NatGatewayNotFound"]
)
def test_codes_of_what_does_not_exist_are_known(code: str) -> None:
    assert not_there(FixItError("", details={"aws_code": code}))
    assert not not_there(FixItError("", details={"aws_code": "DependencyViolation"}))


async def test_steps_go_on_when_one_fails_and_all_that_failed_is_said() -> None:
    done = []

    async def works() -> None:
        await asyncio.sleep(0)
        done.append(True)

    async def fails(message: str) -> None:
        raise FixItError(message, advice=f"Mend {message}", field=message)

    with pytest.raises(FixItError) as caught:
        await together(fails("a"), fails("b"), works())
    assert done
    assert caught.value.message == "a b"
    assert caught.value.advice == "Mend a Mend b"
    assert caught.value.field == "a"
    assert [error["field"] for error in caught.value.details["errors"]] == ["a", "b"]


def test_what_people_must_do_comes_before_what_passes_and_a_bad_key_before_all() -> None:
    passing, other = TryAgainError("later", delay=5.0), TryAgainError("much later", delay=60.0)
    both = combined([passing, other])
    assert isinstance(both, TryAgainError)
    assert both.delay == 60.0
    assert combined([passing, FixItError("now")]).message == "now"
    bad = FixItError("no such key", details={"credentials": "invalid"})
    assert combined([FixItError("now"), bad]) is bad


async def test_each_resource_is_stored_before_its_maker_goes_on() -> None:
    log: list[str] = []

    async def run(tell: Tell) -> None:
        for number in range(3):
            await tell(Resource("thing", str(number)))
            log.append(f"after {number}")

    async for resource in stream(run):
        await asyncio.sleep(0)
        log.append(f"stored {resource.id}")
    assert log == [item for number in range(3) for item in (f"stored {number}", f"after {number}")]


async def test_closing_the_stream_ends_the_work_at_once() -> None:
    ended = asyncio.Event()

    async def run(tell: Tell) -> None:
        try:
            await tell(Resource("thing", "1"))
            await asyncio.Event().wait()
        finally:
            ended.set()

    work = stream(run)
    assert (await anext(work)).id == "1"
    assert isinstance(work, AsyncIterator)
    await work.aclose()  # type: ignore[attr-defined] # it is a generator
    assert ended.is_set()


async def test_an_error_comes_after_what_was_made_before_it() -> None:
    async def run(tell: Tell) -> None:
        await tell(Resource("thing", "1"))
        raise FixItError("broken")

    seen: list[str] = []

    async def read() -> None:
        async for resource in stream(run):
            seen.append(resource.id)  # noqa: PERF401 - what was seen before the error is the point

    with pytest.raises(FixItError, match="broken"):
        await read()
    assert seen == ["1"]


def ready(**changed: Any) -> list[Resource]:
    return [
        Resource("vpc", "vpc-1"),
        Resource("subnet", "subnet-b", {"zone": "r-b", "public": True}),
        Resource("subnet", "subnet-a", {"zone": "r-a", "public": True}),
        Resource("security_group", "sg-1", {"vpc_id": "vpc-1"}),
        Resource("ecs_cluster", "arn:cluster", {"capacity_providers": ["FARGATE", "FARGATE_SPOT"]} | changed),
        Resource("execution_role", "arn:execution"),
        Resource("task_role", "arn:task"),
        Resource("repository", "uri", {"name": "ropewalk/ca"}),
        Resource("log_group", "/ropewalk/ca"),
    ]


def test_everything_is_there_when_it_is_prepared_and_missing_things_are_named() -> None:
    seen = Infrastructure(AwsSettings(), ready())
    assert seen.missing() == []
    seen.require()
    assert seen.subnet_ids == ["subnet-a", "subnet-b"]
    assert seen.public
    for kind in ("vpc", "security_group", "ecs_cluster", "execution_role", "task_role", "repository", "log_group"):
        lacking = Infrastructure(AwsSettings(), [one for one in ready() if one.kind != kind])
        assert lacking.missing() == [kind]
        with pytest.raises(FixItError, match="not prepared") as caught:
            lacking.require()
        assert "prepare" in str(caught.value.advice)


def test_one_subnet_is_not_enough_and_public_ones_do_not_do_for_private_ones() -> None:
    assert Infrastructure(AwsSettings(), ready()[:2] + ready()[3:]).missing() == ["subnet"]
    with pytest.raises(FixItError, match="subnets missing"):
        _ = Infrastructure(AwsSettings(private_subnets=True), ready()).subnet_ids


def test_a_cluster_without_spot_says_so() -> None:
    assert Infrastructure(AwsSettings(), ready()).spot
    assert not Infrastructure(AwsSettings(), ready(capacity_providers=["FARGATE"])).spot


def test_what_is_gone_or_superfluous_is_not_used() -> None:
    twin = Resource("vpc", "vpc-2", {"extra": True})
    gone = Resource("vpc", "vpc-3", gone=True)
    assert Infrastructure(AwsSettings(), [twin, gone]).missing()[0] == "vpc"


def test_only_private_subnets_cost_money_while_nothing_runs() -> None:
    assert monthly_cost(AwsSettings())[0] == 0.0
    amount, currency, why = monthly_cost(AwsSettings(private_subnets=True, region="us-east-1"))
    assert (amount, currency) == (36.5, "USD")  # 730 hours at 0.045 + 0.005
    assert "2025-06" in why
    assert monthly_cost(AwsSettings(private_subnets=True, subnet_ids=["a", "b"]))[0] == 0.0


def test_a_region_without_a_price_says_so() -> None:
    amount, _, why = monthly_cost(AwsSettings(private_subnets=True, region="mx-central-1"))
    assert amount > 0
    assert "mx-central-1 is not in the price list" in why


def test_the_plan_lists_what_is_made_and_leaves_out_what_is_brought_along() -> None:
    kinds = [one.kind for one in plan(AwsSettings()).resources]
    assert {"vpc", "subnet", "security_group", "ecs_cluster", "repository"} <= set(kinds)
    own = AwsSettings(
        subnet_ids=["a", "b"],
        security_group_id="sg",
        ecs_cluster="c",
        execution_role_arn="e",
        task_role_arn="t",
        repository="r",
        log_group="l",
    )
    assert plan(own).resources == []
    private = plan(AwsSettings(private_subnets=True))
    assert private.monthly_cost == monthly_cost(AwsSettings(private_subnets=True))[0]
    assert plan(AwsSettings()).monthly_cost == 0.0


@pytest.mark.parametrize(
    ("rule", "open_"),
    [
        ({"IpProtocol": "-1"}, True),
        ({"IpProtocol": "tcp", "FromPort": 8786, "ToPort": 8786}, True),
        ({"IpProtocol": "tcp", "FromPort": 8000, "ToPort": 9000}, True),
        ({"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22}, False),
        ({"IpProtocol": "udp", "FromPort": 0, "ToPort": 65535}, False),
    ],
)
def test_rules_are_read_as_aws_reads_them(rule: dict[str, Any], *, open_: bool) -> None:
    assert covers(rule, 8786) is open_


def test_trust_policies_are_read_as_people_write_them() -> None:
    service = "ecs-tasks.amazonaws.com"
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": ["ec2.amazonaws.com", service]},
        "Action": "sts:AssumeRole",
    }
    assert trusts({"AssumeRolePolicyDocument": {"Statement": statement}}, service)
    assert trusts({"AssumeRolePolicyDocument": json.dumps({"Statement": [statement]})}, service)
    assert not trusts({"AssumeRolePolicyDocument": {"Statement": {**statement, "Effect": "Deny"}}}, service)
    assert not trusts({"AssumeRolePolicyDocument": {"Statement": {**statement, "Principal": {"AWS": "*"}}}}, service)
    assert not trusts({}, service)


def test_other_partitions_have_policies_of_their_own() -> None:
    assert execution_policy("eu-central-1").startswith("arn:aws:iam::aws:policy/")
    assert execution_policy("cn-north-1").startswith("arn:aws-cn:iam::")
    assert execution_policy("us-gov-west-1").startswith("arn:aws-us-gov:iam::")
