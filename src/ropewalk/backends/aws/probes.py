"""For each action, a request that tells whether it is allowed and that cannot change anything.

Three kinds: what only reads; EC2's dry runs; and requests about things that cannot exist, which AWS authorises before
it looks for them, so that *not found* means *allowed*. All names begin like Ropewalk's own, so that a policy made with
``--scoped`` covers them. Dry runs, too, are about things that cannot exist: an endpoint that ignores ``DryRun`` does no
harm. Where no such request is known the action is not here, and only IAM's policy simulation can tell.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.quotas import FARGATE
from ropewalk.backends.aws.tags import INSTALLATION
from ropewalk.errors import BackendError
from ropewalk.schemas.aws_scopes import EXECUTION_POLICY

__all__ = ["NOBODY", "PROBES", "Probe", "Verdict", "verdict"]

NOBODY = "ropewalk-check-does-not-exist"
_REPOSITORY = {"repositoryName": "ropewalk/check-does-not-exist"}
_LOG_GROUP = "/ropewalk/check-does-not-exist"
_CLUSTER = {"cluster": NOBODY}
_DEFINITION = f"{NOBODY}:1"
_ROLE = {"RoleName": NOBODY}
_NOBODY_TRUSTED = '{"Version": "2012-10-17"}'
_DIGEST = "sha256:" + "0" * 64
_TASK = "0" * 32
_UPLOAD = "00000000-0000-0000-0000-000000000000"
_NUMBER = "0" * 17  # ids of EC2 have 17 hexadecimal digits; none consists of zeros
_ADDRESS = "192.0.2.0/24"  # reserved for documentation (RFC 5737)


@dataclass(frozen=True, slots=True)
class Probe:
    """A harmless request. ``{partition}``, ``{region}`` and ``{account}`` are filled into its texts."""

    service: str
    operation: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    tagged: str | None = None
    """Type of the thing that it would make: where the plain request is denied, it is tried with our tag, too."""

    def filled(self, names: Mapping[str, str]) -> dict[str, Any]:
        """Return the parameters for one AWS account and region."""
        return {key: _fill(value, names) for key, value in self.parameters.items()}

    def with_tag(self, names: Mapping[str, str]) -> dict[str, Any] | None:
        """Return the parameters with our tag on what would be made."""
        if self.tagged is None:
            return None
        tags = [{"Key": INSTALLATION, "Value": "check"}]
        return {**self.filled(names), "TagSpecifications": [{"ResourceType": self.tagged, "Tags": tags}]}


def _fill(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        for name, content in names.items():
            value = value.replace(f"{{{name}}}", content)
    return value


def _id(kind: str) -> str:
    return f"{kind}-{_NUMBER}"


def _ec2(operation: str, *, tagged: str | None = None, **parameters: Any) -> Probe:
    return Probe("ec2", operation, {**parameters, "DryRun": True}, tagged)


_VPC = {"VpcId": _id("vpc")}
_GROUP = {"GroupId": _id("sg")}
_TABLE = {"RouteTableId": _id("rtb")}
_SUBNET = {"SubnetId": _id("subnet")}
_GATEWAY = {"InternetGatewayId": _id("igw")}
_PEER = {"VpcPeeringConnectionId": _id("pcx")}
_RULE = {"IpProtocol": "tcp", "FromPort": 8786, "ToPort": 8786, "IpRanges": [{"CidrIp": _ADDRESS}]}

_EC2_PROBES = (
    *(
        _ec2(operation)
        for operation in (
            "DescribeAddresses",
            "DescribeAvailabilityZones",
            "DescribeInternetGateways",
            "DescribeNatGateways",
            "DescribeNetworkInterfaces",
            "DescribeRouteTables",
            "DescribeSecurityGroups",
            "DescribeSubnets",
            "DescribeVpcEndpoints",
            "DescribeVpcPeeringConnections",
            "DescribeVpcs",
        )
    ),
    _ec2("AcceptVpcPeeringConnection", **_PEER),
    _ec2("AllocateAddress", tagged="elastic-ip", Domain="vpc"),
    _ec2("AssociateRouteTable", **_TABLE, **_SUBNET),
    _ec2("AttachInternetGateway", **_GATEWAY, **_VPC),
    _ec2("AuthorizeSecurityGroupIngress", **_GROUP, IpPermissions=[_RULE]),
    _ec2("CreateInternetGateway", tagged="internet-gateway"),
    _ec2("CreateNatGateway", tagged="natgateway", **_SUBNET, AllocationId=_id("eipalloc")),
    _ec2("CreateRoute", **_TABLE, DestinationCidrBlock=_ADDRESS, GatewayId=_id("igw")),
    _ec2("CreateRouteTable", tagged="route-table", **_VPC),
    _ec2("CreateSecurityGroup", tagged="security-group", **_VPC, GroupName=NOBODY, Description=NOBODY),
    _ec2("CreateSubnet", tagged="subnet", **_VPC, CidrBlock=_ADDRESS),
    _ec2("CreateTags", Resources=[_id("vpc")], Tags=[{"Key": INSTALLATION, "Value": "check"}]),
    _ec2("CreateVpc", tagged="vpc", CidrBlock=_ADDRESS),
    _ec2("CreateVpcPeeringConnection", tagged="vpc-peering-connection", **_VPC, PeerVpcId=_id("vpc")),
    _ec2("DeleteInternetGateway", **_GATEWAY),
    _ec2("DeleteNatGateway", NatGatewayId=_id("nat")),
    _ec2("DeleteNetworkInterface", NetworkInterfaceId=_id("eni")),
    _ec2("DeleteRoute", **_TABLE, DestinationCidrBlock=_ADDRESS),
    _ec2("DeleteRouteTable", **_TABLE),
    _ec2("DeleteSecurityGroup", **_GROUP),
    _ec2("DeleteSubnet", **_SUBNET),
    _ec2("DeleteVpc", **_VPC),
    _ec2("DeleteVpcPeeringConnection", **_PEER),
    _ec2("DescribeVpcAttribute", **_VPC, Attribute="enableDnsSupport"),
    _ec2("DetachInternetGateway", **_GATEWAY, **_VPC),
    _ec2("DisassociateRouteTable", AssociationId=_id("rtbassoc")),
    _ec2("ReleaseAddress", AllocationId=_id("eipalloc")),
    _ec2("ReplaceRoute", **_TABLE, DestinationCidrBlock=_ADDRESS, GatewayId=_id("igw")),
    _ec2("ReplaceRouteTableAssociation", **_TABLE, AssociationId=_id("rtbassoc")),
    _ec2("RevokeSecurityGroupIngress", **_GROUP, IpPermissions=[_RULE]),
)
# ModifyVpcAttribute and ModifySubnetAttribute know no dry run; they are about things that cannot exist.
_EC2_OTHERS = (
    Probe("ec2", "ModifySubnetAttribute", {**_SUBNET, "MapPublicIpOnLaunch": {"Value": True}}),
    Probe("ec2", "ModifyVpcAttribute", {**_VPC, "EnableDnsHostnames": {"Value": True}}),
)

_IAM_PROBES = (
    Probe("iam", "GetRole", _ROLE),
    # AWS refuses this trust policy, which names nobody, after it authorised the call.
    Probe("iam", "CreateRole", {**_ROLE, "AssumeRolePolicyDocument": _NOBODY_TRUSTED}),
    Probe("iam", "TagRole", {**_ROLE, "Tags": [{"Key": INSTALLATION, "Value": "check"}]}),
    Probe("iam", "AttachRolePolicy", {**_ROLE, "PolicyArn": EXECUTION_POLICY}),
    Probe("iam", "DetachRolePolicy", {**_ROLE, "PolicyArn": EXECUTION_POLICY}),
    Probe("iam", "ListAttachedRolePolicies", _ROLE),
    Probe("iam", "ListRolePolicies", _ROLE),
    Probe("iam", "DeleteRolePolicy", {**_ROLE, "PolicyName": NOBODY}),
    Probe("iam", "UpdateAssumeRolePolicy", {**_ROLE, "PolicyDocument": _NOBODY_TRUSTED}),
    Probe("iam", "DeleteRole", _ROLE),
)

_ECS_PROBES = (
    Probe("ecs", "ListClusters", {"maxResults": 1}),
    Probe("ecs", "ListTaskDefinitions", {"maxResults": 1}),
    Probe("ecs", "DescribeClusters", {"clusters": [NOBODY]}),
    Probe("ecs", "DescribeTaskDefinition", {"taskDefinition": _DEFINITION}),
    Probe("ecs", "DescribeTasks", {**_CLUSTER, "tasks": [_TASK]}),
    Probe("ecs", "ListTasks", _CLUSTER),
    Probe("ecs", "RunTask", {**_CLUSTER, "taskDefinition": _DEFINITION, "launchType": "FARGATE"}),
    Probe("ecs", "StopTask", {**_CLUSTER, "task": _TASK}),
    Probe("ecs", "DeleteCluster", _CLUSTER),
    Probe("ecs", "DeregisterTaskDefinition", {"taskDefinition": _DEFINITION}),
    Probe("ecs", "DeleteTaskDefinitions", {"taskDefinitions": [_DEFINITION]}),
    Probe(
        "ecs",
        "PutClusterCapacityProviders",
        {**_CLUSTER, "capacityProviders": ["FARGATE"], "defaultCapacityProviderStrategy": []},
    ),
    Probe(
        "ecs",
        "TagResource",
        {
            "resourceArn": f"arn:{{partition}}:ecs:{{region}}:{{account}}:cluster/{NOBODY}",
            "tags": [{"key": INSTALLATION, "value": "check"}],
        },
    ),
)

_ECR_PROBES = (
    Probe("ecr", "DescribeRepositories", {"repositoryNames": [_REPOSITORY["repositoryName"]]}),
    Probe("ecr", "DescribeImages", _REPOSITORY),
    Probe("ecr", "BatchCheckLayerAvailability", {**_REPOSITORY, "layerDigests": [_DIGEST]}),
    Probe("ecr", "BatchDeleteImage", {**_REPOSITORY, "imageIds": [{"imageDigest": _DIGEST}]}),
    Probe("ecr", "InitiateLayerUpload", _REPOSITORY),
    Probe(
        "ecr",
        "UploadLayerPart",
        {**_REPOSITORY, "uploadId": _UPLOAD, "partFirstByte": 0, "partLastByte": 0, "layerPartBlob": b"0"},
    ),
    Probe("ecr", "CompleteLayerUpload", {**_REPOSITORY, "uploadId": _UPLOAD, "layerDigests": [_DIGEST]}),
    Probe("ecr", "PutImage", {**_REPOSITORY, "imageManifest": "{}"}),
    Probe("ecr", "DeleteRepository", _REPOSITORY),
    Probe(
        "ecr",
        "TagResource",
        {
            "resourceArn": f"arn:{{partition}}:ecr:{{region}}:{{account}}:repository/{_REPOSITORY['repositoryName']}",
            "tags": [{"Key": INSTALLATION, "Value": "check"}],
        },
    ),
)

_LOG_PROBES = (
    Probe("logs", "DescribeLogGroups", {"logGroupNamePrefix": _LOG_GROUP, "limit": 1}),
    Probe("logs", "GetLogEvents", {"logGroupName": _LOG_GROUP, "logStreamName": NOBODY, "limit": 1}),
    Probe("logs", "PutRetentionPolicy", {"logGroupName": _LOG_GROUP, "retentionInDays": 1}),
    Probe("logs", "DeleteLogGroup", {"logGroupName": _LOG_GROUP}),
    Probe(
        "logs",
        "TagResource",
        {
            "resourceArn": f"arn:{{partition}}:logs:{{region}}:{{account}}:log-group:{_LOG_GROUP}",
            "tags": {INSTALLATION: "check"},
        },
    ),
)

PROBES: dict[str, Probe] = {
    f"{probe.service}:{probe.operation}": probe
    for probe in (*_EC2_PROBES, *_EC2_OTHERS, *_IAM_PROBES, *_ECS_PROBES, *_ECR_PROBES, *_LOG_PROBES)
}
PROBES["servicequotas:GetServiceQuota"] = Probe(
    "service-quotas", "GetServiceQuota", {"ServiceCode": FARGATE.service, "QuotaCode": FARGATE.code}
)


class Verdict:
    """What a probe says; texts, since they go into reports."""

    ALLOWED = "allowed"
    DENIED = "denied"
    UNKNOWN = "unknown"


_ALLOWED_CODES = frozenset({
    "ClientException",  # ECS: no such task definition
    "DryRunOperation",
    "MalformedPolicyDocument", "MalformedPolicyDocumentException",
    "NoSuchEntity", "NoSuchEntityException",
})  # fmt: skip


def verdict(error: BackendError | None, action: str) -> str:
    """Say what the outcome of a probe means for an action.

    Errors of validation prove nothing: AWS may look at a parameter's form before it authorises.
    """
    if error is None:
        return Verdict.ALLOWED
    if denied := error.details.get("action"):
        # Tagging while creating is authorised after creating, so that is allowed if only tagging is denied.
        return Verdict.DENIED if denied == action else Verdict.UNKNOWN
    code = aws_code(error) or ""
    if code in _ALLOWED_CODES or code.endswith(("NotFound", "NotFoundException")):
        return Verdict.ALLOWED
    return Verdict.UNKNOWN
