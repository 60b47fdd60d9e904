"""The image that packages are put upon: any slim Python image, by digest, pulled once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import FixItError, TryAgainError
from ropewalk.server.environments.builder import Report
from ropewalk.server.environments.oci.blobs import Blobs, in_words
from ropewalk.server.environments.oci.contents import Contents, read_layer
from ropewalk.server.environments.oci.image import Descriptor
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Manifest, Repository

__all__ = ["Base", "pull"]

AT_ONCE = 3
"""Layers of a base that are pulled at a time."""


@dataclass(frozen=True, slots=True)
class Base:
    """An image whose configuration and list of files are known."""

    reference: Reference
    """By digest."""
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    contents: Contents


async def pull(repository: Repository, platform: Platform, blobs: Blobs, report: Report) -> Base:
    """Pull an image into *blobs*; what is there already is not pulled again.

    Raises:
        FixItError: There is no such image for the platform, or it cannot be read.
        TryAgainError: The registry does not answer, and the image was never pulled before.
    """
    manifest = await _manifest(repository, platform, blobs, report)
    value = manifest.value
    try:
        config = Descriptor.of(value["config"])
        layers = tuple(Descriptor.of(each) for each in value["layers"])
    except (LookupError, TypeError, ValueError):
        raise FixItError(
            f"{repository.reference} is not an image of a kind that can be run.", field="container"
        ) from None
    limit = asyncio.Semaphore(AT_ONCE)

    async def fetch(digest: str) -> None:
        async with limit:
            await repository.fetch(digest, blobs)

    missing = [each for each in layers if not blobs.has(each.digest)]
    if missing:
        report.log(f"Pulling {repository.reference}: {in_words(sum(each.size for each in missing))}")
    await asyncio.gather(*(fetch(each.digest) for each in (config, *layers)))
    known = json.loads(blobs.read(config.digest))
    _check(known, platform, repository.reference)
    names = [await asyncio.to_thread(read_layer, each.digest, blobs) for each in layers]
    return Base(repository.reference.at(manifest.digest), known, layers, Contents(names, known))


def _check(config: Mapping[str, Any], platform: Platform, reference: Reference) -> None:
    found = config.get("architecture")
    if found not in (platform.architecture, None, ""):
        raise FixItError(
            f"The image {reference} is for linux/{found}, and the nodes are {platform}.",
            advice="Choose another image, or nodes of that architecture.",
            field="container",
        )


async def _manifest(repository: Repository, platform: Platform, blobs: Blobs, report: Report) -> Manifest:
    """Ask the registry what the name means now; if it does not answer, take what it meant the last time."""
    key = f"manifest {repository.reference} {platform}"
    try:
        found = await repository.image(platform)
    except TryAgainError as error:
        known = blobs.fact(key)
        if not isinstance(known, dict) or not blobs.has(known["digest"]):
            raise
        report.log(f"{error.message} The image is taken that was pulled before.")
        return Manifest(blobs.read(known["digest"]), known["media_type"])
    await asyncio.to_thread(blobs.keep, found.data)
    blobs.note(key, {"digest": found.digest, "media_type": found.media_type})
    return found
