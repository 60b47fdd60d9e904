"""What ``ropewalk cloud-account policy aws --scoped`` limits rights to: Ropewalk's names and tags.

Which resource types an action has, and which conditions apply to which of them, is in AWS's Service Authorization
Reference. A statement has to cover every required type of an action, so some actions have several scopes: a subnet is
made with our tag *and* in a VPC that has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "ALL",
    "ATTACH",
    "CHILDREN",
    "CLUSTERS",
    "DEFINITIONS",
    "EXECUTION_POLICY",
    "FOREIGN",
    "IN_CLUSTER",
    "LAUNCH",
    "LINKED",
    "LOGS",
    "NAT",
    "OWNED",
    "OWN_USER",
    "PARENTS",
    "PASSED",
    "REPOSITORIES",
    "ROLES",
    "SERVICE_ROLE",
    "TAGGED",
    "TASKS",
    "VPC",
    "Scope",
]

Conditions = Mapping[str, Mapping[str, str | list[str]]]

EXECUTION_POLICY = "arn:{partition}:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
"""AWS's own policy: pull images of ECR, write logs ("Amazon ECS task execution IAM role")."""


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """Resources and conditions of one statement. ARNs contain ``{partition}``, ``{region}`` and ``{account}``."""

    limit: str
    """For people: what of AWS it is about."""
    resources: tuple[str, ...]
    conditions: Conditions = field(default_factory=dict)


def _ec2(*types: str) -> tuple[str, ...]:
    """Return ARNs of all things of these types: tags tell which are ours, and a policy may have 6,144 characters."""
    return tuple(f"arn:{{partition}}:ec2:*:*:{kind}/*" for kind in types)


def _iam(name: str) -> str:
    return f"arn:{{partition}}:iam::{{account}}:{name}"


def _here(service: str, name: str) -> str:
    return f"arn:{{partition}}:{service}:{{region}}:{{account}}:{name}"


# Whose value it is does not matter here: that the tag is there says that some Ropewalk made it.
_WITH_TAG: Conditions = {"Null": {"aws:RequestTag/ropewalk:installation": "false"}}
_HAS_TAG: Conditions = {"Null": {"aws:ResourceTag/ropewalk:installation": "false"}}
_CLUSTER = _here("ecs", "cluster/ropewalk-*")
_DEFINITION = _here("ecs", "task-definition/ropewalk-*:*")

ALL = Scope("nothing", ("*",))
OWN_USER = Scope("the key's user, or roles", (_iam("user/${{aws:username}}"), _iam("role/*")))

ROLES = Scope("roles called `ropewalk-*`", (_iam("role/ropewalk-*"),))
SERVICE_ROLE = Scope(
    "ECS's service-linked role", (_iam("role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS*"),)
)
ATTACH = Scope(
    "the policy AmazonECSTaskExecutionRolePolicy, on roles called `ropewalk-*`",
    ROLES.resources,
    {"ArnEquals": {"iam:PolicyARN": EXECUTION_POLICY}},
)
PASSED = Scope(
    "roles called `ropewalk-*`, to ECS tasks",
    ROLES.resources,
    {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}},
)
LINKED = Scope("that of ECS", SERVICE_ROLE.resources, {"StringEquals": {"iam:AWSServiceName": "ecs.amazonaws.com"}})

VPC = Scope("what is made with the tag", _ec2("vpc"), _WITH_TAG)
CHILDREN = Scope(
    "what is made with the tag",
    _ec2("subnet", "internet-gateway", "route-table", "security-group", "elastic-ip", "vpc-peering-connection"),
    _WITH_TAG,
)
NAT = Scope("what is made with the tag", _ec2("natgateway"), _WITH_TAG)
PARENTS = Scope("within what has the tag", _ec2("vpc", "subnet", "elastic-ip"), _HAS_TAG)
OWNED = Scope("what has the tag", ("*",), _HAS_TAG)
TAGGED = Scope(
    "what is being made",
    _ec2("*"),
    {
        "StringEquals": {
            "ec2:CreateAction": [
                "AllocateAddress",
                "CreateInternetGateway",
                "CreateNatGateway",
                "CreateRouteTable",
                "CreateSecurityGroup",
                "CreateSubnet",
                "CreateVpc",
                "CreateVpcPeeringConnection",
            ]
        }
    },
)
# Of these AWS makes the first, for tasks, and the team the second: neither has our tag.
FOREIGN = Scope("network interfaces; VPCs", _ec2("network-interface", "vpc"))

CLUSTERS = Scope("ECS clusters called `ropewalk-*`", (_CLUSTER,))
DEFINITIONS = Scope("task definitions called `ropewalk-*`", (_DEFINITION,))
TASKS = Scope("tasks of ECS clusters called `ropewalk-*`", (_here("ecs", "task/ropewalk-*/*"),))
LAUNCH = Scope(
    "task definitions and ECS clusters called `ropewalk-*`",
    (_DEFINITION,),
    {"ArnLike": {"ecs:cluster": _CLUSTER}},
)
IN_CLUSTER = Scope("ECS clusters called `ropewalk-*`", ("*",), {"ArnLike": {"ecs:cluster": _CLUSTER}})

REPOSITORIES = Scope("repositories called `ropewalk/*`", (_here("ecr", "repository/ropewalk/*"),))
LOGS = Scope("log groups called `/ropewalk/*`", (_here("logs", "log-group:/ropewalk/*"),))
