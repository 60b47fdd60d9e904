"""What teams bring along: used if clusters can run in it, refused with the field if not, never changed."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ropewalk.backends.aws.infrastructure import owned
from ropewalk.errors import FixItError
from tests.aws.building import Builder, building, inventory, shape
from tests.support.ministack import ACCOUNT, REGION, Double

TRUST = json.dumps({
    "Version": "2012-10-17",
    "Statement": [
        {"Effect": "Allow", "Principal": {"Service": ["ecs-tasks.amazonaws.com"]}, "Action": "sts:AssumeRole"}
    ],
})  # fmt: skip
POLICY = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"


class Team:
    """A team with a network, an ECS cluster and so on of its own."""

    def __init__(self, double: Double) -> None:
        self.double = double
        self.ec2: Any = double.client("ec2")
        self.vpc: str = self.ec2.create_vpc(CidrBlock="10.5.0.0/16")["Vpc"]["VpcId"]
        self.subnets = [self.subnet(f"10.5.{n}.0/24", zone) for n, zone in enumerate("ab")]
        self.gateway: str = self.ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        self.ec2.attach_internet_gateway(InternetGatewayId=self.gateway, VpcId=self.vpc)
        self.table: str = next(
            table["RouteTableId"]
            for table in self.ec2.describe_route_tables(Filters=[{"Name": "vpc-id", "Values": [self.vpc]}])[
                "RouteTables"
            ]
        )
        self.group: str = self.ec2.create_security_group(GroupName="own", Description="own", VpcId=self.vpc)["GroupId"]

    def subnet(self, block: str, zone: str, vpc: str | None = None) -> str:
        facts = {"VpcId": vpc or self.vpc, "CidrBlock": block, "AvailabilityZone": f"{REGION}{zone}"}
        return str(self.ec2.create_subnet(**facts)["Subnet"]["SubnetId"])

    def route(self, **target: str) -> None:
        self.ec2.create_route(RouteTableId=self.table, DestinationCidrBlock="0.0.0.0/0", **target)

    def allow(self, *rules: dict[str, Any]) -> None:
        for rule in rules:
            self.ec2.authorize_security_group_ingress(GroupId=self.group, IpPermissions=[rule])

    @property
    def opened(self) -> dict[str, Any]:
        return {"IpProtocol": "tcp", "FromPort": 8786, "ToPort": 8786, "IpRanges": [{"CidrIp": "203.0.113.0/24"}]}

    @property
    def within(self) -> dict[str, Any]:
        return {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": self.group}]}

    def role(self, name: str, trust: str = TRUST) -> str:
        answer = self.double.client("iam").create_role(RoleName=name, AssumeRolePolicyDocument=trust)
        return str(answer["Role"]["Arn"])


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws) as made:
        yield made


@pytest.fixture
def team(builder: Builder) -> Team:
    return Team(builder.double)


def bring_everything(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    team.allow(team.opened, team.within)
    double = builder.double
    double.client("ecs").create_cluster(clusterName="ours", capacityProviders=["FARGATE", "FARGATE_SPOT"])
    execution = team.role("execution")
    double.client("iam").attach_role_policy(RoleName="execution", PolicyArn=POLICY)
    double.client("ecr").create_repository(repositoryName="team/images")
    double.client("logs").create_log_group(logGroupName="/team/logs")
    builder.change(
        vpc_id=team.vpc,
        subnet_ids=team.subnets,
        security_group_id=team.group,
        ecs_cluster="ours",
        execution_role_arn=execution,
        task_role_arn=team.role("task"),
        repository="team/images",
        log_group="/team/logs",
    )


async def test_everything_can_be_brought_along_and_stays_as_it_is(builder: Builder, team: Team) -> None:
    bring_everything(builder, team)
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    assert not any(owned(one) for one in builder.resources)
    assert not builder.notes()
    seen = builder.infrastructure
    assert sorted(seen.subnet_ids) == sorted(team.subnets)
    assert seen.public
    assert seen.spot
    assert seen.security_group_id == team.group
    assert seen.cluster_arn == f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/ours"
    assert seen.execution_role_arn.endswith(":role/execution")
    assert seen.repository.endswith("/team/images")
    assert seen.repository_name == "team/images"
    assert seen.log_group == "/team/logs"
    assert await builder.failures() == []
    gone = await builder.run(builder.teardown())
    assert all(one.gone for one in gone)
    assert builder.stored == {}
    assert inventory(builder.double) == before


async def test_what_is_not_brought_along_is_made_beside_it(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    builder.change(subnet_ids=team.subnets)
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    builder.infrastructure.require()
    group = builder.one("security_group")
    assert owned(group)
    assert group.details["vpc_id"] == team.vpc == builder.one("vpc").id
    assert {"vpc", "subnet", "igw", "rtb"} & set(shape(inventory(builder.double) - before)) == set()
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before


async def test_changing_to_a_network_of_ones_own_uses_it_and_teardown_still_removes_the_other(
    builder: Builder, team: Team
) -> None:
    team.route(GatewayId=team.gateway)
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    made = builder.infrastructure.security_group_id
    builder.change(subnet_ids=team.subnets)
    await builder.run(builder.prepare())
    assert sorted(builder.infrastructure.subnet_ids) == sorted(team.subnets)
    assert builder.infrastructure.security_group_id != made
    builder.change(subnet_ids=[])
    await builder.run(builder.prepare())
    assert builder.infrastructure.security_group_id == made
    assert all(owned(one) for one in builder.resources)
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before


async def test_private_subnets_of_ones_own_give_nodes_no_public_address(builder: Builder, team: Team) -> None:
    builder.double.set(nat_available_after=0.0)
    address = team.ec2.allocate_address(Domain="vpc")["AllocationId"]
    gateway = team.ec2.create_nat_gateway(SubnetId=team.subnets[0], AllocationId=address)["NatGateway"]["NatGatewayId"]
    team.route(NatGatewayId=gateway)
    builder.change(subnet_ids=team.subnets)
    await builder.run(builder.prepare())
    assert not builder.infrastructure.public


async def refused(builder: Builder, field: str, match: str) -> FixItError:
    """Prepare, which has to be refused; the check has to say the same, and nothing of it may be changed."""
    with pytest.raises(FixItError, match=match) as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == field
    assert any(item.message in str(caught.value.message) for item in await builder.failures())
    return caught.value


async def test_a_vpc_without_subnets_is_refused(builder: Builder, team: Team) -> None:
    builder.change(vpc_id=team.vpc)
    await refused(builder, "subnet_ids", "makes no subnets")


async def test_subnets_that_do_not_exist_are_refused(builder: Builder, team: Team) -> None:
    builder.change(subnet_ids=[team.subnets[0], "subnet-0123456789abcdef0"])
    await refused(builder, "subnet_ids", "no subnets subnet-0123456789abcdef0")


async def test_subnets_of_another_vpc_are_refused(builder: Builder, team: Team) -> None:
    builder.change(vpc_id="vpc-0123456789abcdef0", subnet_ids=team.subnets)
    await refused(builder, "subnet_ids", f"in {team.vpc}, and not in vpc-0123456789abcdef0")


async def test_subnets_of_two_vpcs_are_refused(builder: Builder, team: Team) -> None:
    other = team.ec2.create_vpc(CidrBlock="10.6.0.0/16")["Vpc"]["VpcId"]
    builder.change(subnet_ids=[team.subnets[0], team.subnet("10.6.1.0/24", "b", other)])
    await refused(builder, "subnet_ids", "several VPCs")


async def test_subnets_in_one_zone_are_refused(builder: Builder, team: Team) -> None:
    builder.change(subnet_ids=[team.subnets[0], team.subnet("10.5.7.0/24", "a")])
    await refused(builder, "subnet_ids", f"All subnets are in the zone {REGION}a")


async def test_subnets_without_a_way_out_are_refused(builder: Builder, team: Team) -> None:
    builder.change(subnet_ids=team.subnets)
    error = await refused(builder, "subnet_ids", "no route to the internet")
    assert "ecr.api" in error.message


async def test_subnets_of_both_sorts_are_refused(builder: Builder, team: Team) -> None:
    closed = team.ec2.create_route_table(VpcId=team.vpc)["RouteTable"]["RouteTableId"]
    team.ec2.associate_route_table(RouteTableId=closed, SubnetId=team.subnets[1])
    team.route(GatewayId=team.gateway)
    builder.change(subnet_ids=team.subnets)
    await refused(builder, "subnet_ids", f"{team.subnets[0]}.*some do not.*{team.subnets[1]}")


async def test_a_vpc_without_name_resolution_is_refused(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    team.ec2.modify_vpc_attribute(VpcId=team.vpc, EnableDnsSupport={"Value": False})
    builder.change(vpc_id=team.vpc, subnet_ids=team.subnets)
    await refused(builder, "vpc_id", "Names are not resolved")


async def test_peering_of_a_vpc_of_ones_own_is_refused(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    builder.settings = builder.settings.model_validate({
        "region": REGION,
        "subnet_ids": team.subnets,
        "peering": [{"vpc_id": "vpc-0123456789abcdef0", "cidr": "10.9.0.0/16"}],
    })  # fmt: skip
    await refused(builder, "peering", "does not peer your own VPC")


async def test_a_security_group_that_keeps_clients_out_is_refused_with_the_command(
    builder: Builder, team: Team
) -> None:
    team.route(GatewayId=team.gateway)
    team.allow(team.within)
    builder.change(subnet_ids=team.subnets, security_group_id=team.group)
    error = await refused(builder, "security_group_id", "lets nobody in at port 8786")
    assert f"--group-id {team.group} --protocol tcp --port 8786 --cidr" in str(error.advice)


async def test_a_security_group_that_parts_nodes_is_refused_with_the_command(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    team.allow(team.opened)
    builder.change(subnet_ids=team.subnets, security_group_id=team.group)
    error = await refused(builder, "security_group_id", "does not let nodes reach each other")
    assert f"--source-group {team.group}" in str(error.advice)


async def test_a_security_group_that_leaves_the_caller_out_is_used_and_noted(builder: Builder, team: Team) -> None:
    team.route(GatewayId=team.gateway)
    team.allow({**team.opened, "IpRanges": [{"CidrIp": "198.51.100.0/24"}]}, team.within)
    builder.change(subnet_ids=team.subnets, security_group_id=team.group)
    await builder.run(builder.prepare())
    assert builder.one("security_group").details["note"] == "It does not let 203.0.113.7/32 in at port 8786."


async def test_a_security_group_of_another_vpc_is_refused(builder: Builder, team: Team) -> None:
    builder.change(security_group_id=team.group)
    with pytest.raises(FixItError, match=f"is in {team.vpc}, and clusters run in") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "security_group_id"


async def test_an_ecs_cluster_without_fargate_is_refused_and_one_without_spot_is_noted(builder: Builder) -> None:
    ecs = builder.double.client("ecs")
    builder.change(ecs_cluster="bare")
    await refused(builder, "ecs_cluster", "no active ECS cluster bare")
    ecs.create_cluster(clusterName="bare")
    await refused(builder, "ecs_cluster", "does not offer Fargate")
    ecs.create_cluster(clusterName="half", capacityProviders=["FARGATE"])
    builder.change(ecs_cluster=f"arn:aws:ecs:{REGION}:{ACCOUNT}:cluster/half")
    await builder.run(builder.prepare())
    assert not builder.infrastructure.spot
    assert any("Fargate Spot" in note for note in builder.notes())


async def test_a_role_that_tasks_may_not_assume_is_refused(builder: Builder, team: Team) -> None:
    builder.change(task_role_arn=team.role("people", TRUST.replace("ecs-tasks", "ec2")))
    await refused(builder, "task_role_arn", "does not let ECS tasks assume it")
    builder.change(task_role_arn=f"arn:aws:iam::{ACCOUNT}:role/missing")
    await refused(builder, "task_role_arn", "There is no role")


async def test_an_execution_role_with_other_policies_is_used_and_noted(builder: Builder, team: Team) -> None:
    builder.change(execution_role_arn=team.role("odd"))
    await builder.run(builder.prepare())
    assert any("is not attached" in note for note in builder.notes())


async def test_a_repository_and_a_log_group_that_do_not_exist_are_refused(builder: Builder) -> None:
    builder.change(repository="nowhere")
    await refused(builder, "repository", "no ECR repository nowhere")
    builder.change(repository=None, log_group="/nowhere")
    await refused(builder, "log_group", "no log group /nowhere")
