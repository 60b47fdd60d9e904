"""Peering with VPCs of the same AWS account, of another region and of another AWS account."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsPeering
from tests.aws.building import Builder, KilledError, building, inventory
from tests.support.ministack import ACCOUNT, OTHER_ACCOUNT, REGION, Double

THEIRS = "10.9.0.0/16"


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws) as made:
        yield made


def vpc_of(double: Double, block: str = THEIRS, region: str = REGION, account: str = ACCOUNT) -> str:
    answer = double.client("ec2", region, account).create_vpc(CidrBlock=block)
    return str(answer["Vpc"]["VpcId"])


def ask(builder: Builder, vpc: str, block: str = THEIRS, **facts: Any) -> None:
    builder.change(peering=[AwsPeering(vpc_id=vpc, cidr=block, **facts)])


def routes(double: Double, vpc: str, region: str = REGION) -> dict[str, str]:
    """Return where the routes of a VPC to peerings lead."""
    tables = double.client("ec2", region).describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    return {
        route["DestinationCidrBlock"]: route["VpcPeeringConnectionId"]
        for table in tables["RouteTables"]
        for route in table["Routes"]
        if route.get("VpcPeeringConnectionId")
    }


@pytest.mark.parametrize("region", [None, "us-west-2"])
async def test_a_vpc_of_the_same_account_is_peered_with_routes_on_both_sides(
    builder: Builder, region: str | None
) -> None:
    vpc = vpc_of(builder.double, region=region or REGION)
    before, there = inventory(builder.double), inventory(builder.double, region or REGION)
    ask(builder, vpc, region=region)
    await builder.run(builder.prepare())
    peering = builder.one("peering").id
    assert routes(builder.double, builder.one("vpc").id) == {THEIRS: peering}
    assert routes(builder.double, vpc, region or REGION) == {"10.77.0.0/16": peering}
    assert not builder.notes()
    assert await builder.failures() == []
    await builder.run(builder.prepare())
    assert builder.one("peering").id == peering
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before
    assert inventory(builder.double, region or REGION) == there


async def test_the_owner_of_another_account_is_told_what_to_do_and_it_works_once_done(builder: Builder) -> None:
    vpc = vpc_of(builder.double, account=OTHER_ACCOUNT)
    ask(builder, vpc, owner_id=OTHER_ACCOUNT)
    await builder.run(builder.prepare())
    peering = builder.one("peering").id
    (note,) = builder.notes()
    assert f"aws ec2 accept-vpc-peering-connection --region {REGION} --vpc-peering-connection-id {peering}" in note
    assert f"route 10.77.0.0/16 to {peering}" in note
    assert routes(builder.double, builder.one("vpc").id) == {THEIRS: peering}
    theirs = builder.double.client("ec2", REGION, OTHER_ACCOUNT)
    theirs.accept_vpc_peering_connection(VpcPeeringConnectionId=peering)
    await builder.run(builder.prepare())
    assert not builder.notes()
    assert builder.one("peering").id == peering


@pytest.mark.parametrize(("block", "field"), [("10.77.4.0/24", "peering.0.cidr"), ("10.0.0.0/8", "peering.0.cidr")])
async def test_overlapping_addresses_are_refused_before_anything_is_made(
    builder: Builder, block: str, field: str
) -> None:
    ask(builder, "vpc-0123456789abcdef0", block)
    builder.double.count_anew()
    with pytest.raises(FixItError, match=r"overlap with 10\.77\.0\.0/16 \(vpc_cidr\)") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == field
    assert builder.double.calls() == {}


async def test_two_peers_with_overlapping_addresses_are_refused(builder: Builder) -> None:
    peers = [AwsPeering(vpc_id=f"vpc-{n}", cidr=block) for n, block in enumerate(("10.8.0.0/15", "10.9.1.0/24"))]
    builder.change(peering=peers)
    with pytest.raises(FixItError, match="overlap") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "peering.1.cidr"


async def test_a_vpc_that_does_not_exist_or_has_other_addresses_is_refused(builder: Builder) -> None:
    ask(builder, "vpc-0123456789abcdef0")
    with pytest.raises(FixItError, match="There is no VPC") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "peering.0.vpc_id"
    ask(builder, vpc_of(builder.double), "10.10.0.0/16")
    with pytest.raises(FixItError, match=r"has the addresses 10\.9\.0\.0/16, and not 10\.10\.0\.0/16") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "peering.0.cidr"


async def test_a_peering_that_is_asked_for_no_more_goes_with_its_routes(builder: Builder) -> None:
    vpc = vpc_of(builder.double)
    await builder.run(builder.prepare())
    without, theirs = inventory(builder.double), routes(builder.double, vpc)
    ask(builder, vpc)
    await builder.run(builder.prepare())
    builder.change(peering=[])
    await builder.run(builder.prepare())
    assert not builder.ids("peering")
    assert routes(builder.double, vpc) == theirs == {}
    assert inventory(builder.double) == without


async def test_a_route_of_the_other_side_that_leads_elsewhere_is_not_touched(builder: Builder) -> None:
    vpc, third = vpc_of(builder.double), vpc_of(builder.double, "10.11.0.0/16")
    ec2 = builder.double.client("ec2")
    other = ec2.create_vpc_peering_connection(VpcId=vpc, PeerVpcId=third)["VpcPeeringConnection"]
    (table,) = ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])["RouteTables"]
    target = other["VpcPeeringConnectionId"]
    ec2.create_route(
        RouteTableId=table["RouteTableId"], DestinationCidrBlock="10.77.0.0/16", VpcPeeringConnectionId=target
    )
    ask(builder, vpc)
    with pytest.raises(FixItError, match=r"sends 10\.77\.0\.0/16 elsewhere already") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "peering.0.vpc_id"
    assert routes(builder.double, vpc) == {"10.77.0.0/16": target}
    await builder.run(builder.teardown())
    assert routes(builder.double, vpc) == {"10.77.0.0/16": target}


@pytest.mark.parametrize("action", ["ec2:AcceptVpcPeeringConnection", "ec2:CreateRoute"])
async def test_where_the_key_may_not_do_it_the_command_is_told(builder: Builder, action: str) -> None:
    ask(builder, vpc_of(builder.double))
    every = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    if action == "ec2:CreateRoute":
        await builder.run(builder.prepare())
        builder.double.client("ec2").delete_route(
            RouteTableId=their_table(builder), DestinationCidrBlock="10.77.0.0/16"
        )
    deny = {"Effect": "Deny", "Action": [action], "Resource": "*"}
    builder.double.set_policy({"Version": "2012-10-17", "Statement": [every, deny]})
    await builder.run(builder.prepare())
    (note,) = builder.notes()
    assert action in note
    builder.double.set_policy(None)
    await builder.run(builder.prepare())
    assert not builder.notes()


def their_table(builder: Builder) -> str:
    vpc = builder.settings.peering[0].vpc_id
    answer = builder.double.client("ec2").describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [vpc]}])
    return str(answer["RouteTables"][0]["RouteTableId"])


@pytest.mark.parametrize(
    "action", ["ec2:CreateVpcPeeringConnection", "ec2:AcceptVpcPeeringConnection", "ec2:CreateRoute"]
)
async def test_a_lost_answer_ends_in_one_peering(builder: Builder, action: str) -> None:
    vpc = vpc_of(builder.double)
    ask(builder, vpc)
    builder.double.inject(action, "lost")
    await builder.persist()
    listed = builder.double.client("ec2").describe_vpc_peering_connections()["VpcPeeringConnections"]
    assert [item["VpcPeeringConnectionId"] for item in listed] == [builder.one("peering").id]
    assert routes(builder.double, vpc) == {"10.77.0.0/16": builder.one("peering").id}


async def test_killed_before_it_was_stored_it_is_found_again(builder: Builder) -> None:
    vpc = vpc_of(builder.double)
    await builder.run(builder.prepare())
    ask(builder, vpc)
    with pytest.raises(KilledError):
        await builder.run(builder.prepare(), kill_at="peering")
    await builder.run(builder.prepare())
    listed = builder.double.client("ec2").describe_vpc_peering_connections()["VpcPeeringConnections"]
    assert len(listed) == 1
