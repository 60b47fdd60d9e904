"""The same builds, with their images in ECR: over the double of AWS, with a key that has the rights for images only."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import pytest

from ropewalk.backends.aws.images import EcrImages
from ropewalk.server.environments.builder import Target
from ropewalk.server.environments.oci.maker import Destination
from ropewalk.server.environments.oci.reference import Reference
from tests.aws.test_images import SENDING, store
from tests.images.test_build import World, world
from tests.support.ministack import Double

__all__ = ["store", "world"]

# botocore puts parts into JSON, so that aiohttp gets them as one piece of bytes; it has no other way.
pytestmark = pytest.mark.filterwarnings("ignore:Sending a large body directly")


@dataclass(frozen=True)
class Ecr:
    """All images go to one repository in AWS."""

    store: EcrImages

    @contextlib.asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[Destination]:
        async def has(digest: str) -> bool:
            return await self.store.find(digest) is not None

        yield Destination(self.store, Reference.parse(self.store.repository), has)


async def test_an_image_is_pushed_to_ecr_found_there_and_made_again_when_it_vanished(
    world: World, store: EcrImages, aws: Double
) -> None:
    builder = replace(world.builder, places=Ecr(store))
    request = world.request("distributed")
    result = await builder.build(request, world.said)
    assert result.image is not None
    assert result.image.startswith(f"{store.repository}@sha256:")
    (image,) = await store.images()
    assert image.digest == result.details["digest"]
    assert image.tags == [f"env-{image.digest[7:19]}"]
    aws.count_anew()
    again = await builder.build(replace(request, lock=result.lock), world.said)
    assert again.reused
    assert not [action for action in SENDING if aws.calls().get(action)]
    assert await builder.present(request, result)
    await store.delete(image.digest)
    assert not await builder.present(request, result)
    back = await builder.build(replace(request, lock=result.lock), world.said)
    assert back.image == result.image
    assert await builder.present(request, back)


async def test_without_the_right_to_look_an_image_counts_as_there(world: World, store: EcrImages, aws: Double) -> None:
    builder = replace(world.builder, places=Ecr(store))
    request = world.request("distributed")
    result = await builder.build(request, world.said)
    aws.inject("ecr:DescribeImages", "error", times=9)
    assert await builder.present(request, result)
    aws.heal()
