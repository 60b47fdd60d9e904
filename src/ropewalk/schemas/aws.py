"""What a team says about its AWS account."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from ropewalk.schemas.common import Schema

Cidr = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]


def _copied(text: str) -> str:
    """Take off what copying adds: white space, line breaks, quotes; no key has any."""
    return text.strip().strip("\"'`").strip()


def _copied_secret(secret: SecretStr) -> SecretStr:
    return SecretStr(_copied(secret.get_secret_value()))


class AwsCredentials(Schema):
    """A long-lived access key; the only part of a cloud account that is never shown again."""

    access_key_id: Annotated[str, AfterValidator(_copied)]
    secret_access_key: Annotated[SecretStr, AfterValidator(_copied_secret)]


class AwsPeering(Schema):
    """Another VPC that clusters should reach by private addresses."""

    vpc_id: str
    cidr: Cidr
    region: str | None = Field(None, description="Null: the region of the cloud account.")
    owner_id: str | None = Field(None, description="AWS account of that VPC; null: the same.")


class AwsSettings(Schema):
    """Where and how clusters run in an AWS account. What is null or empty, `prepare` makes."""

    region: str = Field("us-east-1", description="AWS region, for example eu-central-1.")
    role_arn: str | None = Field(None, description="Role to assume with the key and `external_id`; null: none.")
    external_id: str | None = Field(None, description="Made by Ropewalk; the trust policy of `role_arn` asks for it.")
    vpc_cidr: Cidr = Field("10.77.0.0/16", description="Addresses of the VPC that is made.")
    private_subnets: bool = Field(
        False, description="Nodes get no public address and go out through a NAT gateway, which costs money all day."
    )
    allow_ingress_from: list[Cidr] = Field(
        default_factory=list, description="Who may reach schedulers (port 8786); empty: the address that asked."
    )
    peering: list[AwsPeering] = Field(default_factory=list)
    vpc_id: str | None = Field(None, description="Your own VPC.")
    subnet_ids: list[str] = Field(default_factory=list, description="Your own subnets, in two zones at least.")
    security_group_id: str | None = None
    ecs_cluster: str | None = Field(None, description="Name or ARN of your own ECS cluster.")
    execution_role_arn: str | None = None
    task_role_arn: str | None = Field(None, description="Rights of your code; null: a role that has none.")
    repository: str | None = Field(None, description="Name of your own ECR repository.")
    log_group: str | None = None
    log_retention_days: int = Field(30, description="One of the periods that CloudWatch Logs knows.")
    image: str | None = Field(None, description="Image of nodes where a cluster names none (`container=`).")
    architecture: Annotated[str, Field(pattern="^(X86_64|ARM64)$")] = "X86_64"
