"""What ``prepare`` would have made by its end, and what that costs: from the settings alone."""

from __future__ import annotations

from collections.abc import Iterator

from ropewalk.backends.aws.costs import address_monthly_cost, gateway_monthly_cost, note
from ropewalk.backends.aws.own_network import brings_network
from ropewalk.backends.port import SCHEDULER_PORT
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.cloud_accounts import PlannedResource, PreparePlan

__all__ = ["plan"]


def plan(settings: AwsSettings) -> PreparePlan:
    """Return what a prepared cloud account has, without what the team brings along."""
    resources = [*_network(settings), *_rest(settings)]
    paid = any(resource.monthly_cost for resource in resources)
    free = "Nothing of it costs money while no cluster runs. Stored images and logs cost by size."
    return PreparePlan(resources=resources, currency="USD", notes=[note(settings.region) if paid else free])


def _network(settings: AwsSettings) -> Iterator[PlannedResource]:
    if not brings_network(settings):
        yield PlannedResource(kind="vpc", what=f"A VPC with the addresses {settings.vpc_cidr}.")
        yield PlannedResource(kind="subnet", what="Two public subnets, in different zones.")
        yield PlannedResource(kind="internet_gateway", what="An internet gateway for it.")
        yield PlannedResource(kind="route_table", what="A route table, from the public subnets to the internet.")
        if settings.private_subnets:
            yield from _private(settings)
        for peer in settings.peering:
            yield PlannedResource(kind="peering", what=f"A peering with {peer.vpc_id}, and routes on both sides.")
    if not settings.security_group_id:
        sources = ", ".join(settings.allow_ingress_from) or "your address"
        what = f"A security group: port {SCHEDULER_PORT} from {sources}, all traffic between nodes."
        yield PlannedResource(kind="security_group", what=what)


def _private(settings: AwsSettings) -> Iterator[PlannedResource]:
    yield PlannedResource(kind="subnet", what="Two private subnets, in different zones: nodes run there.")
    yield PlannedResource(kind="route_table", what="A route table, from the private subnets to the NAT gateway.")
    yield PlannedResource(
        kind="elastic_ip", what="The address of the NAT gateway.", monthly_cost=address_monthly_cost()
    )
    yield PlannedResource(
        kind="nat_gateway",
        what="A NAT gateway, through which nodes without public addresses reach the internet.",
        monthly_cost=gateway_monthly_cost(settings.region),
    )


def _rest(settings: AwsSettings) -> Iterator[PlannedResource]:
    if not settings.ecs_cluster:
        yield PlannedResource(kind="ecs_cluster", what="An ECS cluster with Fargate and Fargate Spot.")
    if not settings.execution_role_arn:
        what = "A role with which ECS pulls images and writes logs."
        yield PlannedResource(kind="execution_role", what=what)
    if not settings.task_role_arn:
        yield PlannedResource(kind="task_role", what="A role without rights, for the code that users run.")
    if not settings.repository:
        yield PlannedResource(kind="repository", what="An ECR repository for images.")
    if not settings.log_group:
        yield PlannedResource(kind="log_group", what=f"A log group; logs are kept {settings.log_retention_days} days.")
