"""What else a team can bring along: ECS cluster, roles, repository, log group. Checked, used, never changed."""

from __future__ import annotations

from ropewalk.backends.aws.ecs import CAPACITY, NO_SPOT, listed, look_at
from ropewalk.backends.aws.log_group import find_log_group
from ropewalk.backends.aws.registry import find_repository
from ropewalk.backends.aws.roles import SERVICE, execution_policy, find_role, trusts
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import Resource
from ropewalk.errors import FixItError

__all__ = ["own_cluster", "own_log_group", "own_repository", "own_role"]


async def own_cluster(work: Work) -> Resource:
    """Return the ECS cluster of the settings, by name or ARN; it has to offer Fargate."""
    name = str(work.settings.ecs_cluster)
    arn = await listed(work, name)
    cluster = await look_at(work, arn) if arn else None
    if arn is None or (cluster and cluster.get("status") != "ACTIVE"):
        raise FixItError(
            f"There is no active ECS cluster {name} in the region {work.aws.region} of this AWS account.",
            advice="Correct its name or ARN, or leave `ecs_cluster` out.",
            field="ecs_cluster",
        )
    details = {"owned": False, "name": arn.rpartition("/")[2]}
    if cluster is None:
        return Resource("ecs_cluster", arn, details | {"note": "The key may not look whether it offers Fargate Spot."})
    offered = sorted(cluster.get("capacityProviders") or ())
    if "FARGATE" not in offered:
        command = f"aws ecs put-cluster-capacity-providers --cluster {name} --capacity-providers {' '.join(CAPACITY)}"
        raise FixItError(
            f"The ECS cluster {name} does not offer Fargate.",
            advice=f"Run `{command} --default-capacity-provider-strategy []`; this replaces the providers that it has.",
            field="ecs_cluster",
        )
    note = {} if "FARGATE_SPOT" in offered else {"note": NO_SPOT}
    return Resource("ecs_cluster", arn, details | {"capacity_providers": offered} | note)


async def own_role(work: Work, kind: str) -> Resource:
    """Return a role of the settings, by ARN; ECS tasks have to be allowed to assume it."""
    field = f"{kind}_arn"
    arn = str(getattr(work.settings, field))
    role = await find_role(work, arn.rpartition("/")[2])
    if role is None or role["Arn"] != arn:
        raise FixItError(
            f"There is no role {arn} in this AWS account.", advice=f"Correct `{field}`, or leave it out.", field=field
        )
    if not trusts(role, SERVICE):
        raise FixItError(
            f"The role {arn} does not let ECS tasks assume it.",
            advice=f"Add {SERVICE} as a service to its trust policy, with the action sts:AssumeRole.",
            field=field,
        )
    note = await _powers(work, role["RoleName"]) if kind == "execution_role" else None
    return Resource(kind, arn, {"owned": False, "name": role["RoleName"]} | ({"note": note} if note else {}))


async def _powers(work: Work, name: str) -> str | None:
    """Return a note if the role may not be able to pull images and write logs. It may by policies that differ."""
    wanted = execution_policy(work.aws.region)
    try:
        pages = work.aws.pages("iam", "ListAttachedRolePolicies", "AttachedPolicies", RoleName=name)
        attached = [policy["PolicyArn"] async for policy in pages]
    except FixItError as error:
        if denied(error):
            return "The key may not look which policies it has."
        raise
    if wanted in attached:
        return None
    return f"AWS's policy {wanted} is not attached: check that it may pull your images and write logs."


async def own_repository(work: Work) -> Resource:
    """Return the repository of the settings, by name, ARN or URI."""
    said = str(work.settings.repository)
    name = said.partition("repository/")[2] if said.startswith("arn:") else said
    name = name.partition("/")[2] if ".dkr.ecr." in name else name
    item = await find_repository(work, name)
    if item is None:
        raise FixItError(
            f"There is no ECR repository {name} in the region {work.aws.region} of this AWS account.",
            advice="Correct `repository`, or leave it out.",
            field="repository",
        )
    return Resource("repository", item["repositoryUri"], {"owned": False, "name": name, "arn": item["repositoryArn"]})


async def own_log_group(work: Work) -> Resource:
    """Return the log group of the settings. A key that may not look for it is believed."""
    name = str(work.settings.log_group)
    try:
        group = await find_log_group(work, name)
    except FixItError as error:
        if not denied(error):
            raise
        return Resource("log_group", name, {"owned": False, "note": "The key may not look whether it exists."})
    if group is None:
        raise FixItError(
            f"There is no log group {name} in the region {work.aws.region} of this AWS account.",
            advice="Correct `log_group`, or leave it out.",
            field="log_group",
        )
    return Resource("log_group", name, {"owned": False, "retention_days": group.get("retentionInDays")})
