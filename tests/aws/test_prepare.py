"""Prepare on a double of AWS that refuses, delays and loses what AWS does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from ropewalk.backends.aws.tags import ec2_specification, place_tags
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings
from tests.aws.building import (
    CALLER,
    OTHER_PLACE,
    PLACE,
    Builder,
    KilledError,
    building,
    contents,
    inventory,
    shape,
)
from tests.support.ministack import REGION, Double

BASIC = 12  # resources of a cloud account with nothing but defaults, ECS's own role included


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws) as made:
        yield made


async def test_one_run_makes_a_complete_set_and_teardown_leaves_nothing(builder: Builder) -> None:
    before = inventory(builder.double)
    made = await builder.run(builder.prepare())
    builder.infrastructure.require()
    assert len(made) == len(builder.stored) == BASIC
    assert builder.infrastructure.public
    assert builder.infrastructure.spot
    assert not builder.notes()
    await builder.run(builder.teardown())
    assert builder.stored == {}
    assert inventory(builder.double) == before


async def test_the_network_has_what_nodes_need_and_opens_one_port(builder: Builder) -> None:
    await builder.run(builder.prepare())
    vpc = builder.one("vpc").id
    ec2, there = builder.double.client("ec2"), contents(builder.double, vpc)
    for attribute in ("enableDnsSupport", "enableDnsHostnames"):
        answer = ec2.describe_vpc_attribute(VpcId=vpc, Attribute=attribute)
        assert answer[attribute[0].upper() + attribute[1:]]["Value"] is True
    assert len({subnet["AvailabilityZone"] for subnet in there["subnets"]}) == 2
    assert all(subnet["MapPublicIpOnLaunch"] for subnet in there["subnets"])
    (table,) = [item for item in there["tables"] if item["RouteTableId"] == builder.one("route_table").id]
    routes = {route["DestinationCidrBlock"]: route["GatewayId"] for route in table["Routes"]}
    assert routes == {"10.77.0.0/16": "local", "0.0.0.0/0": builder.one("internet_gateway").id}
    assert sorted(use["SubnetId"] for use in table["Associations"]) == builder.ids("subnet")
    (group,) = [item for item in there["groups"] if item["GroupId"] == builder.one("security_group").id]
    opened = [rule for rule in group["IpPermissions"] if rule["IpRanges"]]
    (rule,) = opened
    assert (rule["IpProtocol"], rule["FromPort"], rule["ToPort"]) == ("tcp", 8786, 8786)
    assert [source["CidrIp"] for source in rule["IpRanges"]] == [f"{CALLER}/32"]
    (between,) = [rule for rule in group["IpPermissions"] if rule["UserIdGroupPairs"]]
    assert between["IpProtocol"] == "-1"
    assert [pair["GroupId"] for pair in between["UserIdGroupPairs"]] == [group["GroupId"]]


async def test_everything_is_tagged(builder: Builder) -> None:
    await builder.run(builder.prepare())
    expected = place_tags(PLACE).items()
    ec2 = builder.double.client("ec2")
    for kind in ("vpc", "subnet", "internet_gateway", "route_table", "security_group"):
        for id_ in builder.ids(kind):
            tags = ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [id_]}])["Tags"]
            assert {tag["Key"]: tag["Value"] for tag in tags}.items() >= expected, kind
    iam, ecs = builder.double.client("iam"), builder.double.client("ecs")
    for kind in ("execution_role", "task_role"):
        tags = iam.get_role(RoleName=builder.one(kind).details["name"])["Role"]["Tags"]
        assert {tag["Key"]: tag["Value"] for tag in tags}.items() >= expected
    cluster = ecs.describe_clusters(clusters=[builder.one("ecs_cluster").id], include=["TAGS"])["clusters"][0]
    assert {tag["key"]: tag["value"] for tag in cluster["tags"]}.items() >= expected
    ecr = builder.double.client("ecr")
    tags = ecr.list_tags_for_resource(resourceArn=builder.one("repository").details["arn"])["tags"]
    assert {tag["Key"]: tag["Value"] for tag in tags}.items() >= expected
    logs = builder.double.client("logs")
    assert logs.list_tags_log_group(logGroupName=builder.one("log_group").id)["tags"].items() >= expected


async def test_a_second_run_finds_the_same_and_makes_nothing(builder: Builder) -> None:
    await builder.run(builder.prepare())
    first, there = dict(builder.stored), inventory(builder.double)
    builder.double.count_anew()
    again = await builder.run(builder.prepare())
    assert {(one.kind, one.id): one for one in again} == first == builder.stored
    made = {action for action, outcome in builder.double.outcomes() if ":Create" in action and outcome == "ok"}
    assert made == set()
    assert inventory(builder.double) == there


@pytest.mark.parametrize("step", range(BASIC))
@pytest.mark.parametrize("stored", [False, True])
async def test_killed_after_any_step_a_second_run_ends_in_one_set(builder: Builder, step: int, *, stored: bool) -> None:
    before = inventory(builder.double)
    kill: dict[str, Any] = {"kill_after" if stored else "kill_before": step}
    with pytest.raises(KilledError):
        await builder.run(builder.prepare(), **kill)
    await builder.run(builder.prepare())
    builder.infrastructure.require()
    # ECS's own role: made before the kill and not stored, it cannot be told from one that was there before.
    assert BASIC - 1 <= len(builder.stored) <= BASIC
    assert shape(inventory(builder.double) - before) == COMPLETE


COMPLETE = {
    "vpc": 1,
    "subnet": 2,
    "igw": 1,
    "rtb": 2,  # one is the VPC's own
    "sg": 2,  # one is the VPC's own
    "arn:aws:ecs": 1,
    "arn:aws:iam": 3,  # with ECS's own
    "arn:aws:ecr": 1,
    "/": 1,
}


WRITES = [
    "ec2:CreateVpc",
    "ec2:CreateSubnet",
    "ec2:CreateInternetGateway",
    "ec2:AttachInternetGateway",
    "ec2:CreateRouteTable",
    "ec2:CreateRoute",
    "ec2:AssociateRouteTable",
    "ec2:CreateSecurityGroup",
    "ec2:AuthorizeSecurityGroupIngress",
    "ec2:ModifyVpcAttribute",
    "ec2:ModifySubnetAttribute",
    "iam:CreateServiceLinkedRole",
    "iam:CreateRole",
    "iam:AttachRolePolicy",
    "ecs:CreateCluster",
    "ecr:CreateRepository",
    "logs:CreateLogGroup",
    "logs:PutRetentionPolicy",
]


@pytest.mark.parametrize("kind", ["lost", "broken", "error_after"])
@pytest.mark.parametrize("action", WRITES)
async def test_an_answer_lost_to_any_write_ends_in_one_set(builder: Builder, action: str, kind: str) -> None:
    before = inventory(builder.double)
    builder.double.inject(action, kind)
    await builder.persist()
    assert [fault["used"] for fault in builder.double.faults()] == [1]
    builder.infrastructure.require()
    assert shape(inventory(builder.double) - before) == COMPLETE


@pytest.mark.parametrize("stored", [False, True])
async def test_a_second_vpc_that_a_lost_answer_left_is_removed(builder: Builder, *, stored: bool) -> None:
    before = inventory(builder.double)
    ec2 = builder.double.client("ec2")
    if stored:
        await builder.run(builder.prepare())
    kept = builder.ids("vpc")
    twins = [] if stored else ["one", "two"]
    for _ in twins or ["one"]:
        ec2.create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=ec2_specification(PLACE, "vpc"))
        ec2.create_internet_gateway(TagSpecifications=ec2_specification(PLACE, "internet-gateway"))
    await builder.run(builder.prepare())
    assert builder.ids("vpc") == (kept or builder.ids("vpc"))
    assert len(builder.ids("vpc")) == 1
    assert shape(inventory(builder.double) - before) == COMPLETE


async def test_a_second_vpc_that_may_not_be_removed_is_told_and_teardown_knows_of_it(aws: Double) -> None:
    before = inventory(aws)
    async with building(aws) as builder:
        aws.client("ec2").create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=ec2_specification(PLACE, "vpc"))
        aws.client("ec2").create_vpc(CidrBlock="10.77.0.0/16", TagSpecifications=ec2_specification(PLACE, "vpc"))
        aws.inject("ec2:DeleteVpc", code="UnauthorizedOperation", status=403, message="not authorized")
        await builder.run(builder.prepare())
        (note,) = builder.notes()
        assert "second VPC" in note
        assert "ec2:DeleteVpc" in note
        assert len(builder.ids("vpc")) == 2
        builder.infrastructure.require()
        await builder.run(builder.teardown())
        assert inventory(aws) == before


async def test_what_is_seen_late_is_waited_for(builder: Builder) -> None:
    builder.double.set(network_visible_after=0.4)
    before = inventory(builder.double)
    assert await builder.persist() == 1
    builder.infrastructure.require()
    builder.double.set(network_visible_after=0.0)
    assert shape(inventory(builder.double) - before) == COMPLETE


NEEDED = sorted(
    {*WRITES, "ec2:DescribeVpcs", "ec2:DescribeSubnets", "ec2:CreateTags", "ecs:ListClusters", "iam:GetRole"}
)


@pytest.mark.parametrize("action", NEEDED)
async def test_a_denied_action_is_named_and_the_run_goes_on_where_it_was_once_it_is_allowed(
    builder: Builder, action: str
) -> None:
    before = inventory(builder.double)
    every = {"Effect": "Allow", "Action": ["ec2:*", "iam:*", "ecs:*", "ecr:*", "logs:*"], "Resource": "*"}
    deny = {"Effect": "Deny", "Action": [action], "Resource": "*"}
    builder.double.set_policy({"Version": "2012-10-17", "Statement": [every, deny]})
    with pytest.raises(FixItError) as caught:
        await builder.run(builder.prepare())
    assert action in caught.value.message + str(caught.value.details)
    assert caught.value.field == "access_key_id"
    builder.double.set_policy(None)
    await builder.persist()
    assert shape(inventory(builder.double) - before) == COMPLETE


async def test_all_that_is_denied_is_said_at_once(aws: Double) -> None:
    async with building(aws, ["ec2:*", "iam:GetRole", "ecs:ListClusters", "ecr:DescribeRepositories"]) as builder:
        with pytest.raises(FixItError) as caught:
            await builder.run(builder.prepare())
        for action in ("iam:CreateRole", "ecr:CreateRepository", "logs:CreateLogGroup", "iam:CreateServiceLinkedRole"):
            assert action in caught.value.message + str(caught.value.details)
        assert {"vpc", "subnet", "internet_gateway", "route_table", "security_group"} == {
            kind for kind, _ in builder.stored
        }


def _delete_group(builder: Builder) -> None:
    builder.double.client("ec2").delete_security_group(GroupId=builder.one("security_group").id)


def _delete_table(builder: Builder) -> None:
    ec2, table = builder.double.client("ec2"), builder.one("route_table").id
    for use in ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Associations"]:
        ec2.disassociate_route_table(AssociationId=use["RouteTableAssociationId"])
    ec2.delete_route_table(RouteTableId=table)


def _delete_subnet(builder: Builder) -> None:
    builder.double.client("ec2").delete_subnet(SubnetId=builder.ids("subnet")[0])


def _delete_gateway(builder: Builder) -> None:
    ec2, gateway = builder.double.client("ec2"), builder.one("internet_gateway").id
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=builder.one("vpc").id)
    ec2.delete_internet_gateway(InternetGatewayId=gateway)


def _detach_gateway(builder: Builder) -> None:
    ec2, gateway = builder.double.client("ec2"), builder.one("internet_gateway").id
    ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=builder.one("vpc").id)


def _delete_route(builder: Builder) -> None:
    table = builder.one("route_table").id
    builder.double.client("ec2").delete_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0")


def _close_port(builder: Builder) -> None:
    ec2, group = builder.double.client("ec2"), builder.one("security_group").id
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    for rule in rules:
        ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])


def _delete_role(builder: Builder) -> None:
    iam, role = builder.double.client("iam"), builder.one("execution_role").details["name"]
    for policy in iam.list_attached_role_policies(RoleName=role)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=role, PolicyArn=policy["PolicyArn"])
    iam.delete_role(RoleName=role)


def _distrust(builder: Builder) -> None:
    document = '{"Version": "2012-10-17", "Statement": []}'
    iam, role = builder.double.client("iam"), builder.one("task_role").details["name"]
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=document)


def _delete_cluster(builder: Builder) -> None:
    builder.double.client("ecs").delete_cluster(cluster=builder.one("ecs_cluster").id)


def _delete_repository(builder: Builder) -> None:
    builder.double.client("ecr").delete_repository(repositoryName=builder.one("repository").details["name"])


def _delete_logs(builder: Builder) -> None:
    builder.double.client("logs").delete_log_group(logGroupName=builder.one("log_group").id)


def _untag(builder: Builder) -> None:
    tags = [{"Key": key} for key in place_tags(PLACE)]
    builder.double.client("ec2").delete_tags(Resources=[builder.one("vpc").id], Tags=tags)


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (_delete_group, "security group"),
        (_delete_table, "route table"),
        (_delete_subnet, "subnet"),
        (_delete_gateway, "internet gateway"),
        (_detach_gateway, "internet gateway"),
        (_delete_route, "route table"),
        (_close_port, "security group"),
        (_delete_role, "execution role"),
        (_distrust, "task role"),
        (_delete_cluster, "ECS cluster"),
        (_delete_repository, "ECR repository"),
        (_delete_logs, "log group"),
        (_untag, "VPC"),
    ],
    ids=lambda value: value.__name__.strip("_") if callable(value) else "",
)
async def test_what_people_change_by_hand_is_found_by_the_check_and_mended(
    builder: Builder, harm: Callable[[Builder], None], named: str
) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    assert await builder.failures() == []
    harm(builder)
    found = await builder.failures()
    assert any(named in item.message for item in found)
    assert all(item.advice and "prepare" in item.advice for item in found)
    await builder.run(builder.prepare())
    assert await builder.failures() == []
    builder.infrastructure.require()
    assert shape(inventory(builder.double) - before) == COMPLETE


async def test_a_whole_vpc_deleted_by_hand_is_made_anew(builder: Builder) -> None:
    before = inventory(builder.double)
    await builder.run(builder.prepare())
    gone = builder.one("vpc").id
    for harm in (_delete_table, _delete_gateway, _delete_group, _delete_subnet):
        harm(builder)
    builder.double.client("ec2").delete_subnet(SubnetId=builder.ids("subnet")[1])
    builder.double.client("ec2").delete_vpc(VpcId=gone)
    assert len(await builder.failures()) >= 6
    await builder.run(builder.prepare())
    assert builder.one("vpc").id != gone
    assert len(builder.stored) == BASIC
    assert await builder.failures() == []
    assert shape(inventory(builder.double) - before) == COMPLETE


async def test_two_teams_share_an_aws_account_and_one_leaves(builder: Builder) -> None:
    before = inventory(builder.double)
    async with building(builder.double, credentials=builder.credentials, place=OTHER_PLACE) as other:
        other.change(vpc_cidr="10.78.0.0/16")
        await builder.run(builder.prepare())
        alone = inventory(builder.double)
        await other.run(other.prepare())
        shared = set(other.stored) & set(builder.stored)
        assert not shared
        assert len({builder.one("vpc").id, other.one("vpc").id}) == 2
        await other.run(other.teardown())
        assert inventory(builder.double) == alone
        assert await builder.failures() == []
        await builder.run(builder.teardown())
        assert inventory(builder.double) == before


async def test_two_regions_are_two_networks(builder: Builder) -> None:
    elsewhere = "us-west-2"
    before = inventory(builder.double, elsewhere)
    settings = AwsSettings(region=elsewhere)
    async with building(builder.double, credentials=builder.credentials, place=OTHER_PLACE, settings=settings) as other:
        await builder.run(builder.prepare())
        await other.run(other.prepare())
        other.infrastructure.require()
        assert {str(one.details["zone"])[:-1] for one in other.resources if one.kind == "subnet"} == {elsewhere}
        here = inventory(builder.double, REGION)
        await other.run(other.teardown())
        assert {name for name in inventory(builder.double, elsewhere) - before if "iam" not in name} == set()
        assert {name for name in inventory(builder.double, REGION) if "iam" not in name} == {
            name for name in here if "iam" not in name
        }
        assert await builder.failures() == []


async def test_addresses_that_may_reach_schedulers_follow_the_settings(builder: Builder) -> None:
    builder.change(allow_ingress_from=["198.51.100.0/24", "192.0.2.9/32", "2001:db8::/32"])
    await builder.run(builder.prepare())
    group = builder.one("security_group").id
    ec2 = builder.double.client("ec2")
    by_hand = {
        "IpProtocol": "tcp",
        "FromPort": 8786,
        "ToPort": 8786,
        "IpRanges": [{"CidrIp": "192.0.2.77/32", "Description": "the lab"}],
    }
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[by_hand])
    builder.change(allow_ingress_from=["198.51.100.0/24", "203.0.113.5/24"])
    await builder.run(builder.prepare())
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    sources = {source["CidrIp"] for rule in rules for source in rule["IpRanges"]}
    assert sources == {"198.51.100.0/24", "203.0.113.0/24", "192.0.2.77/32"}
    assert not [source for rule in rules for source in rule["Ipv6Ranges"]]
    assert builder.one("security_group").details["allow"] == ["198.51.100.0/24", "203.0.113.0/24"]


async def test_the_addresses_of_a_vpc_cannot_change_and_the_error_says_so(builder: Builder) -> None:
    await builder.run(builder.prepare())
    builder.change(vpc_cidr="10.99.0.0/16")
    with pytest.raises(FixItError, match="cannot change") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "vpc_cidr"


async def test_wrong_settings_are_refused_before_any_call(builder: Builder) -> None:
    builder.change(vpc_cidr="10.0.0.0/8", log_retention_days=31)
    builder.double.count_anew()
    with pytest.raises(FixItError, match=r"31 days.*|A VPC cannot") as caught:
        await builder.run(builder.prepare())
    assert caught.value.field == "vpc_cidr"
    assert "log_retention_days" in str(caught.value.details)
    assert builder.double.calls() == {}


async def test_where_ecs_lacks_its_role_the_command_is_said(aws: Double) -> None:
    aws.set(service_linked_role=False)
    async with building(
        aws,
        ["ec2:*", "ecs:*", "ecr:*", "logs:*", "iam:GetRole", "iam:CreateRole", "iam:AttachRolePolicy", "iam:TagRole"],
    ) as builder:
        with pytest.raises(FixItError, match="AWSServiceRoleForECS") as caught:
            await builder.run(builder.prepare())
        assert "aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com" in str(caught.value.advice)
        aws.client("iam").create_service_linked_role(AWSServiceName="ecs.amazonaws.com")
        await builder.run(builder.prepare())
        builder.infrastructure.require()
        assert not builder.ids("service_linked_role")
