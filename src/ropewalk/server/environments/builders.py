"""Which builder is responsible for a cloud account, and what it builds for."""

from __future__ import annotations

import platform
from typing import TYPE_CHECKING

from ropewalk.backends.local import LocalBackend
from ropewalk.errors import FixItError
from ropewalk.schemas.environments import Platform
from ropewalk.server.db.models import Account, CloudAccount
from ropewalk.server.environments.builder import Builder, Target
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.oci.sources import Registries
from ropewalk.server.environments.places import CloudPlaces, platform_of, takes_images
from ropewalk.server.environments.venvs import VenvBuilder

if TYPE_CHECKING:
    from ropewalk.backends.port import Backend
    from ropewalk.server.context import Context

__all__ = ["LOCAL", "builder_for", "files_of", "find_builder", "image_builder", "machine"]

LOCAL = "local"
"""The target of all cloud accounts whose nodes run on the server's machine."""


def files_of(context: Context) -> Files:
    """Return where software environments are on this machine."""
    return Files(context.settings.local_dir / "environments")


def machine() -> Platform:
    """Return the platform of this machine, as container registries call it."""
    return "linux/arm64" if platform.machine() in ("aarch64", "arm64") else "linux/amd64"


async def find_builder(context: Context, cloud: CloudAccount, account_id: str) -> tuple[Builder, Target] | None:
    """Return the builder for a cloud account and its target; None: there is none."""
    backend: Backend = await context.backends.get(cloud.id)
    if isinstance(backend, LocalBackend):
        verdict = await backend.isolation()

        async def user_of(account_id: str) -> int | None:
            async with context.db.read() as session:
                slug = (await session.get_one(Account, account_id)).slug
            return await backend.user(slug)

        builder = VenvBuilder(files_of(context), isolated=verdict.isolated, user_of=user_of)
        return builder, Target(LOCAL, cloud.id, account_id, machine())
    if takes_images(cloud):
        return image_builder(context), Target(cloud.id, cloud.id, account_id, platform_of(cloud))
    return None


def image_builder(context: Context) -> ImageBuilder:
    """Return what builds images, as the operator's settings say.

    Raises:
        FixItError: The file with certificates of registries cannot be read.
    """
    settings, files = context.settings, files_of(context)
    plain = (settings.registries_without_tls or "").split(",")
    try:
        ca = settings.registry_ca_file.read_text() if settings.registry_ca_file else None
    except OSError as exc:
        raise FixItError(f"The certificates of registries cannot be read: {exc.strerror}.") from None
    registries = Registries(ca, tuple(each.strip() for each in plain if each.strip()))
    return ImageBuilder(
        folder=files.images,
        cache=files.cache,
        places=CloudPlaces(context, registries),
        registries=registries,
        base=settings.image_base,
        network=settings.post_build_network,
    )


async def builder_for(context: Context, cloud: CloudAccount, account_id: str) -> tuple[Builder, Target]:
    """Return the builder for a cloud account and its target.

    Raises:
        FixItError: There is none.
    """
    found = await find_builder(context, cloud, account_id)
    if found is None:
        raise FixItError(
            f"Software environments cannot be built for this cloud account ({cloud.kind}).",
            advice="Name an image of your own with container=.",
            field="software",
        )
    return found
