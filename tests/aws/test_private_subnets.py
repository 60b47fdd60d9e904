"""Private subnets: the NAT gateway, which is pending for a while and costs money."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from ropewalk.backends.aws.costs import monthly_cost
from ropewalk.backends.aws.plan import plan
from ropewalk.errors import TryAgainError
from tests.aws.building import Builder, KilledError, building, contents, impatient, inventory, shape
from tests.support.ministack import Double

PRIVATE = 18  # resources: 12 as without, two subnets, a table, an address, a gateway… and ECS's own role
KINDS = {"vpc": 1, "subnet": 4, "igw": 1, "rtb": 3, "sg": 2, "eipalloc": 1, "nat": 1}


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws) as made:
        made.change(private_subnets=True)
        yield made


def network(double: Double, before: set[str]) -> dict[str, int]:
    found = shape(inventory(double) - before)
    return {kind: number for kind, number in found.items() if kind in KINDS}


async def test_nodes_in_private_subnets_go_out_through_one_gateway(builder: Builder) -> None:
    before = inventory(builder.double)
    builder.double.set(nat_available_after=0.5)
    await builder.run(builder.prepare())
    there = contents(builder.double, builder.one("vpc").id)
    subnets = builder.infrastructure.subnet_ids
    private = {subnet["SubnetId"]: subnet for subnet in there["subnets"] if subnet["SubnetId"] in subnets}
    assert len({subnet["AvailabilityZone"] for subnet in private.values()}) == 2
    assert not any(subnet["MapPublicIpOnLaunch"] for subnet in private.values())
    assert not builder.infrastructure.public
    (table,) = [
        item for item in there["tables"] if set(private) & {use.get("SubnetId") for use in item["Associations"]}
    ]
    routes = {route["DestinationCidrBlock"]: route.get("NatGatewayId") for route in table["Routes"]}
    assert routes["0.0.0.0/0"] == builder.one("nat_gateway").id
    assert network(builder.double, before) == KINDS
    assert await builder.failures() == []
    again = await builder.run(builder.prepare())
    assert len(again) == len(builder.stored)
    assert network(builder.double, before) == KINDS
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before


async def test_the_price_is_known_before_and_stored_with_what_costs_it(builder: Builder) -> None:
    amount, currency, why = monthly_cost(builder.settings)
    assert (amount, currency) == (41.61, "USD")
    assert "NAT gateway" in why
    assert plan(builder.settings).monthly_cost == amount
    builder.double.count_anew()
    assert builder.double.calls() == {}
    await builder.run(builder.prepare())
    assert sum(one.details.get("monthly_cost", 0.0) for one in builder.resources) == amount


@pytest.mark.parametrize("step", range(2, PRIVATE - 1))
async def test_killed_after_any_step_a_second_run_ends_in_one_set(builder: Builder, step: int) -> None:
    before = inventory(builder.double)
    with pytest.raises(KilledError):
        await builder.run(builder.prepare(), kill_before=step)
    await builder.persist()
    builder.infrastructure.require()
    assert network(builder.double, before) == KINDS


@pytest.mark.parametrize("action", ["ec2:AllocateAddress", "ec2:CreateNatGateway", "ec2:CreateRouteTable"])
@pytest.mark.parametrize("kind", ["lost", "broken"])
async def test_an_answer_lost_ends_in_one_set(builder: Builder, action: str, kind: str) -> None:
    before = inventory(builder.double)
    builder.double.inject(action, kind)
    await builder.persist()
    assert network(builder.double, before) == KINDS


async def test_a_gateway_that_is_not_ready_in_time_is_waited_for_by_the_next_run(aws: Double) -> None:
    async with building(aws, patience=impatient()) as builder:
        builder.change(private_subnets=True)
        aws.set(nat_available_after=3600.0)
        with pytest.raises(TryAgainError, match="still pending"):
            await builder.run(builder.prepare())
        gateway = builder.one("nat_gateway").id
        aws.set(nat_available_after=0.0)
        await builder.run(builder.prepare())
        assert builder.one("nat_gateway").id == gateway
        builder.infrastructure.require()


async def test_asked_for_no_more_they_are_removed_since_they_cost_money(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    builder.change(private_subnets=False)
    await builder.run(builder.prepare())
    assert network(builder.double, before) == {"vpc": 1, "subnet": 2, "igw": 1, "rtb": 2, "sg": 2}
    assert builder.infrastructure.public
    assert not builder.ids("nat_gateway")
    assert not builder.ids("elastic_ip")


async def test_a_gateway_deleted_by_hand_is_found_and_made_anew_with_the_same_address(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    gateway, address = builder.one("nat_gateway").id, builder.one("elastic_ip").id
    builder.double.set(nat_available_after=0.0)
    builder.double.client("ec2").delete_nat_gateway(NatGatewayId=gateway)
    assert any("NAT gateway" in item.message for item in await builder.failures())
    await builder.persist()
    assert builder.one("nat_gateway").id != gateway
    assert builder.one("elastic_ip").id == address
    assert network(builder.double, before) == KINDS
    assert await builder.failures() == []
