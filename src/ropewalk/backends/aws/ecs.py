"""The ECS cluster, and the role without which ECS cannot give tasks their network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.backends.aws.api import aws_code
from ropewalk.backends.aws.linked_role import ROLE, ensure_linked_role
from ropewalk.backends.aws.patience import not_there
from ropewalk.backends.aws.tags import CLOUD_ACCOUNT, INSTALLATION, as_tags, cluster_name, from_tags, place_tags
from ropewalk.backends.aws.work import Work, denied
from ropewalk.backends.port import Place
from ropewalk.errors import BackendError, FixItError

__all__ = ["CAPACITY", "NO_SPOT", "ecs_cluster", "listed", "look_at", "someone_elses"]

CAPACITY = ("FARGATE", "FARGATE_SPOT")
NO_SPOT = "The ECS cluster does not offer Fargate Spot, so spot workers run on demand."


async def ecs_cluster(work: Work) -> None:
    """Complete the ECS cluster: it costs nothing, and has Fargate and Fargate Spot."""
    if await ensure_linked_role(work.aws) or work.known("service_linked_role"):
        await work.has("service_linked_role", ROLE)
    name = cluster_name(work.place)
    arn = await listed(work, name)
    cluster = await look_at(work, arn) if arn else None
    if arn is None or (cluster and cluster.get("status") != "ACTIVE"):
        cluster, note = await _create(work, name)
        arn = str(cluster["clusterArn"])
    else:
        note = await _tag(work, arn, cluster)
    for former in work.known("ecs_cluster"):
        if former.id != arn:
            await work.forget("ecs_cluster", former.id)
    await work.has("ecs_cluster", arn, name=name, capacity_providers=_providers(cluster), note=note)
    await _offer_spot(work, arn, cluster, note)


def _providers(cluster: Mapping[str, Any] | None) -> list[str]:
    """Return what the cluster offers; one that the key may not look at has what we gave it."""
    return sorted(cluster.get("capacityProviders") or ()) if cluster else sorted(CAPACITY)


async def listed(work: Work, name: str) -> str | None:
    """Return the ARN of an ECS cluster by its name or ARN; None if it does not exist."""
    arns = [arn async for arn in work.aws.pages("ecs", "ListClusters", "clusterArns")]
    return next((arn for arn in arns if name in {arn, arn.rpartition("/")[2]}), None)


async def look_at(work: Work, arn: str) -> dict[str, Any] | None:
    """Describe an ECS cluster; None: the key may not, or it does not exist."""
    try:
        answer = await work.aws.call("ecs", "DescribeClusters", clusters=[arn], include=["TAGS"])
    except FixItError as error:
        if denied(error) or not_there(error):
            return None
        raise
    clusters: list[dict[str, Any]] = answer.get("clusters") or []
    return next(iter(clusters), None)


def someone_elses(cluster: Mapping[str, Any] | None, place: Place) -> bool:
    """Whether its tags say that it was made for another cloud account. One without tags is known by its name."""
    tags = from_tags((cluster or {}).get("tags") or ())
    expected = {INSTALLATION: place.installation, CLOUD_ACCOUNT: place.cloud_account}
    return any(tags.get(name, value) != value for name, value in expected.items())


async def _create(work: Work, name: str) -> tuple[dict[str, Any], str | None]:
    async def create() -> tuple[dict[str, Any], str | None]:
        tags = {"tags": as_tags(place_tags(work.place), lower=True)}
        return await work.tagged("ecs", "CreateCluster", tags, clusterName=name, capacityProviders=list(CAPACITY))

    answer, note = await work.patience.insist(create, _role_not_seen, within=60.0)
    return answer["cluster"], note


def _role_not_seen(error: BackendError) -> bool:
    """Whether ECS does not see its role yet, which was made a moment ago."""
    return aws_code(error) == "InvalidParameterException" and "service linked role" in error.message.lower()


async def _tag(work: Work, arn: str, cluster: dict[str, Any] | None) -> str | None:
    """Tag a cluster that lacks our tags; return a note if the key may not."""
    if someone_elses(cluster, work.place):
        raise FixItError(
            f"The ECS cluster {arn} was made by another installation of Ropewalk.",
            advice="Remove it there, or bring your own along (`ecs_cluster`).",
        )
    untagged = "note" in work.remembered("ecs_cluster", arn) if cluster is None else not cluster.get("tags")
    if not untagged:
        return None
    try:
        tags = as_tags(place_tags(work.place), lower=True)
        await work.aws.call("ecs", "TagResource", resourceArn=arn, tags=tags)
    except FixItError as error:
        if action := denied(error):
            return work.untagged(action)
        raise
    return None


async def _offer_spot(work: Work, arn: str, cluster: dict[str, Any] | None, note: str | None) -> None:
    """Add Fargate Spot to a cluster that lacks it, because somebody made or changed it by hand."""
    offered = _providers(cluster)
    if set(CAPACITY) <= set(offered):
        return
    wanted: Sequence[str] = sorted({*offered, *CAPACITY})
    try:
        strategy = (cluster or {}).get("defaultCapacityProviderStrategy") or []
        await work.aws.call(
            "ecs",
            "PutClusterCapacityProviders",
            cluster=arn,
            capacityProviders=list(wanted),
            defaultCapacityProviderStrategy=strategy,
        )
    except FixItError as error:
        if not denied(error):
            raise
        note, wanted = f"{NO_SPOT} {error}", offered
    await work.has("ecs_cluster", arn, name=cluster_name(work.place), capacity_providers=list(wanted), note=note)
