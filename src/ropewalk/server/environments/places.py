"""Where the images of a cloud account are: its own registry in AWS, or one that the team named for Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ropewalk.backends.kubernetes.template import parse_template
from ropewalk.backends.port import HasImages
from ropewalk.errors import FixItError, InputError, NotFoundError
from ropewalk.schemas.clusters import NodeRole
from ropewalk.schemas.environments import Platform
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.environments import credentials
from ropewalk.server.environments.builder import Target
from ropewalk.server.environments.oci.maker import Destination
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.sources import Registries

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["CloudPlaces", "asked_platform", "platform_of", "takes_images"]

_PLATFORMS: Mapping[str, Platform] = {
    "X86_64": "linux/amd64",
    "ARM64": "linux/arm64",
    "amd64": "linux/amd64",
    "arm64": "linux/arm64",
}
"""By what AWS calls processors, and what Kubernetes does."""
_ARCHITECTURE_LABEL = "kubernetes.io/arch"
"""That kubelets put on their nodes; "Well-Known Labels" in the documentation of Kubernetes."""


def takes_images(cloud: CloudAccount) -> bool:
    """Whether images can be built for a cloud account: there is a registry to put them in."""
    return cloud.backend == "aws" or (cloud.backend == "kubernetes" and bool(cloud.settings.get("image_registry")))


def platform_of(cloud: CloudAccount) -> Platform:
    """Return what nodes of a cloud account run on, unless a cluster asks for something else."""
    return _PLATFORMS.get(str(cloud.settings.get("architecture")), "linux/amd64")


def asked_platform(cloud: CloudAccount, options: Mapping[str, Any]) -> Platform | None:
    """Return what a cluster's nodes are to run on by its ``backend_options``; None: they do not say.

    Raises:
        InputError: Scheduler and workers are to run on different ones: an environment is one image.
    """
    if cloud.backend == "aws":
        return _PLATFORMS.get(str(options.get("architecture")))
    if cloud.backend != "kubernetes":
        return None
    template = parse_template(options)
    roles = (NodeRole.SCHEDULER, NodeRole.WORKER)
    found = {template.of(role).node_selector.get(_ARCHITECTURE_LABEL) for role in roles}
    if len(found) > 1:
        raise InputError(
            "Scheduler and workers are to run on different processors, and a software environment is one image.",
            advice="Give both the same, or use container= with an image for several.",
            field="backend_options.node_selector",
        )
    return _PLATFORMS.get(str(found.pop()))


class CloudPlaces:
    """Opens registries of cloud accounts."""

    def __init__(self, context: Context, registries: Registries) -> None:
        self._context = context
        self._registries = registries

    @asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[Destination]:
        """Open the registry of a cloud account; see :class:`~ropewalk.server.environments.oci.maker.Places`."""
        backend = await self._context.backends.get(target.cloud_account_id)
        if isinstance(backend, HasImages):
            store = backend.images

            async def has(digest: str) -> bool:
                return await store.find(digest) is not None

            yield Destination(store, Reference.parse(store.repository), has)
            return
        async with self._named(target) as destination:
            yield destination

    @asynccontextmanager
    async def _named(self, target: Target) -> AsyncIterator[Destination]:
        async with self._context.db.read() as session:
            cloud = await session.get_one(CloudAccount, target.cloud_account_id)
            name, login = cloud.settings.get("image_registry"), cloud.settings.get("image_registry_credentials")
            if not name:
                raise FixItError(
                    f"The cloud account ({cloud.kind}) names no registry that images can be put in.",
                    advice="Name one: ropewalk cloud-account set kubernetes --image-registry HOST/REPOSITORY",
                    field="image_registry",
                )
            try:
                known = await credentials.opened(self._context, session, target.account_id, [login] if login else [])
            except NotFoundError as error:
                raise FixItError(error.message, advice=error.advice, field="image_registry_credentials") from None
        reference = Reference.parse(name, "image_registry")
        async with self._registries.open(reference, known) as repository:
            yield Destination(repository, repository.reference, repository.has, repository)
