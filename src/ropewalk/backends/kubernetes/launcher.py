"""Creating a cluster's objects: its Service, a Secret per role, and all pods at once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from ropewalk.backends.kubernetes import objects
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.objects import Owner, PodMaker
from ropewalk.backends.kubernetes.refusals import reason_of, status_of
from ropewalk.backends.kubernetes.template import PodTemplate, parse_template
from ropewalk.backends.port import LaunchRequest, NodeLaunch, Place
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.clusters import NodeRole
from ropewalk.schemas.kubernetes import KubernetesSettings

REMEMBERED = 1000


class Launcher:
    """Makes the objects of clusters of one cloud account. Whatever exists already is taken as it is."""

    def __init__(self, api: Api, place: Place, settings: KubernetesSettings) -> None:
        self._api = api
        self._place = place
        self._settings = settings
        self.services: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """Of the clusters that were launched last."""

    async def launch(self, request: LaunchRequest) -> dict[str, dict[str, Any] | BackendError]:
        """Create all that is missing; returns the pod of each node, or why there is none.

        Raises:
            BackendError: none can be.
        """
        template = parse_template(request.options)
        image = request.image or self._settings.image
        if image is None:
            raise FixItError(
                "No image is named for the pods.",
                field="container",
                advice="Name one that holds Python with dask and distributed: container='…', or as the cloud "
                "account's `image`.",
            )
        owner = await self._owner(request)
        secrets = await self._secrets(request, owner)
        maker = PodMaker(self._place, self._settings, request, image, owner)
        pods = await asyncio.gather(*(self._pod(maker, node, secrets, template) for node in request.nodes))
        return dict(zip((node.name for node in request.nodes), pods, strict=True))

    async def _owner(self, request: LaunchRequest) -> Owner:
        cluster = request.cluster.id
        known = self.services.get(cluster)
        if known is None:
            known = await self._make_service(request)
            self.services[cluster] = known
            if len(self.services) > REMEMBERED:
                self.services.popitem(last=False)
        return Owner(known["metadata"]["name"], known["metadata"]["uid"])

    async def _make_service(self, request: LaunchRequest) -> dict[str, Any]:
        cluster = request.cluster.id
        if any(node.role is NodeRole.SCHEDULER for node in request.nodes):
            try:
                body = objects.service(self._place, self._settings, request)
                return await self._api.call("create", "services", body=body)
            except BackendError as exc:
                if reason_of(exc) != "AlreadyExists":
                    raise
        try:
            found = await self._api.call("get", "services", objects.service_name(cluster))
        except BackendError as exc:
            if status_of(exc) == 404:
                raise _deleted(cluster) from exc
            raise
        if not objects.is_ours(found, self._place, cluster):
            raise _taken("Service", objects.service_name(cluster))
        if found["metadata"].get("deletionTimestamp"):
            raise TryAgainError("What is left of an earlier cluster of this id is just being removed.", delay=2.0)
        return found

    async def _secrets(self, request: LaunchRequest, owner: Owner) -> Mapping[str, str]:
        """Make the Secret of each configuration; returns their names by node."""
        namespace, cluster = self._api.namespace, request.cluster.id
        configs = {node.name: objects.role_config(node, cluster, namespace) for node in request.nodes}
        bodies = {text: objects.secret(self._place, request, text, owner) for text in set(configs.values())}
        await asyncio.gather(*(self._make_secret(body) for body in bodies.values()))
        return {name: bodies[text]["metadata"]["name"] for name, text in configs.items()}

    async def _make_secret(self, body: Mapping[str, Any]) -> None:
        try:
            await self._api.call("create", "secrets", body=body)
        except BackendError as exc:
            # Named by its content, so the one that exists is this one.
            if reason_of(exc) != "AlreadyExists":
                raise

    async def _pod(
        self, maker: PodMaker, node: NodeLaunch, secrets: Mapping[str, str], template: PodTemplate
    ) -> dict[str, Any] | BackendError:
        body = maker.pod(node, secrets[node.name], template.of(node.role))
        try:
            return await self._api.call("create", "pods", body=body)
        except BackendError as exc:
            if reason_of(exc) != "AlreadyExists":
                return exc
        try:
            found = await self._api.call("get", "pods", node.name)
        except BackendError as exc:
            return exc
        return found if objects.is_ours(found, self._place, maker.request.cluster.id) else _taken("pod", node.name)


def _deleted(cluster: str) -> FixItError:
    return FixItError(
        f"The Service {objects.service_name(cluster)}, to which all of this cluster belongs, is not there: somebody "
        "deleted it, or its scheduler was never launched.",
        advice="Create the cluster again.",
    )


def _taken(kind: str, name: str) -> FixItError:
    return FixItError(
        f"There is a {kind} {name} in the namespace already that is not of this cluster.",
        field="namespace",
        advice=f"Delete it (kubectl delete {kind.lower()} {name}), or use another namespace.",
    )
