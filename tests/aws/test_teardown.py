"""Teardown: all of ours, in the order in which AWS lets go of it, and nothing else."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from ropewalk.backends.aws.infrastructure import owned
from ropewalk.backends.aws.tags import place_tags, resource_name
from ropewalk.errors import FixItError
from tests.aws.building import PLACE, Builder, KilledError, building, impatient, inventory
from tests.support.aws_world import TRUST
from tests.support.ministack import Double


@pytest.fixture
async def builder(aws: Double) -> AsyncIterator[Builder]:
    async with building(aws) as made:
        yield made


async def full(builder: Builder) -> set[str]:
    """Prepare everything there is; return what was there before."""
    before = inventory(builder.double)
    builder.change(private_subnets=True)
    await builder.run(builder.prepare())
    return before


@pytest.mark.parametrize("step", range(17))
async def test_killed_after_any_step_a_second_run_removes_the_rest(builder: Builder, step: int) -> None:
    before = await full(builder)
    with pytest.raises(KilledError):
        await builder.run(builder.teardown(), kill_before=step)
    await builder.persist_teardown()
    assert builder.stored == {}
    assert inventory(builder.double) == before


DELETES = [
    "ec2:DeleteNatGateway",
    "ec2:ReleaseAddress",
    "ec2:DeleteSubnet",
    "ec2:DeleteSecurityGroup",
    "ec2:DeleteRouteTable",
    "ec2:DetachInternetGateway",
    "ec2:DeleteInternetGateway",
    "ec2:DeleteVpc",
    "iam:DetachRolePolicy",
    "iam:DeleteRole",
    "ecs:DeleteCluster",
    "ecr:DeleteRepository",
    "logs:DeleteLogGroup",
]


@pytest.mark.parametrize("kind", ["lost", "broken"])
@pytest.mark.parametrize("action", DELETES)
async def test_an_answer_lost_to_a_deletion_costs_another_run(builder: Builder, action: str, kind: str) -> None:
    before = await full(builder)
    builder.double.inject(action, kind)
    await builder.persist_teardown()
    assert inventory(builder.double) == before


@pytest.mark.parametrize("action", DELETES)
async def test_a_denied_deletion_is_named_and_what_is_left_stays_stored(builder: Builder, action: str) -> None:
    before = await full(builder)
    every = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    deny = {"Effect": "Deny", "Action": [action], "Resource": "*"}
    builder.double.set_policy({"Version": "2012-10-17", "Statement": [every, deny]})
    with pytest.raises(FixItError) as caught:
        await builder.run(builder.teardown())
    assert action in caught.value.message
    assert builder.stored
    builder.double.set_policy(None)
    await builder.persist_teardown()
    assert inventory(builder.double) == before


async def test_what_was_made_and_never_stored_goes_too(builder: Builder) -> None:
    before = await full(builder)
    builder.stored.clear()
    await builder.run(builder.teardown())
    left = inventory(builder.double) - before
    assert all("AWSServiceRoleForECS" in name for name in left)  # nobody knows who made that


async def test_what_somebody_else_put_into_the_vpc_keeps_it_and_nothing_of_it_is_removed(builder: Builder) -> None:
    before = await full(builder)
    ec2 = builder.double.client("ec2")
    interface = ec2.create_network_interface(SubnetId=builder.ids("subnet")[0], Description="a database of ours")
    id_ = interface["NetworkInterface"]["NetworkInterfaceId"]
    builder.double.count_anew()
    with pytest.raises(FixItError, match=f"{id_}.*a database of ours"):
        await builder.run(builder.teardown())
    assert not {action for action in builder.double.calls() if action.startswith("ec2:Delete")}
    assert {"vpc", "subnet", "nat_gateway", "security_group"} <= {kind for kind, _ in builder.stored}
    ec2.delete_network_interface(NetworkInterfaceId=id_)
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before


async def test_what_lost_its_tags_is_left_alone_until_it_has_them_again(builder: Builder) -> None:
    before = await full(builder)
    ec2, group = builder.double.client("ec2"), builder.one("security_group").id
    tags = [{"Key": key, "Value": value} for key, value in place_tags(PLACE).items()]
    ec2.delete_tags(Resources=[group], Tags=[{"Key": tag["Key"]} for tag in tags])
    with pytest.raises(FixItError, match=f"{group} does not carry Ropewalk's tags"):
        await builder.run(builder.teardown())
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    ec2.create_tags(Resources=[group], Tags=tags)
    await builder.persist_teardown()
    assert inventory(builder.double) == before


async def test_a_role_of_our_name_that_somebody_else_made_stays(builder: Builder) -> None:
    name = f"{resource_name(PLACE)}-task"
    iam = builder.double.client("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=TRUST, Description="mine")
    with pytest.raises(FixItError, match="was not made by this installation"):
        await builder.run(builder.prepare())
    with pytest.raises(FixItError, match="left alone"):
        await builder.run(builder.teardown())
    assert iam.get_role(RoleName=name)["Role"]["Description"] == "mine"


async def test_a_role_to_which_people_gave_rights_goes_and_their_policies_stay(builder: Builder) -> None:
    before = await full(builder)
    iam, role = builder.double.client("iam"), builder.one("task_role").details["name"]
    allowed = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [allowed]})
    policy = iam.create_policy(PolicyName="data", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=role, PolicyArn=policy)
    iam.put_role_policy(RoleName=role, PolicyName="more", PolicyDocument=document)
    await builder.run(builder.teardown())
    assert inventory(builder.double) == before
    assert iam.get_policy(PolicyArn=policy)["Policy"]["Arn"] == policy


def definition(builder: Builder, family: str) -> str:
    ecs = builder.double.client("ecs")
    answer = ecs.register_task_definition(
        family=family,
        requiresCompatibilities=["FARGATE"],
        networkMode="awsvpc",
        cpu="256",
        memory="512",
        containerDefinitions=[{"name": "node", "image": "busybox"}],
    )
    return str(answer["taskDefinition"]["taskDefinitionArn"])


def run_task(builder: Builder, family: str) -> str:
    found: list[dict[str, Any]] = builder.double.client("ecs").run_task(
        cluster=builder.one("ecs_cluster").id,
        taskDefinition=definition(builder, family),
        launchType="FARGATE",
        networkConfiguration={
            "awsvpcConfiguration": {
                "subnets": builder.infrastructure.subnet_ids,
                "securityGroups": [builder.infrastructure.security_group_id],
            }
        },
    )["tasks"]
    return str(found[0]["taskArn"])


async def test_leftover_tasks_are_stopped_first_and_waited_for_and_their_definitions_deleted(builder: Builder) -> None:
    before = await full(builder)
    ecs, cluster = builder.double.client("ecs"), builder.one("ecs_cluster").id
    builder.double.set(task_stopped_after=0.6)
    task = run_task(builder, f"{resource_name(PLACE)}-0123456789abcdef")
    await builder.run(builder.teardown())
    assert ("ecs:StopTask", "ok") in builder.double.outcomes()
    assert not ecs.list_tasks(cluster=cluster)["taskArns"] if cluster in ecs.list_clusters()["clusterArns"] else task
    assert inventory(builder.double) == before


async def test_tasks_of_somebody_else_in_our_ecs_cluster_are_not_stopped(aws: Double) -> None:
    async with building(aws, patience=impatient()) as builder:
        await builder.run(builder.prepare())
        cluster = builder.one("ecs_cluster").id
        task = run_task(builder, "somebody-elses")
        with pytest.raises(FixItError, match="did not start"):
            await builder.run(builder.teardown())
        ecs = aws.client("ecs")
        (seen,) = ecs.describe_tasks(cluster=cluster, tasks=[task])["tasks"]
        assert seen["desiredStatus"] == "RUNNING"
        assert builder.ids("ecs_cluster") == [cluster]


async def test_nothing_is_left_to_remove_the_second_time(builder: Builder) -> None:
    await full(builder)
    await builder.run(builder.teardown())
    builder.double.count_anew()
    assert await builder.run(builder.teardown()) == []
    assert not {action for action in builder.double.calls() if ":Delete" in action}


async def test_images_go_with_the_repository_and_ecs_own_role_stays_where_others_use_ecs(builder: Builder) -> None:
    await builder.run(builder.prepare())
    assert builder.ids("service_linked_role")
    assert all(owned(one) for one in builder.resources)
    builder.double.client("ecs").create_cluster(clusterName="of-another-team")
    gone = await builder.run(builder.teardown())
    (role,) = [one for one in gone if one.kind == "service_linked_role"]
    assert "others use ECS" in role.details["note"]
    assert builder.double.client("iam").get_role(RoleName="AWSServiceRoleForECS")
    assert builder.stored == {}
