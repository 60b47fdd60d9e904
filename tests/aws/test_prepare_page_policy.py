"""Prepare with just the 50 actions of the reference product's page, which people have already."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import pytest
from botocore.exceptions import ClientError

from ropewalk.errors import FixItError
from tests.aws.building import Builder, KilledError, building, hasty, inventory, shape
from tests.aws.test_prepare import COMPLETE
from tests.support.ministack import Double
from tests.support.waiting import eventually
from tests.unit.test_aws_permissions import PAGE


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
    async with building(aws, PAGE) as made:
        yield made


WITHOUT_ROLE = COMPLETE | {"arn:aws:iam": 2}


async def test_it_is_enough_and_what_could_not_be_done_is_noted(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    builder.infrastructure.require()
    assert shape(inventory(builder.double) - before) == WITHOUT_ROLE
    notes = builder.notes()
    for action in ("ecs:TagResource", "iam:TagRole", "ecr:TagResource", "logs:TagResource"):
        assert any(action in note for note in notes)
    first = dict(builder.stored)
    await builder.run(builder.prepare())
    assert builder.stored == first
    assert shape(inventory(builder.double) - before) == WITHOUT_ROLE


@pytest.mark.parametrize("step", range(11))
async def test_killed_after_any_step_a_second_run_ends_in_one_set(builder: Builder, step: int) -> None:
    """But for an internet gateway made and not stored, which nothing of the page finds: free, and tagged."""
    before = inventory(builder.double)
    with pytest.raises(KilledError):
        await builder.run(builder.prepare(), kill_after=step)
    await builder.run(builder.prepare())
    builder.infrastructure.require()
    made = shape(inventory(builder.double) - before)
    assert made.pop("igw") <= 2
    assert made == {kind: number for kind, number in WITHOUT_ROLE.items() if kind != "igw"}
    builder.double.set_policy(None)
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before


async def test_the_gateway_is_found_by_the_routes_to_it(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    gateway = builder.one("internet_gateway").id
    builder.stored.clear()
    await builder.run(builder.prepare())
    assert builder.one("internet_gateway").id == gateway
    assert shape(inventory(builder.double) - before) == WITHOUT_ROLE


async def test_the_address_of_a_nat_gateway_is_found_by_the_gateway(builder: Builder) -> None:
    builder.change(private_subnets=True)
    await builder.run(builder.prepare())
    address = builder.one("elastic_ip").id
    builder.stored.clear()
    await builder.run(builder.prepare())
    assert builder.one("elastic_ip").id == address
    assert len(builder.double.client("ec2").describe_addresses()["Addresses"]) == 1


async def test_an_address_that_was_released_by_hand_is_replaced(builder: Builder) -> None:
    builder.double.set_policy([*PAGE, "ec2:ReplaceRoute"])  # the route to the old gateway leads nowhere
    builder.change(private_subnets=True)
    await builder.run(builder.prepare())
    ec2 = builder.double.client("ec2")
    builder.double.set(nat_available_after=0.0)
    ec2.delete_nat_gateway(NatGatewayId=builder.one("nat_gateway").id)
    old = builder.one("elastic_ip").id
    await _released(builder, old)
    builder.patience = hasty()
    await builder.run(builder.prepare())
    assert builder.one("elastic_ip").id != old
    assert len(ec2.describe_addresses()["Addresses"]) == 1
    builder.infrastructure.require()


async def _released(builder: Builder, address: str) -> None:
    """Release an address as soon as its gateway lets go of it."""
    ec2 = builder.double.client("ec2")

    def release() -> bool:
        with contextlib.suppress(ClientError):
            ec2.release_address(AllocationId=address)
        return not ec2.describe_addresses()["Addresses"]

    await eventually(release)


async def test_tags_are_set_once_the_key_may(builder: Builder) -> None:
    await builder.run(builder.prepare())
    assert builder.notes()
    builder.double.set_policy([*PAGE, "ecs:TagResource", "ecs:DescribeClusters", "iam:TagRole", "ecr:TagResource"])
    await builder.run(builder.prepare())
    (left,) = builder.notes()
    assert "logs:TagResource" in left


async def test_rules_that_may_not_be_removed_are_told(builder: Builder) -> None:
    await builder.run(builder.prepare())
    builder.change(allow_ingress_from=["198.51.100.0/24"])
    await builder.run(builder.prepare())
    note = str(builder.one("security_group").details["note"])
    assert "still open for 203.0.113.7/32" in note
    assert "ec2:RevokeSecurityGroupIngress" in note


async def test_teardown_names_what_is_missing_and_removes_nothing_halfway(builder: Builder) -> None:
    await builder.run(builder.prepare())
    there = dict(builder.stored)
    with pytest.raises(FixItError) as caught:
        await builder.run(builder.teardown())
    for action in ("ecs:DeleteCluster", "ecr:DeleteRepository", "logs:DeleteLogGroup", "iam:ListAttachedRolePolicies"):
        assert action in caught.value.message
    assert {key for key in there if key not in builder.stored} <= {key for key in there if key[0] == "security_group"}
    assert await builder.failures() == [] or "security_group" not in {kind for kind, _ in builder.stored}
