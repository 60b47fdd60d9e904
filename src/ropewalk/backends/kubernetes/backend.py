"""The backend itself: answers from one watch, acts by single requests, and lets the keeper put things away."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dask.utils import format_bytes

from ropewalk.backends.kubernetes import check as checking
from ropewalk.backends.kubernetes import logs, objects, portforward
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.archive import Archive, Record
from ropewalk.backends.kubernetes.explain import Explainer
from ropewalk.backends.kubernetes.keeper import Keeper
from ropewalk.backends.kubernetes.launcher import Launcher
from ropewalk.backends.kubernetes.reach import Reach
from ropewalk.backends.kubernetes.reasons import DELETED, look, own_exit, parse_time
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.kubernetes.template import parse_template
from ropewalk.backends.kubernetes.watch import REMEMBERED, Pod, PodWatch
from ropewalk.backends.port import (
    SCHEDULER_PORT,
    Answer,
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
    Sighting,
)
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import CheckReport
from ropewalk.schemas.clusters import GIB, NodeRole
from ropewalk.schemas.common import MAX_MEMORY
from ropewalk.schemas.kubernetes import KubernetesCredentials, KubernetesSettings

DIRECT_SECONDS = 3.0
LEFTOVER_AGE = timedelta(minutes=10)
"""A Service without pods that is older belongs to a cluster that ended, or whose start was cut short."""


class KubernetesBackend:
    """Runs nodes as pods in one namespace.

    Args:
        place: The cloud account.
        settings: Where and how.
        credentials: What was kept of the kubeconfig.
        resources: None are made; given for all kinds alike.
        archive: Folder for logs and records of ended nodes; None: a temporary one.
    """

    def __init__(
        self,
        place: Place,
        settings: KubernetesSettings,
        credentials: KubernetesCredentials,
        resources: Sequence[Resource] = (),  # noqa: ARG002 - as for every kind of cloud account
        *,
        archive: Path | None = None,
    ) -> None:
        self._place = place
        self._settings = settings
        self._credentials = credentials
        self._change = asyncio.Event()
        self._api = Api(credentials, settings.namespace)
        self._archive = Archive(archive)
        self._watch = PodWatch(self._api, objects.selector(place), self._saw)
        self._keeper = Keeper(self._api, self._watch, self._archive)
        self._reach = Reach(self._api, settings, self._change.set, self._keeper.spawn)
        self._explainer = Explainer(self._api, self._watch.pods.get, self._change.set, self._keeper.spawn)
        self._launcher = Launcher(self._api, place, settings)
        self._absent: set[str] = set()
        """Names that the API server said not to know; forgotten when a pod of that name is seen."""
        self._answering: set[str] = set()
        """Uids of schedulers that were heard."""
        self._swept = False

    @property
    def kind(self) -> str:
        return "kubernetes"

    @property
    def capabilities(self) -> Capabilities:
        direct = self._settings.direct is not None
        return Capabilities(scheduler_address_first=True, launch_batch=1000, images=True, direct=direct)

    def validate(self, shape: NodeShape, role: NodeRole, options: Mapping[str, Any]) -> None:
        parse_template(options)
        if shape.gpu:
            raise FixItError(
                "Clusters on Kubernetes cannot be given GPUs yet.",
                field=f"{role}_gpu",
                advice=f"Leave {role}_gpu out, or use a cloud account that has GPUs.",
            )
        if shape.memory > MAX_MEMORY:
            raise FixItError(
                f"No machine has the {format_bytes(shape.memory)} of memory that a {role} should get.",
                field=f"{role}_memory",
                advice=f"Ask for at most {format_bytes(MAX_MEMORY)}.",
            )

    def hourly_price(
        self,
        shape: NodeShape,
        *,
        spot: bool = False,  # noqa: ARG002 - the port's
        options: Mapping[str, Any] | None = None,  # noqa: ARG002 - the port's
    ) -> tuple[float, str]:
        settings = self._settings
        price = shape.cpu * settings.core_hour_price + shape.memory / GIB * settings.gib_hour_price
        return price, settings.currency

    def price_note(
        self,
        *,
        spot: bool = False,  # noqa: ARG002 - the port's
        options: Mapping[str, Any] | None = None,  # noqa: ARG002 - the port's
    ) -> str | None:
        return "An internal rate that the cloud account's settings name; Kubernetes itself knows no prices."

    async def identity(self) -> Identity:
        """Ask the API server who the credentials are."""
        return await checking.identity(self._api, self._credentials)

    async def check(self) -> CheckReport:
        return await checking.check(self._api, self._place, self._settings, self._credentials)

    async def prepare(self) -> AsyncIterator[Resource]:
        """Check only: there is nothing to make.

        Raises:
            FixItError: the check failed.
        """
        report = await self.check()
        for item in report.items:
            if item.status == "failed":
                raise FixItError(item.message, advice=item.advice)
        nothing: Sequence[Resource] = ()
        for resource in nothing:
            yield resource

    async def teardown(self, resources: Sequence[Resource]) -> AsyncIterator[Resource]:
        """Leave the namespace as it was.

        Raises:
            FixItError: nodes still run.
        """
        running = await self.inventory()
        if running:
            raise FixItError(
                f"{len(running)} nodes still run, {running[0].name} among them.", advice="Stop all clusters first."
            )
        for cluster in await self._services():
            await self._keeper.remove_service(cluster)
        await asyncio.to_thread(self._archive.remove_expired)
        for resource in resources:
            yield resource

    async def launch(self, request: LaunchRequest) -> Sequence[LaunchResult]:
        if request.cluster.installation != self._place.installation:
            raise FixItError("The cluster is of another installation.", field="installation")
        results: dict[str, LaunchResult] = {}
        for node in request.nodes:
            record = await asyncio.to_thread(self._archive.record, request.cluster.id, node.name)
            if record is not None:
                results[node.name] = _ended(node.name, record)
        wanted = [node for node in request.nodes if node.name not in results]
        if request.scheduler is None and not any(node.role is NodeRole.SCHEDULER for node in request.nodes):
            results |= {node.name: LaunchResult(node.name, error=_no_scheduler()) for node in wanted}
        elif wanted:
            found = await self._launcher.launch(replace(request, nodes=wanted))
            self._reach.note(request.cluster.id, self._launcher.services[request.cluster.id])
            results |= {name: self._result(name, pod) for name, pod in found.items()}
        return [results[node.name] for node in request.nodes]

    def _result(self, name: str, pod: Pod | BackendError) -> LaunchResult:
        if isinstance(pod, BackendError):
            return LaunchResult(name, error=pod)
        self._watch.note(pod)
        handle = objects.handle_of(pod)
        address = None
        if handle is not None and handle.role is NodeRole.SCHEDULER:
            address = self._reach.address(handle.cluster, pod)
        return LaunchResult(name, pod["metadata"]["uid"], address)

    async def stop(self, nodes: Sequence[NodeHandle]) -> None:
        found = await asyncio.gather(*(self._find(node) for node in {node.name: node for node in nodes}.values()))
        for node, pod in found:
            if pod is None and await asyncio.to_thread(self._archive.record, node.cluster, node.name) is None:
                record = Record(never_ran=node.cloud_id is None)
                await asyncio.to_thread(self._archive.keep, node.cluster, node.name, record)
        pods = [pod for _, pod in found if pod is not None]
        await self._keeper.end(pods)

    async def _find(self, node: NodeHandle) -> tuple[NodeHandle, Pod | None]:
        """Return a node's pod if it exists; asks only where it is not known."""
        pod = self._watch.pods.get(node.name)
        if pod is None and self._watch.deleted(node.name) is None:
            pod = await self._get(node)
        return node, pod

    async def _get(self, node: NodeHandle) -> Pod | None:
        try:
            pod = await self._api.call("get", "pods", node.name)
        except BackendError as exc:
            if status_of(exc) == 404:
                return None
            raise
        if not objects.is_ours(pod, self._place, node.cluster):
            return None
        self._watch.note(pod)
        return pod

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        if not nodes:
            return Observation({})
        try:
            await self._watch.ready()
        except BackendError as exc:
            return Observation({node.name: Sighting(node.name, Answer.UNKNOWN, reason=str(exc)) for node in nodes})
        seen = await asyncio.gather(*(self._look(node) for node in nodes))
        return Observation({sighting.name: sighting for sighting in seen})

    async def _look(self, node: NodeHandle) -> Sighting:
        pod = self._watch.pods.get(node.name)
        if pod is not None:
            return self._sighting(node, pod)
        last = self._watch.deleted(node.name)
        if last is not None:
            return self._sighting(node, last, deleted=True)
        record = await asyncio.to_thread(self._archive.record, node.cluster, node.name)
        if record is not None:
            return Sighting(node.name, Answer.GONE, record.cloud_id, None, record.exit_code, record.reason)
        if node.name not in self._absent:
            try:
                pod = await self._get(node)
            except BackendError as exc:
                return Sighting(node.name, Answer.UNKNOWN, reason=str(exc))
            if pod is not None:
                return self._sighting(node, pod)
            if len(self._absent) >= REMEMBERED:
                self._absent.clear()
            self._absent.add(node.name)
        return Sighting(node.name, Answer.GONE)

    def _sighting(self, node: NodeHandle, pod: Pod, *, deleted: bool = False) -> Sighting:
        seen = look(pod, deleted=deleted, role=node.role.value)
        uid = pod["metadata"]["uid"]
        address = internal = None
        waits = False
        if node.role is NodeRole.SCHEDULER:
            internal = self._reach.internal(node.cluster)
            address = self._reach.address(node.cluster, None if seen.gone else pod)
            waits = address is None and not seen.gone
        asked = seen.reason == DELETED and self._keeper.asked(uid)
        reason = None if asked else self._explainer.explain(pod, seen)
        reason = reason or (self._reach.why_unknown(node.cluster) if waits else None)
        # Who hears that a node is gone hears why, and asks no more: an event that tells it gets a moment to be written.
        gone = seen.gone and (asked or self._explainer.settled(pod, seen))
        answer = Answer.GONE if gone else Answer.RUNNING
        return Sighting(node.name, answer, uid, address, own_exit(seen, asked=asked), reason, internal)

    async def changed(self) -> None:
        with contextlib.suppress(BackendError):
            await self._watch.ready()
        await self._change.wait()
        self._change.clear()

    def _saw(self, pod: Pod | None) -> None:
        if pod is not None:
            self._absent.discard(pod["metadata"]["name"])
            self._keeper.saw(pod)
        self._change.set()

    async def inventory(self) -> Sequence[NodeHandle]:
        await self._watch.ready()
        await asyncio.to_thread(self._archive.remove_expired)
        if not self._swept:
            # Once: from then on this object sees the end of every cluster.
            self._swept = True
            await self._remove_leftovers()
        return [
            handle
            for pod in self._watch.pods.values()
            if not look(pod).gone and (handle := objects.handle_of(pod)) is not None
        ]

    async def _services(self) -> dict[str, datetime]:
        """Return since when there are Services, by cluster."""
        found = await self._api.call("list", "services", query={"labelSelector": objects.selector(self._place)})
        since: dict[str, datetime] = {}
        for item in found.get("items") or []:
            cluster = item["metadata"]["labels"].get(objects.CLUSTER)
            made = parse_time(item["metadata"].get("creationTimestamp"))
            if cluster and made:
                since[cluster] = made
        return since

    async def _remove_leftovers(self) -> None:
        known = {handle.cluster for pod in self._watch.pods.values() if (handle := objects.handle_of(pod)) is not None}
        for cluster, made in (await self._services()).items():
            if cluster not in known and datetime.now(UTC) - made > LEFTOVER_AGE:
                self._keeper.spawn(self._keeper.remove_service(cluster))

    async def logs(self, node: NodeHandle, cursor: str | None = None, limit: int = 1_000_000) -> LogChunk:
        if await asyncio.to_thread(self._archive.has_log, node.cluster, node.name):
            return await asyncio.to_thread(self._archive.log, node.cluster, node.name, cursor, limit)
        # First whether it is gone, then its log: otherwise its last words could come in between.
        sighting = (await self.observe([node])).sightings[node.name]
        tail = self._keeper.tail(node.name)
        if tail is not None:
            return tail.chunk(cursor, limit, gone=False)
        if sighting.answer is Answer.UNKNOWN:
            raise TryAgainError(f"The log of {node.name} cannot be read: {sighting.reason}", delay=2.0)
        if node.name not in self._watch.pods:
            return await asyncio.to_thread(self._archive.log, node.cluster, node.name, cursor, limit)
        source = logs.Source(self._api, node.name, node.role.value)
        return await logs.read(source, cursor, limit, gone=sighting.answer is Answer.GONE)

    async def connect(self, scheduler: NodeHandle, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect straight where that was set up and works; else through the API server."""
        pod = self._watch.pods.get(scheduler.name)
        if (pod is not None and look(pod).gone) or self._watch.deleted(scheduler.name) is not None:
            raise TryAgainError(f"The scheduler {scheduler.name} has ended.", advice="Its log says why.")
        if self._settings.direct is not None and address != self._reach.internal(scheduler.cluster):
            with contextlib.suppress(OSError, TimeoutError, ValueError):
                host, _, port = address.removeprefix("tls://").rpartition(":")
                async with asyncio.timeout(DIRECT_SECONDS):
                    return await asyncio.open_connection(host.strip("[]"), int(port))
        try:
            return await self._forward(scheduler.name, pod["metadata"]["uid"] if pod is not None else None)
        except FixItError as exc:
            if status_of(exc) in (401, 403):
                raise
            raise TryAgainError(
                f"The scheduler {scheduler.name} cannot be reached through the API server: {exc.message}",
                advice="It may still be starting, or have ended; its log says which.",
            ) from exc

    async def _forward(self, name: str, uid: str | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if uid is None or uid not in self._answering:
            if not await portforward.answers(self._api, name, SCHEDULER_PORT):
                raise TryAgainError(f"The scheduler {name} does not answer yet.", advice="It may still be starting.")
            if len(self._answering) >= REMEMBERED:
                self._answering.clear()
            self._answering |= {uid} if uid is not None else set()
        return await portforward.open_stream(self._api, name, SCHEDULER_PORT)

    async def close(self) -> None:
        await self._watch.close()
        await self._keeper.close()
        await self._api.close()
        await asyncio.to_thread(self._archive.close)


def _ended(name: str, record: Record) -> LaunchResult:
    if record.never_ran:
        return LaunchResult(name, error=FixItError(f"{name} was asked to stop before it was launched."))
    return LaunchResult(name, record.cloud_id)


def _no_scheduler() -> TryAgainError:
    return TryAgainError("Workers were not started, because their scheduler could not be.", delay=1.0)
