"""Makes what clusters need in an AWS account, or takes what the team brings along.

Each step looks before it makes: by stored id, by tag, by name. So a second run after a kill at any instruction, a lost
answer or a deletion by hand ends in one complete set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any

from ropewalk.backends.aws import blocks, log_group
from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.ecs import ecs_cluster
from ropewalk.backends.aws.firewall import security_group
from ropewalk.backends.aws.nat import private_network, remove_private_network
from ropewalk.backends.aws.network import public_network, vpc
from ropewalk.backends.aws.own import own_cluster, own_log_group, own_repository, own_role
from ropewalk.backends.aws.own_network import brings_network, own_network, own_security_group
from ropewalk.backends.aws.patience import Patience
from ropewalk.backends.aws.peering import peerings
from ropewalk.backends.aws.registry import repository
from ropewalk.backends.aws.roles import execution_role, task_role
from ropewalk.backends.aws.together import Tell, combined, stream, together
from ropewalk.backends.aws.work import Elsewhere, Work
from ropewalk.backends.port import Place, Resource
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsSettings

__all__ = ["prepare", "problems"]


def prepare(
    aws: Aws,
    place: Place,
    settings: AwsSettings,
    resources: Sequence[Resource],
    *,
    caller_address: str | None = None,
    elsewhere: Elsewhere | None = None,
    patience: Patience | None = None,
) -> AsyncIterator[Resource]:
    """Complete the infrastructure, and yield each part of it as soon as it exists; those that are no more, as gone.

    Independent parts are made at the same time, and each waits until what it made was stored. What one part fails with
    is raised when all others are done; several errors are raised as one.

    Args:
        aws: The AWS account, in the region of the settings.
        place: For which cloud account.
        settings: What the team decided.
        resources: What is stored.
        caller_address: From where schedulers may be reached if the settings do not say.
        elsewhere: Makes an `Aws` of another region, for peerings.
        patience: How to wait.
    """

    async def run(tell: Tell) -> None:
        if errors := problems(settings):
            raise combined(errors)
        work = Work(aws, place, settings, resources, tell, patience or Patience(), caller_address, elsewhere)
        await together(*_steps(work))

    return stream(run)


def problems(settings: AwsSettings) -> list[FixItError]:
    """Return what is wrong with settings, as far as it can be known without a call."""
    return [*blocks.problems(settings), *log_group.problems(settings)]


def _steps(work: Work) -> list[Coroutine[Any, Any, None]]:
    settings = work.settings
    return [
        _own_network(work) if brings_network(settings) else _network(work),
        _take(work, own_cluster(work)) if settings.ecs_cluster else _make(work, ecs_cluster, "ecs_cluster"),
        _take(work, own_role(work, "execution_role"))
        if settings.execution_role_arn
        else _make(work, execution_role, "execution_role"),
        _take(work, own_role(work, "task_role")) if settings.task_role_arn else _make(work, task_role, "task_role"),
        _take(work, own_repository(work)) if settings.repository else _make(work, repository, "repository"),
        _take(work, own_log_group(work)) if settings.log_group else _make(work, log_group.log_group, "log_group"),
    ]


async def _make(work: Work, make: Callable[[Work], Coroutine[Any, Any, None]], kind: str) -> None:
    await make(work)
    await _forget_former(work, kind)


async def _network(work: Work) -> None:
    vpc_id = await vpc(work)
    public: dict[str, str] = {}

    async def ways() -> None:
        public.update(await public_network(work, vpc_id))
        if work.settings.private_subnets:
            await private_network(work, vpc_id, public["public-a"])
        await peerings(work, vpc_id)
        if not work.settings.private_subnets:
            await remove_private_network(work)

    await together(ways(), _firewall(work, vpc_id), _forget_former(work, "vpc", "subnet"))


async def _firewall(work: Work, vpc_id: str) -> None:
    if work.settings.security_group_id:
        await _take(work, own_security_group(work, vpc_id))
    else:
        await security_group(work, vpc_id)
        await _forget_former(work, "security_group")


async def _own_network(work: Work) -> None:
    found = await own_network(work)
    for resource in found:
        await work.has(resource.kind, resource.id, **resource.details)
    await _forget_former(work, "vpc", "subnet", used=[resource.id for resource in found])
    await together(_firewall(work, found[0].id), remove_private_network(work))


async def _take(work: Work, finding: Coroutine[Any, Any, Resource]) -> None:
    """Use something of the team's own, and forget what was used in its place before."""
    resource = await finding
    await work.has(resource.kind, resource.id, **resource.details)
    await _forget_former(work, resource.kind, used=[resource.id])


async def _forget_former(work: Work, *kinds: str, used: Sequence[str] = ()) -> None:
    """Forget things of the team's own that the settings do not name any more. They stay as they are."""
    for kind in kinds:
        for former in work.known(kind, of_ours=False):
            if former.id not in used:
                await work.forget(kind, former.id, owned=False)
