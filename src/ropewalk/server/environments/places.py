"""Where the images of a cloud account are: its own registry in AWS, or one that the team named for Kubernetes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from ropewalk.backends.port import HasImages
from ropewalk.errors import FixItError, NotFoundError
from ropewalk.schemas.environments import Platform
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.environments import credentials
from ropewalk.server.environments.builder import Target
from ropewalk.server.environments.oci.maker import Destination
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.sources import Registries

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["CloudPlaces", "platform_of", "takes_images"]


def takes_images(cloud: CloudAccount) -> bool:
    """Whether images can be built for a cloud account: there is a registry to put them in."""
    return cloud.backend == "aws" or (cloud.backend == "kubernetes" and bool(cloud.settings.get("image_registry")))


def platform_of(cloud: CloudAccount) -> Platform:
    """Return what nodes of a cloud account run on, unless a cluster asks for something else."""
    return "linux/arm64" if cloud.settings.get("architecture") == "ARM64" else "linux/amd64"


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
