"""Starting nodes: RunTask in tens, each at most once whatever happens to the answer.

What protects from launching twice, in this order:

1. a client token made of the names, which makes ECS answer a repeated call with the tasks of the first;
2. a call whose answer never came is repeated as it was, before anything else is launched for its names;
3. names that the caller has asked for before are looked for among the cluster's tasks first.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ropewalk.backends.aws import reasons, shapes
from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.definitions import Definitions, Kind, overrides
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.backends.aws.quotas import FARGATE, FARGATE_SPOT
from ropewalk.backends.aws.search import Search
from ropewalk.backends.aws.tags import CLUSTER, CLUSTER_NAME, as_tags, place_tags
from ropewalk.backends.aws.tasks import BATCH, Batch, Task, pair, started_by
from ropewalk.backends.port import SCHEDULER_PORT, LaunchRequest, LaunchResult, NodeLaunch, Place
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.clusters import NodeRole

__all__ = ["Launcher"]

START_SECONDS = 600
"""A worker gives up when it found no scheduler for so long: whose image is pulled at the same time, in minutes."""
FALLBACK_NOTE = "It runs on demand, because there is no Fargate Spot capacity for it now."
SPOT_PAUSE = 300.0
"""Seconds for which Fargate Spot is left alone by those that may run on demand, after it took tasks and had no room for
them: each try costs them the time until that shows. AWS says only "later"."""


@dataclass(frozen=True, slots=True)
class _Run:
    """One RunTask: what it is for, and its parameters, which hold keys."""

    batch: Batch
    spot: bool
    parameters: Mapping[str, Any]

    def __repr__(self) -> str:
        return f"_Run({self.batch!r}, spot={self.spot})"


class Launcher:
    """Launches nodes in one cloud account, and remembers what became of each try of this process."""

    def __init__(
        self,
        aws: Aws,
        place: Place,
        settings: AwsSettings,
        infrastructure: Infrastructure,
        definitions: Definitions,
        search: Search,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._aws = aws
        self._place = place
        self._settings = settings
        self._infrastructure = infrastructure
        self._definitions = definitions
        self._search = search
        self._forbidden: set[str] = set()
        self._refusals: Counter[str] = Counter()
        self._never: set[str] = set()
        self._doubtful: dict[str, _Run] = {}
        self._tagging = True
        self._clock = clock
        self._no_spot_until = float("-inf")

    def avoid_spot(self) -> None:
        """Start on demand for a while what may run there: Fargate Spot takes tasks for which it has no room."""
        self._no_spot_until = self._clock() + SPOT_PAUSE

    def forbid(self, names: Iterable[str]) -> None:
        """Launch none of *names* any more: they were asked to stop."""
        self._forbidden.update(names)

    def never_ran(self, name: str) -> bool:
        """Say whether every try to launch it was made here, and refused."""
        return name in self._never

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        """Start nodes; one result for each."""
        try:
            self._infrastructure.require()
        except FixItError:
            self._note_refusal(*request.nodes)
            raise
        results = {node.name: error for node in request.nodes if (error := self._refused(request, node))}
        wanted = [node for node in request.nodes if node.name not in results]
        found = await self._known(request, [node for node in wanted if node.attempt > 1])
        results |= found
        groups: dict[str, list[NodeLaunch]] = {}
        for node in wanted:
            if node.name not in results:
                groups.setdefault(_likeness(node), []).append(node)
        batches = [nodes[i : i + BATCH] for nodes in groups.values() for i in range(0, len(nodes), BATCH)]
        for answer in await asyncio.gather(*(self._start(request, batch) for batch in batches)):
            results |= answer
        return [results[node.name] for node in request.nodes]

    def _refused(self, request: LaunchRequest, node: NodeLaunch) -> LaunchResult | None:
        if node.name in self._forbidden:
            self._note_refusal(node)
            text = f"The node {node.name} was asked to stop before it was launched."
            return LaunchResult(node.name, error=FixItError(text, advice="Launch another under a new name."))
        if node.role is NodeRole.WORKER and request.scheduler is None:
            text = "Workers were not started, because their scheduler has no address yet."
            return LaunchResult(node.name, error=TryAgainError(text))
        return None

    async def _known(self, request: LaunchRequest, nodes: Sequence[NodeLaunch]) -> dict[str, LaunchResult]:
        """Find what earlier tries may have started."""
        runs = {run.batch: run for node in nodes if (run := self._doubtful.get(node.name)) and self._may_repeat(run)}
        found: dict[str, LaunchResult] = {}
        for answer in await asyncio.gather(*(self._run(run) for run in runs.values())):
            found |= answer
        others = [node.name for node in nodes if node.name not in found and not self.never_ran(node.name)]
        if others:
            tasks = await self._search.by_name(request.cluster.id)
            found |= {name: _started(name, tasks[name]) for name in others if name in tasks}
        names = {node.name for node in nodes}
        return {name: result for name, result in found.items() if name in names}

    def _may_repeat(self, run: _Run) -> bool:
        """Whether nothing of it was asked to stop since: had the call no effect then, it would have one now."""
        return not self._forbidden.intersection(run.batch.names)

    async def _start(self, request: LaunchRequest, nodes: Sequence[NodeLaunch]) -> dict[str, LaunchResult]:
        """Launch nodes that are alike; those that find no spot capacity on demand, where that is wished."""
        may_fall_back = nodes[0].spot and nodes[0].spot_fallback
        if may_fall_back and self._clock() < self._no_spot_until:
            return await self._start_on_demand(request, nodes)
        try:
            results = await self._run(await self._prepared(request, nodes, spot=nodes[0].spot))
        except BackendError as exc:
            self._note_refusal(*nodes)
            error = reasons.passing(exc) or exc
            results = {node.name: LaunchResult(node.name, error=error) for node in nodes}
        left = [node for node in nodes if may_fall_back and _no_room(results[node.name])]
        return results | (await self._start_on_demand(request, left) if left else {})

    async def _start_on_demand(self, request: LaunchRequest, nodes: Sequence[NodeLaunch]) -> dict[str, LaunchResult]:
        """Launch nodes on demand that were to run on Spot."""
        results = await self._start(request, [replace(node, spot=False) for node in nodes])
        return {name: _fallen_back(result) for name, result in results.items()}

    async def _prepared(self, request: LaunchRequest, nodes: Sequence[NodeLaunch], *, spot: bool) -> _Run:
        first, infrastructure = nodes[0], self._infrastructure
        if spot and not infrastructure.spot:
            raise _no_spot()
        options = shapes.parse_options(request.options, self._aws.region)
        kind = Kind(
            image=self._image(request),
            size=shapes.fit(first.shape, first.role),
            architecture=options.architecture or self._settings.architecture,
            storage=options.ephemeral_storage,
        )
        override = overrides(_config(first, request.scheduler), first.environ, first.role)
        batch = Batch(
            request.cluster.installation, request.cluster.id, first.role, tuple(sorted(node.name for node in nodes))
        )
        parameters: dict[str, Any] = {
            "cluster": infrastructure.cluster_arn,
            "taskDefinition": await self._definitions.family(kind, infrastructure),
            "count": len(nodes),
            "startedBy": started_by(request.cluster.id),
            "group": batch.group,
            "clientToken": self._token(batch, spot=spot),
            "networkConfiguration": {"awsvpcConfiguration": self._network()},
            "overrides": override,
            "tags": as_tags(self._tags(request), lower=True),
        }
        if spot:
            parameters["capacityProviderStrategy"] = [{"capacityProvider": "FARGATE_SPOT", "weight": 1}]
        else:
            parameters["launchType"] = "FARGATE"
        return _Run(batch, spot, parameters)

    def _image(self, request: LaunchRequest) -> str:
        image = request.image or self._settings.image
        if image is None:
            raise FixItError(
                "There is no image for the nodes: neither the cluster nor the cloud account names one.",
                field="container",
                advice="Set container= for the cluster, or `image` of the cloud account with "
                "`ropewalk cloud-account set aws`. The how-to guide `make a node image` has a recipe.",
            )
        return image

    def _network(self) -> dict[str, Any]:
        return {
            "subnets": self._infrastructure.subnet_ids,
            "securityGroups": [self._infrastructure.security_group_id],
            "assignPublicIp": "ENABLED" if self._infrastructure.public else "DISABLED",
        }

    def _tags(self, request: LaunchRequest) -> dict[str, str]:
        own = {CLUSTER: request.cluster.id, CLUSTER_NAME: request.cluster.name}
        return {**request.tags, **place_tags(self._place), **own}

    def _token(self, batch: Batch, *, spot: bool) -> str:
        """Return a token that is the same whenever the same is asked for again, but for tries that were refused."""
        facts = [batch.installation, batch.cluster, batch.names, spot, [self._refusals[name] for name in batch.names]]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    async def _run(self, run: _Run) -> dict[str, LaunchResult]:
        """Call RunTask and say what became of each name."""
        names = run.batch.names
        for name in names:
            self._doubtful[name] = run
            self._never.discard(name)
        try:
            answer = await self._call(run)
        except TryAgainError as exc:
            # The answer was lost, or AWS never looked at the call: the same call tells, next time.
            return {name: LaunchResult(name, error=exc) for name in names}
        except FixItError as exc:
            self._settle(names, refused=names)
            error = reasons.passing(exc) or exc
            return {name: LaunchResult(name, error=error) for name in names}
        tasks = [Task.of(raw) for raw in answer.get("tasks") or ()]
        started = {name: _started(name, task) for name, task in pair(tasks, names)}
        refused = [name for name in names if name not in started]
        self._settle(names, refused=refused)
        failures = [await self._failure(failure, run) for failure in answer.get("failures") or ()] or [_unexplained()]
        for index, name in enumerate(refused):
            started[name] = LaunchResult(name, error=failures[min(index, len(failures) - 1)])
        return started

    def _settle(self, names: Iterable[str], *, refused: Iterable[str]) -> None:
        for name in names:
            self._doubtful.pop(name, None)
        for name in refused:
            self._refusals[name] += 1
            self._never.add(name)

    def _note_refusal(self, *nodes: NodeLaunch) -> None:
        """Remember that no call was made, so that nothing of this try can exist."""
        self._never.update(node.name for node in nodes if node.attempt == 1)

    async def _call(self, run: _Run) -> dict[str, Any]:
        parameters = dict(run.parameters)
        while True:
            if not self._tagging:
                parameters.pop("tags", None)
            try:
                return await self._aws.call("ecs", "RunTask", **parameters)
            except FixItError as exc:
                if exc.details.get("action") == "ecs:TagResource" and self._tagging:
                    self._tagging = False  # tags are for the bill only
                    continue
                if aws_code(exc) == "ConflictException":
                    return await self._search.of_conflict(exc, run.batch)
                if aws_code(exc) == "ClientException" and "TaskDefinition" in exc.message:
                    self._definitions.forget()
                raise

    async def _failure(self, failure: Mapping[str, Any], run: _Run) -> BackendError:
        error = reasons.refusal(failure, spot=run.spot)
        if "quota" not in error.details:
            return error
        quota = FARGATE_SPOT if run.spot else FARGATE
        try:
            answer = await self._aws.call(
                "service-quotas", "GetServiceQuota", ServiceCode=quota.service, QuotaCode=quota.code
            )
        except BackendError:
            return error  # the key need not be allowed to read quotas
        return quota.error(str(error.details["aws_message"]), error.details, float(answer["Quota"]["Value"]))


def _config(node: NodeLaunch, scheduler: str | None) -> dict[str, Any]:
    """Return what ``run_on_ecs`` of the node program is told; the name is the task's id."""
    config = {key: value for key, value in node.config.items() if key != "node"}
    if node.role is NodeRole.SCHEDULER:
        return {**config, "port": SCHEDULER_PORT}
    return {**config, "port": 0, "scheduler": scheduler, "start_seconds": START_SECONDS}


def _likeness(node: NodeLaunch) -> str:
    """Return what nodes of one RunTask have to share: everything but their names."""
    config = {key: value for key, value in node.config.items() if key != "node"}
    return repr((node.role, node.shape, node.spot, node.spot_fallback, sorted(config.items()), dict(node.environ)))


def _started(name: str, task: Task) -> LaunchResult:
    return LaunchResult(name, cloud_id=task.arn, spot=task.spot)


def _no_room(result: LaunchResult) -> bool:
    return result.error is not None and result.error.details.get("capacity") == "spot"


def _fallen_back(result: LaunchResult) -> LaunchResult:
    return result if result.error is not None else replace(result, spot=False, note=FALLBACK_NOTE)


def _no_spot() -> FixItError:
    return FixItError(
        "The ECS cluster of the cloud account has no capacity provider FARGATE_SPOT.",
        field="spot_policy",
        advice="Add it to the ECS cluster, or leave spot_policy out.",
        details={"capacity": "spot"},
    )


def _unexplained() -> TryAgainError:
    return TryAgainError("ECS started fewer tasks than it was asked for, and gave no reason.", delay=5.0)
