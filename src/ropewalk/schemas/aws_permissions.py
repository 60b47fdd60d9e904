"""Every right that Ropewalk can use in an AWS account: one table, from which all else is made.

The policy (:mod:`ropewalk.schemas.aws_policy`), the check (``ropewalk.backends.aws.check``), the sentences of refusals
and the reference page come from it. A test proves that it has every operation that the backend calls, and no other.

It is here, and not in the backend, because the command line prints policies without a server.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ropewalk.schemas.aws_scopes import (
    ALL,
    ATTACH,
    CHILDREN,
    CLUSTERS,
    DEFINITIONS,
    FOREIGN,
    IN_CLUSTER,
    LAUNCH,
    LINKED,
    LOGS,
    NAT,
    OWN_USER,
    OWNED,
    PARENTS,
    PASSED,
    REPOSITORIES,
    ROLES,
    SERVICE_ROLE,
    TAGGED,
    TASKS,
    VPC,
    Scope,
)

__all__ = ["BY_ACTION", "NOT_NEEDED", "PERMISSIONS", "Feature", "Permission", "Phase", "breaks_without"]


class Phase(StrEnum):
    """When a right is used."""

    SETUP = "setup"
    """The check and `prepare`."""
    RUN = "run"
    """Clusters: start, watch, stop."""
    IMAGES = "images"
    """Images given to the AWS account's registry, or listed."""
    LOGS = "logs"
    """Reading logs of nodes."""
    TEARDOWN = "teardown"
    """Removing what `prepare` made."""


class Feature(StrEnum):
    """What must be asked for in the settings before a right is needed at all."""

    PRIVATE = "private_subnets"
    PEERING = "peering"


@dataclass(frozen=True, slots=True)
class Permission:
    """One IAM action.

    ``use`` completes "Ropewalk uses it to …"; ``without`` says what is worse without an action that is not required.
    ``scopes`` are what ``--scoped`` limits it to.
    """

    action: str
    phases: tuple[Phase, ...]
    use: str
    scopes: tuple[Scope, ...] = (ALL,)
    required: bool = True
    without: str | None = None
    feature: Feature | None = None

    @property
    def breaks(self) -> str:
        """Return what does not work without it, to follow "Without it: "."""
        if self.without:
            return self.without
        subject = f"with `{self.feature}`, Ropewalk" if self.feature else "Ropewalk"
        return f"{subject} cannot {self.use}"

    def needed(self, features: frozenset[Feature] = frozenset()) -> bool:
        """Whether clusters cannot run without it, if the settings ask for *features*."""
        return self.required and (self.feature is None or self.feature in features)


SETUP, RUN, IMAGES, LOG, TEARDOWN = Phase.SETUP, Phase.RUN, Phase.IMAGES, Phase.LOGS, Phase.TEARDOWN


def _must(action: str, phases: Phase | tuple[Phase, ...], use: str, *scopes: Scope) -> Permission:
    return Permission(action, phases if isinstance(phases, tuple) else (phases,), use, scopes or (ALL,))


def _may(action: str, phases: Phase | tuple[Phase, ...], use: str, without: str, *scopes: Scope) -> Permission:
    several = phases if isinstance(phases, tuple) else (phases,)
    return Permission(action, several, use, scopes or (ALL,), required=False, without=without)


def _for(feature: Feature, action: str, use: str, *scopes: Scope) -> Permission:
    return Permission(action, (SETUP,), use, scopes or (ALL,), feature=feature)


def _remove(action: str, what: str, *scopes: Scope) -> Permission:
    return _may(action, TEARDOWN, f"remove {what}", f"teardown leaves behind {what}, to be removed by hand", *scopes)


_IDENTITY = (
    _must("sts:GetCallerIdentity", SETUP, "tell whose key it is"),
    _may(
        "iam:SimulatePrincipalPolicy",
        SETUP,
        "ask IAM what the key may do",
        "the check finds out by requests that cannot succeed, and some rights stay unknown",
        OWN_USER,
    ),
    _may(
        "servicequotas:GetServiceQuota",
        (SETUP, RUN),
        "read how many vCPUs may run at once",
        "messages about quotas tell their defaults and not their values",
    ),
)

_ROLES = (
    _must("iam:GetRole", (SETUP, TEARDOWN), "find its roles and ECS's service-linked role", ROLES, SERVICE_ROLE),
    _must("iam:CreateRole", SETUP, "make the roles of tasks", ROLES),
    _may("iam:TagRole", SETUP, "tag the roles of tasks", "roles carry no tags and are known by name only", ROLES),
    _must("iam:AttachRolePolicy", SETUP, "let tasks pull images and write logs", ATTACH),
    _may(
        "iam:ListAttachedRolePolicies",
        (SETUP, TEARDOWN),
        "see whether its roles are complete",
        "prepare cannot tell what a role of your own lacks, and teardown leaves its roles behind",
        ROLES,
    ),
    _must("iam:PassRole", (SETUP, RUN), "give tasks their roles", PASSED),
    _may(
        "iam:CreateServiceLinkedRole",
        SETUP,
        "let ECS use the network",
        "where nobody has used ECS before, an administrator runs `aws iam create-service-linked-role "
        "--aws-service-name ecs.amazonaws.com` once",
        LINKED,
    ),
    _may(
        "iam:UpdateAssumeRolePolicy",
        SETUP,
        "mend who may use its roles",
        "a role of Ropewalk that somebody else changed has to be mended by hand",
        ROLES,
    ),
    _remove("iam:DetachRolePolicy", "its roles", ATTACH),
    _may(
        "iam:ListRolePolicies",
        TEARDOWN,
        "see what somebody put into its roles",
        "teardown cannot remove a role into which somebody put a policy",
        ROLES,
    ),
    _may(
        "iam:DeleteRolePolicy",
        TEARDOWN,
        "take out what somebody put into its roles",
        "teardown cannot remove a role into which somebody put a policy",
        ROLES,
    ),
    _remove("iam:DeleteRole", "its roles", ROLES),
    _remove("iam:DeleteServiceLinkedRole", "ECS's service-linked role, if it made that", SERVICE_ROLE),
    _may(
        "iam:GetServiceLinkedRoleDeletionStatus",
        TEARDOWN,
        "see whether ECS's service-linked role is gone",
        "teardown cannot tell whether ECS's service-linked role is gone",
        SERVICE_ROLE,
    ),
)

_NETWORK = (
    _must("ec2:DescribeVpcs", (SETUP, TEARDOWN), "find its VPC, or check yours"),
    _must("ec2:CreateVpc", SETUP, "make a VPC", VPC),
    _must("ec2:ModifyVpcAttribute", SETUP, "switch on name resolution in its VPC", OWNED),
    _must("ec2:DescribeAvailabilityZones", SETUP, "choose zones, and tell whether the region is enabled"),
    _must("ec2:DescribeSubnets", (SETUP, TEARDOWN), "find its subnets, or check yours"),
    _must("ec2:CreateSubnet", SETUP, "make subnets", CHILDREN, PARENTS),
    _must("ec2:ModifySubnetAttribute", SETUP, "give nodes public addresses", OWNED),
    _must("ec2:CreateInternetGateway", SETUP, "connect its VPC to the internet", CHILDREN),
    _must("ec2:AttachInternetGateway", SETUP, "connect its VPC to the internet", OWNED),
    _may(
        "ec2:DescribeInternetGateways",
        (SETUP, TEARDOWN),
        "find its internet gateway",
        "after an interruption, prepare finds its internet gateway by the routes to it, and teardown by what is stored",
    ),
    _must("ec2:DescribeRouteTables", (SETUP, TEARDOWN), "find its routes, or check yours"),
    _must("ec2:CreateRouteTable", SETUP, "make a route table", CHILDREN, PARENTS),
    _must("ec2:CreateRoute", SETUP, "make routes", OWNED),
    _must("ec2:AssociateRouteTable", SETUP, "give subnets their routes", OWNED),
    _may("ec2:ReplaceRoute", SETUP, "mend routes", "routes that lead nowhere have to be mended by hand", OWNED),
    _may(
        "ec2:ReplaceRouteTableAssociation",
        SETUP,
        "mend which routes a subnet has",
        "a subnet of Ropewalk whose routes somebody changed has to be mended by hand",
        OWNED,
    ),
    _may(
        "ec2:DescribeVpcAttribute",
        SETUP,
        "see whether your own VPC resolves names",
        "a VPC of your own without name resolution is noticed only when no cluster starts in it",
    ),
    _may(
        "ec2:DescribeVpcEndpoints",
        SETUP,
        "see whether your own subnets reach AWS without a way to the internet",
        "prepare says that such subnets may lack endpoints, also where they do not",
    ),
    _must("ec2:DescribeSecurityGroups", (SETUP, TEARDOWN), "find its security group, or check yours"),
    _must("ec2:CreateSecurityGroup", SETUP, "make a security group", CHILDREN, PARENTS),
    _must("ec2:AuthorizeSecurityGroupIngress", SETUP, "open port 8786 to whom you chose", OWNED),
    _may(
        "ec2:RevokeSecurityGroupIngress",
        SETUP,
        "close port 8786 to whom you chose no longer",
        "addresses that you remove from `allow_ingress_from` keep their access until you remove the rule by hand",
        OWNED,
    ),
    _must("ec2:CreateTags", SETUP, "mark what it makes", TAGGED, OWNED),
    _must("ec2:DescribeNetworkInterfaces", (RUN, TEARDOWN), "learn the addresses of schedulers"),
    _may(
        "ec2:DeleteNetworkInterface",
        TEARDOWN,
        "remove network interfaces that tasks left",
        "teardown waits until AWS removes them by itself",
        FOREIGN,
    ),
    _remove("ec2:DeleteSecurityGroup", "its security group", OWNED),
    _remove("ec2:DisassociateRouteTable", "its route tables", OWNED),
    _remove("ec2:DeleteRoute", "routes that it made", OWNED),
    _remove("ec2:DeleteRouteTable", "its route tables", OWNED),
    _remove("ec2:DeleteSubnet", "its subnets", OWNED),
    _remove("ec2:DetachInternetGateway", "its internet gateway", OWNED),
    _remove("ec2:DeleteInternetGateway", "its internet gateway", OWNED),
    _remove("ec2:DeleteVpc", "its VPC", OWNED),
)

_PRIVATE = (
    _for(Feature.PRIVATE, "ec2:AllocateAddress", "give the NAT gateway an address", CHILDREN),
    _for(Feature.PRIVATE, "ec2:CreateNatGateway", "make a NAT gateway", NAT, PARENTS),
    _for(Feature.PRIVATE, "ec2:DescribeNatGateways", "wait for the NAT gateway"),
    _may(
        "ec2:DescribeAddresses",
        (SETUP, TEARDOWN),
        "find the NAT gateway's address",
        "an address that was allocated just before an interruption is not found again",
    ),
    _remove("ec2:DeleteNatGateway", "its NAT gateway, which costs money all day", OWNED),
    _remove("ec2:ReleaseAddress", "its elastic address, which costs money all day", OWNED),
)

_PEERING = (
    _for(Feature.PEERING, "ec2:CreateVpcPeeringConnection", "ask for the peering", CHILDREN, PARENTS),
    _for(Feature.PEERING, "ec2:DescribeVpcPeeringConnections", "wait for the peering"),
    _may(
        "ec2:AcceptVpcPeeringConnection",
        SETUP,
        "accept the peering, where the other VPC is in the same AWS account",
        "you accept the peering yourself",
        OWNED,
        FOREIGN,
    ),
    _remove("ec2:DeleteVpcPeeringConnection", "its peering", OWNED),
)

_ECS = (
    _must("ecs:CreateCluster", SETUP, "make an ECS cluster"),
    _may(
        "ecs:PutClusterCapacityProviders",
        SETUP,
        "add Fargate Spot to an ECS cluster that lacks it",
        "an ECS cluster that exists without Fargate Spot stays without",
        CLUSTERS,
    ),
    _must("ecs:ListClusters", SETUP, "find its ECS cluster"),
    _may(
        "ecs:DescribeClusters",
        (SETUP, TEARDOWN),
        "look at its ECS cluster",
        "the check cannot tell whether an ECS cluster of your own offers Fargate Spot",
        CLUSTERS,
    ),
    _may(
        "ecs:TagResource",
        (SETUP, RUN),
        "tag ECS clusters, task definitions and tasks",
        "the bill shows no cost per cluster, and your own tags are missing on tasks",
        CLUSTERS,
        DEFINITIONS,
        TASKS,
    ),
    _must("ecs:RegisterTaskDefinition", RUN, "describe nodes to ECS"),
    _must("ecs:DescribeTaskDefinition", RUN, "use a task definition again"),
    _must("ecs:ListTaskDefinitions", TEARDOWN, "find its task definitions"),
    _must("ecs:RunTask", RUN, "launch nodes", LAUNCH),
    _must("ecs:ListTasks", (RUN, TEARDOWN), "find nodes", IN_CLUSTER),
    _must("ecs:DescribeTasks", (RUN, TEARDOWN), "watch nodes", TASKS),
    _must("ecs:StopTask", (RUN, TEARDOWN), "stop nodes", TASKS),
    _remove("ecs:DeregisterTaskDefinition", "its task definitions, which cost nothing"),
    _remove("ecs:DeleteTaskDefinitions", "its task definitions, which cost nothing", DEFINITIONS),
    _remove("ecs:DeleteCluster", "its ECS cluster", CLUSTERS),
)

_NO_IMAGES = "images cannot be pushed to the AWS account; clusters can use images from elsewhere"

_ECR = (
    _must("ecr:DescribeRepositories", (SETUP, TEARDOWN), "find its image repository", REPOSITORIES),
    _must("ecr:CreateRepository", SETUP, "make an image repository", REPOSITORIES),
    _may("ecr:TagResource", SETUP, "tag its image repository", "the repository is known by name only", REPOSITORIES),
    _must("ecr:DescribeImages", IMAGES, "list images", REPOSITORIES),
    _may("ecr:BatchCheckLayerAvailability", IMAGES, "push missing layers only", _NO_IMAGES, REPOSITORIES),
    _may("ecr:InitiateLayerUpload", IMAGES, "push images", _NO_IMAGES, REPOSITORIES),
    _may("ecr:UploadLayerPart", IMAGES, "push images", _NO_IMAGES, REPOSITORIES),
    _may("ecr:CompleteLayerUpload", IMAGES, "push images", _NO_IMAGES, REPOSITORIES),
    _may("ecr:PutImage", IMAGES, "push images", _NO_IMAGES, REPOSITORIES),
    _may(
        "ecr:BatchDeleteImage",
        (IMAGES, TEARDOWN),
        "remove images",
        "images stay in its repository, and teardown leaves them behind, to be removed by hand",
        REPOSITORIES,
    ),
    _remove("ecr:DeleteRepository", "its image repository", REPOSITORIES),
)

_LOGS = (
    _must("logs:CreateLogGroup", SETUP, "make a log group", LOGS),
    _must("logs:PutRetentionPolicy", SETUP, "limit how long logs are kept", LOGS),
    _may(
        "logs:DescribeLogGroups",
        (SETUP, TEARDOWN),
        "look for its log group",
        "the check cannot tell whether the log group exists",
    ),
    _may("logs:TagResource", SETUP, "tag its log group", "the log group is known by name only", LOGS),
    _must("logs:GetLogEvents", LOG, "show logs of nodes", LOGS),
    _remove("logs:DeleteLogGroup", "its log group and the logs in it", LOGS),
)

PERMISSIONS: tuple[Permission, ...] = (
    *_IDENTITY,
    *_ROLES,
    *_NETWORK,
    *_PRIVATE,
    *_PEERING,
    *_ECS,
    *_ECR,
    *_LOGS,
)
"""The table. Its order is that of the reference page."""

BY_ACTION: dict[str, Permission] = {permission.action: permission for permission in PERMISSIONS}

NOT_NEEDED: dict[str, str] = {
    "ecr:GetAuthorizationToken": "signs in to the registry for `docker push`; Ropewalk pushes with ECR's own API, "
    "signed by the key itself. (Tasks pull with the execution role, which has it.)",
    "ecr:ListImages": "`ecr:DescribeImages` tells the same and more: size, time, digest.",
}
"""Actions of the reference product's list that Ropewalk never uses, and why."""


def breaks_without(action: str) -> str | None:
    """Return what does not work without an action; None: it is none of the table."""
    permission = BY_ACTION.get(action)
    return permission.breaks if permission else None
