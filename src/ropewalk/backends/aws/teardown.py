"""Removes what ``prepare`` made, in the order in which AWS lets go of it, and nothing else.

What is ours is found again by its tags or names, so that also what was made and never stored goes. "Gone" is only said
when AWS says so. Interrupted, it goes on where it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.ec2 import EC2, ours
from ropewalk.backends.aws.interfaces import clear
from ropewalk.backends.aws.patience import Patience
from ropewalk.backends.aws.peering import remove_peering
from ropewalk.backends.aws.removal import remove
from ropewalk.backends.aws.removal_named import (
    remove_ecs_cluster,
    remove_linked_role,
    remove_log_group,
    remove_repository,
    remove_role,
)
from ropewalk.backends.aws.tasks_left import remove_definitions, stop_tasks
from ropewalk.backends.aws.together import Tell, stream, together
from ropewalk.backends.aws.work import Elsewhere, Work, denied
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["teardown"]


def teardown(
    aws: Aws,
    place: Place,
    settings: AwsSettings,
    resources: Sequence[Resource],
    *,
    elsewhere: Elsewhere | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[Resource]:
    """Remove the infrastructure, and yield each part once it is gone; the team's own at once, since it stays.

    Arguments as of :func:`ropewalk.backends.aws.prepare.prepare`. What cannot be removed is raised when all else is
    done, all of it as one error.
    """

    async def run(tell: Tell) -> None:
        work = Work(aws, place, settings, resources, tell, patience or Patience(), elsewhere=elsewhere)
        for resource in resources:
            if resource.details.get("owned") is False and resource.kind != "ecs_cluster":
                await work.forget(resource.kind, resource.id, **resource.details)
        await _end_tasks(work)
        await together(
            remove_definitions(work),
            remove_role(work, "execution_role"),
            remove_role(work, "task_role"),
            remove_repository(work),
            remove_log_group(work),
            _remove_ecs(work),
            _remove_network(work),
        )

    return stream(run)


async def _end_tasks(work: Work) -> None:
    own = work.known("ecs_cluster", of_ours=False)
    for cluster in [*work.known("ecs_cluster"), *own]:
        await stop_tasks(work, cluster.id)
    for cluster in own:
        await work.forget("ecs_cluster", cluster.id, **cluster.details)


async def _remove_ecs(work: Work) -> None:
    await remove_ecs_cluster(work)
    await remove_linked_role(work)


async def _remove_network(work: Work) -> None:
    """Everything that is in the VPCs, then the VPCs. There is more than one if an answer of AWS was once lost."""
    vpcs = await _ids(work, "vpc")
    await clear(work, vpcs)
    await together(*(_remove_all(work, kind) for kind in ("nat_gateway", "peering")))
    # Addresses are free once their gateway is gone; a VPC lets its internet gateway go when no address is in it.
    await together(*(_remove_all(work, kind) for kind in ("elastic_ip", "subnet", "security_group")))
    await together(*(_remove_all(work, kind) for kind in ("route_table", "internet_gateway")))
    await _remove_all(work, "vpc")


async def _remove_all(work: Work, kind: str) -> None:
    ids = await _ids(work, kind)
    if kind == "peering":
        await together(*(remove_peering(work, id_) for id_ in ids))
    else:
        await together(*(remove(work, kind, id_) for id_ in ids))


async def _ids(work: Work, kind: str) -> list[str]:
    """Return ids of all of a kind that is stored or carries our tags."""
    stored = work.known_ids(kind)
    try:
        found = [str(item[EC2[kind].id]) for item in await ours(work.aws, kind, work.place)]
    except FixItError as error:
        if not denied(error) or stored:
            raise
        found = []  # a key that may not even look has not made any
    return list(dict.fromkeys([*stored, *found]))
