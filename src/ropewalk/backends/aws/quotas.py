"""Quotas that Ropewalk can run into: which one, what its default is, and where to raise it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ropewalk.errors import FixItError

__all__ = ["FARGATE", "FARGATE_SPOT", "QUOTAS", "Quota", "quota_of"]


@dataclass(frozen=True, slots=True)
class Quota:
    """One quota of an AWS account in a region.

    ``service`` and ``code`` are those of Service Quotas; ``default`` is AWS's, in ``unit``. ``cure`` says what helps
    besides a higher quota.
    """

    service: str
    code: str
    name: str
    default: float
    cure: str | None = None

    def error(self, message: str, details: dict[str, Any] | None = None, value: float | None = None) -> FixItError:
        """Return the error that says which quota is used up, its *value* if it is known, and where to raise it."""
        size = f"{value:g}" if value is not None else f"{self.default:g} unless it was changed"
        text = f'The quota "{self.name}" of the AWS account ({size}) is used up'
        text += f": {message.rstrip('.')}." if message else "."
        facts = dict(details or {}) | {"quota": {"service": self.service, "code": self.code, "value": value}}
        return FixItError(text, advice=self.advice(), details=facts)

    def advice(self) -> str:
        """Return what to do about it."""
        where = (
            f"Ask for more in the AWS console, Service Quotas (quota {self.code}), or with `aws service-quotas "
            f"request-service-quota-increase --service-code {self.service} --quota-code {self.code} --desired-value …`."
        )
        return f"{self.cure} {where}" if self.cure else where


FARGATE = Quota(
    "fargate", "L-3032A538", "Fargate On-Demand vCPU resource count", 6, "Stop clusters that are not needed."
)
FARGATE_SPOT = Quota(
    "fargate", "L-36FBB829", "Fargate Spot vCPU resource count", 6, "Stop clusters that are not needed."
)

_PEERING = Quota("vpc", "L-7E9ECCDB", "Active VPC peering connections per VPC", 50)
_RULES = Quota("vpc", "L-0EA8095F", "Inbound or outbound rules per security group", 60)

# Codes and defaults: "Amazon VPC quotas", "Amazon ECS service quotas", "AWS Fargate service quotas", "IAM and STS
# quotas", "Amazon ECR service quotas", "CloudWatch Logs quotas" in AWS's documentation.
QUOTAS: dict[tuple[str, str], Quota] = {
    ("ec2", "VpcLimitExceeded"): Quota(
        "vpc", "L-F678F1CE", "VPCs per Region", 5, "Bring a VPC of your own (`vpc_id`), or delete one."
    ),
    ("ec2", "InternetGatewayLimitExceeded"): Quota("vpc", "L-A4707A72", "Internet gateways per Region", 5),
    ("ec2", "NatGatewayLimitExceeded"): Quota("vpc", "L-FE5A380F", "NAT gateways per Availability Zone", 5),
    ("ec2", "AddressLimitExceeded"): Quota("ec2", "L-0263D0A3", "EC2-VPC Elastic IPs", 5),
    ("ec2", "SecurityGroupLimitExceeded"): Quota("vpc", "L-E79EC296", "VPC security groups per Region", 2500),
    ("ec2", "RulesPerSecurityGroupLimitExceeded"): _RULES,
    ("ec2", "SubnetLimitExceeded"): Quota("vpc", "L-407747CB", "Subnets per VPC", 200),
    ("ec2", "RouteTableLimitExceeded"): Quota("vpc", "L-589F43AA", "Route tables per VPC", 200),
    ("ec2", "RouteLimitExceeded"): Quota("vpc", "L-93826ACB", "Routes per route table", 500),
    ("ec2", "NetworkInterfaceLimitExceeded"): Quota("vpc", "L-DF5E4CA3", "Network interfaces per Region", 5000),
    ("ec2", "VpcPeeringConnectionLimitExceeded"): _PEERING,
    ("ec2", "ActiveVpcPeeringConnectionPerVpcLimitExceeded"): _PEERING,
    ("ec2", "OutstandingVpcPeeringConnectionLimitExceeded"): Quota(
        "vpc", "L-DC9F7029", "Outstanding VPC peering connection requests", 25
    ),
    ("iam", "LimitExceeded"): Quota("iam", "L-FE177D64", "Roles per account", 1000),
    ("iam", "LimitExceededException"): Quota("iam", "L-FE177D64", "Roles per account", 1000),
    ("ecr", "LimitExceededException"): Quota("ecr", "L-CFEB8E8D", "Registered repositories", 100_000),
    ("logs", "LimitExceededException"): Quota("logs", "L-D2832119", "Log groups", 1_000_000),
    ("ecs", "LimitExceededException"): Quota("ecs", "L-21C621EB", "Clusters per account", 10_000),
}


def quota_of(service: str, code: str, message: str = "") -> Quota | None:
    """Return the quota that an error is about. Fargate's are known by AWS's sentence, since they have no code."""
    lower = message.lower()
    if service == "ecs" and "reached the limit" in lower and ("vcpu" in lower or "tasks" in lower):
        return FARGATE_SPOT if "spot" in lower else FARGATE
    return QUOTAS.get((service, code))
