"""Drives one AWS account of a team: ECS tasks on Fargate."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from ropewalk.backends.aws import credentials, prices, shapes
from ropewalk.backends.aws.addresses import Addresses
from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.check import PATIENCE, check_account
from ropewalk.backends.aws.connect import connect
from ropewalk.backends.aws.definitions import Definitions
from ropewalk.backends.aws.images import EcrImages
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.inspection import inspect
from ropewalk.backends.aws.launch import Launcher
from ropewalk.backends.aws.logs import Logs
from ropewalk.backends.aws.observe import GRACE, Lookout
from ropewalk.backends.aws.plan import plan
from ropewalk.backends.aws.prepare import prepare
from ropewalk.backends.aws.search import Search
from ropewalk.backends.aws.tags import resource_name
from ropewalk.backends.aws.tasks import handles
from ropewalk.backends.aws.teardown import teardown
from ropewalk.backends.port import (
    Capabilities,
    Identity,
    LaunchRequest,
    LaunchResult,
    LogChunk,
    NodeHandle,
    NodeShape,
    Observation,
    Place,
    Resource,
)
from ropewalk.errors import BackendError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, PreparePlan
from ropewalk.schemas.clusters import NodeRole

__all__ = ["AwsBackend"]

STOP_REASON = "Stopped by Ropewalk."


class AwsBackend:
    """Runs nodes as ECS tasks in one region of one AWS account.

    Args:
        place: The cloud account.
        settings: What the team decided.
        key: The team's long-lived key.
        resources: What ``prepare`` made or found before.
        endpoint_url: Other endpoint for all of AWS; only the operator may set it.
        grace: Seconds for which a task that ECS does not show yet is unknown, and not gone.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        place: Place,
        settings: AwsSettings,
        key: AwsCredentials,
        resources: Sequence[Resource],
        *,
        endpoint_url: str | None = None,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._place = place
        self._settings = settings
        self._credentials = key
        self._resources = tuple(resources)
        self._endpoint_url = endpoint_url
        self._open: list[Aws] = []
        self._aws = self._in_region(settings.region)
        self._infrastructure = Infrastructure(settings, resources)
        self._search = Search(self._aws, self._infrastructure)
        self._definitions = Definitions(self._aws, resource_name(place))
        self._launcher = Launcher(
            self._aws, place, settings, self._infrastructure, self._definitions, self._search, clock=clock
        )
        addresses = Addresses(self._aws, public=self._infrastructure.public)
        launcher = self._launcher
        self._lookout = Lookout(
            self._search, addresses, launcher.never_ran, launcher.avoid_spot, grace=grace, clock=clock
        )
        self._logs = Logs(self._aws)

    def _in_region(self, region: str) -> Aws:
        settings = self._settings
        made = Aws(
            self._credentials,
            region,
            role_arn=settings.role_arn,
            external_id=settings.external_id,
            endpoint_url=self._endpoint_url,
        )
        self._open.append(made)
        return made

    @property
    def kind(self) -> str:
        return "aws"

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            scheduler_address_first=False,
            launch_batch=10,
            spot=True,
            images=True,
            private_network=True,
            names_nodes=True,
        )

    @property
    def images(self) -> EcrImages:
        return EcrImages(self._aws, self._infrastructure)

    def validate(self, shape: NodeShape, role: NodeRole, options: Mapping[str, Any]) -> None:
        shapes.fit(shape, role)
        shapes.parse_options(options, self._settings.region)

    def hourly_price(
        self, shape: NodeShape, *, spot: bool = False, options: Mapping[str, Any] | None = None
    ) -> tuple[float, str]:
        chosen = shapes.parse_options(options or {}, self._settings.region)
        return prices.hourly(
            shapes.fit(shape, NodeRole.WORKER),
            self._settings.region,
            arm=(chosen.architecture or self._settings.architecture) == "ARM64",
            spot=spot,
            storage=chosen.ephemeral_storage,
            public=not self._settings.private_subnets,
        )

    def price_note(self, *, spot: bool = False, options: Mapping[str, Any] | None = None) -> str | None:  # noqa: ARG002 - the port's
        return prices.note(self._settings.region, spot=spot)

    async def identity(self) -> Identity:
        """Ask AWS whose key it is."""
        who = await credentials.identity(self._settings, self._credentials, self._endpoint_url)
        return Identity(who.owner, who.name, who.warning)

    def plan(self) -> PreparePlan:
        """Return what ``prepare`` makes, and what of it costs money."""
        return plan(self._settings)

    async def check(self) -> CheckReport:
        """Look at key, rights, quotas and infrastructure. Changes nothing."""
        report, found = await asyncio.gather(check_account(self._aws, self._settings), self._inspected())
        return report.model_copy(update={"items": [*report.items, *found, *self._priced()]})

    async def _inspected(self) -> list[CheckItem]:
        """Look at what is stored; that it cannot be looked at now is no reason to report nothing at all."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await inspect(self._aws, self._place, self._settings, self._resources)
        except TimeoutError:
            message, advice = f"AWS did not answer within {PATIENCE:g} seconds.", "Run the check again."
        except BackendError as error:
            if error.details.get("credentials") == "invalid":
                return []  # told once, of the key
            message, advice = error.message, error.advice or ""
        item = CheckItem(name="infrastructure", status=CheckStatus.UNKNOWN, message=message, advice=advice or None)
        return [item]

    def _priced(self) -> list[CheckItem]:
        region = self._settings.region
        if region in prices.known_regions():
            return []
        return [CheckItem(name="prices", status=CheckStatus.WARNING, message=prices.note(region))]

    def prepare(self) -> AsyncIterator[Resource]:
        return prepare(self._aws, self._place, self._settings, self._resources, elsewhere=self._in_region)

    def teardown(self, resources: Sequence[Resource]) -> AsyncIterator[Resource]:
        return teardown(self._aws, self._place, self._settings, resources, elsewhere=self._in_region)

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        try:
            return await self._launcher.launch(request)
        finally:
            self._lookout.stir()

    async def stop(self, nodes: Sequence[NodeHandle]) -> None:
        """Ask ECS to stop tasks: SIGTERM, and SIGKILL when they have not ended by themselves."""
        self._launcher.forbid(node.name for node in nodes)
        arns = {node.cloud_id for node in nodes if node.cloud_id}
        arns |= await self._unanswered([node for node in nodes if node.cloud_id is None])
        results = await asyncio.gather(*(self._stop(arn) for arn in sorted(arns)), return_exceptions=True)
        self._lookout.stir(arns)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _unanswered(self, nodes: Sequence[NodeHandle]) -> set[str]:
        """Return the tasks of nodes whose launch was never answered."""
        wanted = [node for node in nodes if not self._launcher.never_ran(node.name)]
        found: set[str] = set()
        for cluster in {node.cluster for node in wanted}:
            tasks = await self._search.by_name(cluster)
            names = {node.name for node in wanted if node.cluster == cluster}
            found |= {task.arn for name, task in tasks.items() if name in names and not task.stopped}
        return found

    async def _stop(self, arn: str) -> None:
        cluster = self._infrastructure.cluster_arn
        try:
            await self._aws.call("ecs", "StopTask", cluster=cluster, task=arn, reason=STOP_REASON)
        except BackendError as exc:
            # "The referenced task was not found": it ended long ago. No cluster of ECS is deleted while a task runs.
            if aws_code(exc) not in ("InvalidParameterException", "ClusterNotFoundException"):
                raise

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        return await self._lookout.observe(nodes) if nodes else Observation({})

    async def changed(self) -> None:
        await self._lookout.changed()

    async def inventory(self) -> Sequence[NodeHandle]:
        if self._infrastructure.missing():
            return []  # nothing was ever launched without an ECS cluster
        return handles(await self._search.living(), self._place.installation)

    async def logs(self, node: NodeHandle, cursor: str | None = None, limit: int = 1_000_000) -> LogChunk:
        self._logs.check(cursor)
        arn, ended_at = await self._log_of(node)
        if arn is None:
            return LogChunk("", cursor or "0@", complete=ended_at is not None)
        return await self._logs.read(self._infrastructure.log_group, arn, cursor, max(limit, 4), ended_at)

    async def _log_of(self, node: NodeHandle) -> tuple[str | None, float | None]:
        """Return the task of a node, and when it ended (0: long ago)."""
        last = self._lookout.last(node.cloud_id or "")
        if last is not None and last.settled:
            return node.cloud_id, None
        if node.cloud_id is None:
            task = (await self._search.by_name(node.cluster)).get(node.name)
            if task is None:
                return None, 0.0 if self._lookout.no_task_of(node) else None
        else:
            task = (await self._search.describe([node.cloud_id])).get(node.cloud_id)
        if task is None:
            return node.cloud_id, 0.0
        return task.arn, (task.stopped_at or 0.0) if task.stopped else None

    async def connect(self, scheduler: NodeHandle, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await connect(scheduler.name, address)

    async def close(self) -> None:
        await self._definitions.close()
        for aws in self._open:
            await aws.close()
