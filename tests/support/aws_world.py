"""What nodes in AWS need, made in the double without Ropewalk, so that tests of running depend on nothing else."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ropewalk.backends.port import Place, Resource
from ropewalk.schemas.aws import AwsSettings
from tests.support.engine import IMAGE
from tests.support.ministack import ACCOUNT, REGION, Double

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


def settings(**changes: object) -> AwsSettings:
    """Return settings of a cloud account in the double."""
    return AwsSettings.model_validate({"region": REGION, "image": IMAGE} | changes)


def furnish(aws: Double, place: Place, region: str = REGION) -> Sequence[Resource]:
    """Make a network, roles, a cluster, a repository and a log group; return them as ``prepare`` would store them."""
    name = f"ropewalk-{place.cloud_account}"
    log_group = f"/ropewalk/{place.cloud_account}"
    cluster = aws.client("ecs", region).create_cluster(clusterName=name, capacityProviders=["FARGATE", "FARGATE_SPOT"])
    aws.client("logs", region).create_log_group(logGroupName=log_group)
    repository = f"ropewalk/{place.cloud_account}"
    made = aws.client("ecr", region).create_repository(repositoryName=repository)["repository"]
    return [
        *_network(aws, region, name),
        *_roles(aws, name),
        Resource("ecs_cluster", cluster["cluster"]["clusterArn"]),
        Resource("repository", made["repositoryUri"], {"name": repository}),
        Resource("log_group", log_group),
    ]


def _network(aws: Double, region: str, name: str) -> list[Resource]:
    ec2 = aws.client("ec2", region)
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    found = [Resource("vpc", vpc)]
    for number, letter in enumerate("ab"):
        zone = f"{region}{letter}"
        made = ec2.create_subnet(VpcId=vpc, CidrBlock=f"10.77.{16 * number}.0/20", AvailabilityZone=zone)
        found.append(Resource("subnet", made["Subnet"]["SubnetId"], {"zone": zone, "public": True}))
    group = ec2.create_security_group(GroupName=name, Description="nodes", VpcId=vpc)["GroupId"]
    return [*found, Resource("security_group", group, {"vpc_id": vpc})]


def _roles(aws: Double, name: str) -> list[Resource]:
    found = []
    for kind in ("execution", "task"):
        role = aws.client("iam", "us-east-1").create_role(RoleName=f"{name}-{kind}", AssumeRolePolicyDocument=TRUST)[
            "Role"
        ]["Arn"]
        assert ACCOUNT in role
        found.append(Resource(f"{kind}_role", role))
    return found
