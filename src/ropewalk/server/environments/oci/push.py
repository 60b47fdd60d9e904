"""Sending an image to a registry: only blobs that it does not have, several at once, each verified."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from ropewalk.errors import BackendError, FixItError, NotFoundError, TryAgainError
from ropewalk.schemas.images import PART_BYTES, Image
from ropewalk.server.environments.oci.blobs import Blobs, disk_errors
from ropewalk.server.environments.oci.image import Descriptor, Made
from ropewalk.server.environments.oci.layers import MEDIA_TYPE, Layer
from ropewalk.server.environments.oci.together import one_error

__all__ = ["Early", "Pushed", "Store", "push"]

AT_ONCE = 4
"""Blobs on their way: one stream rarely fills a line."""
FRESH_STARTS = 3
"""How often a blob is begun again because the registry lost it."""

Mount = Callable[[str], Awaitable[bool]]
Fetch = Callable[[str], Awaitable[None]]


class Store(Protocol):
    """What is needed of a registry; see :class:`~ropewalk.backends.port.ImageStore`, which has all of it."""

    async def missing(self, digests: Sequence[str]) -> list[str]: ...

    async def begin(self, digest: str, size: int) -> str: ...

    async def send(self, upload: str, first: int, data: bytes) -> int: ...

    async def finish(self, upload: str, digest: str) -> None: ...

    async def put(self, manifest: bytes, media_type: str, tag: str) -> Image: ...


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did."""

    image: Image
    sent: int
    """Bytes of blobs that were sent."""
    blobs: tuple[str, ...]
    """Digests of these blobs."""


class Early:
    """Sends layers while others are still being made.

    It changes nothing about a push but how long it takes: what fails here is left to :func:`push`, which tells why.

    Args:
        store: The registry of the cloud account.
        blobs: Where the layers are.
        group: In which they are sent.
        told: Told of each layer that was sent.
    """

    def __init__(self, store: Store, blobs: Blobs, group: asyncio.TaskGroup, told: Callable[[Layer], None]) -> None:
        self.sent: dict[str, int] = {}
        """Bytes of each layer that was sent, by digest."""
        self._store, self._blobs, self._group, self._told = store, blobs, group, told
        self._limit = asyncio.Semaphore(AT_ONCE)

    def add(self, layer: Layer) -> None:
        """Send a layer that is in the folder of blobs."""
        self._group.create_task(self._bring(layer))

    async def _bring(self, layer: Layer) -> None:
        async with self._limit:
            with suppress(BackendError, NotFoundError):
                if await self._store.missing([layer.digest]):
                    await _send(self._store, Descriptor(MEDIA_TYPE, layer.digest, layer.size), self._blobs)
                    self.sent[layer.digest] = layer.size
                    self._told(layer)


async def push(
    store: Store,
    made: Made,
    blobs: Blobs,
    tag: str,
    *,
    mount: Mount | None = None,
    fetch: Fetch | None = None,
    told: Callable[[Descriptor], None] = lambda _: None,
) -> Pushed:
    """Push an image.

    Args:
        store: The registry of the cloud account.
        made: The image.
        blobs: Where its blobs are.
        tag: What to call it.
        mount: Takes a blob over from elsewhere in the registry, if that can be.
        fetch: Brings a blob that is not in *blobs* yet: of the image that this one is based upon.
        told: Told of each blob that was sent.

    Raises:
        FixItError: The registry refuses.
        TryAgainError: It does not answer, or what arrived there is damaged.
    """
    every = {each.digest: each for each in (*made.layers, made.config)}
    missing = [every[digest] for digest in await store.missing(list(every))]
    limit = asyncio.Semaphore(AT_ONCE)

    async def bring(blob: Descriptor) -> bool:
        async with limit:
            if mount is not None and await mount(blob.digest):
                return False
            if fetch is not None and not blobs.has(blob.digest):
                await fetch(blob.digest)
            await _send(store, blob, blobs)
            told(blob)
            return True

    with one_error():
        async with asyncio.TaskGroup() as group:
            tasks = {blob: group.create_task(bring(blob)) for blob in missing}
    sent = [blob for blob, task in tasks.items() if task.result()]
    image = await store.put(made.manifest, made.media_type, tag)
    return Pushed(image, sum(blob.size for blob in sent), tuple(blob.digest for blob in sent))


async def _send(store: Store, blob: Descriptor, blobs: Blobs) -> None:
    lost: BackendError | NotFoundError | None = None
    for _ in range(FRESH_STARTS):
        try:
            await _send_once(store, blob, blobs)
        except FixItError as error:
            if error.details.get("upload") != "unknown":
                raise
            lost = error
        else:
            return
    if not await asyncio.to_thread(blobs.verify, blob.digest):
        raise TryAgainError(f"The blob {blob.digest} in the server's cache is damaged; it is made again.") from lost
    raise TryAgainError(
        f"The registry lost the blob {blob.digest} {FRESH_STARTS} times, or other bytes than were sent arrived there.",
        delay=60.0,
        advice="A proxy on the way may change them, or the registry's storage is damaged or full.",
    ) from lost


async def _send_once(store: Store, blob: Descriptor, blobs: Blobs) -> None:
    upload = await store.begin(blob.digest, blob.size)
    offset = 0
    while offset < blob.size:
        data = await asyncio.to_thread(_read, blobs, blob, offset)
        offset = await store.send(upload, offset, data)
    await store.finish(upload, blob.digest)


def _read(blobs: Blobs, blob: Descriptor, offset: int) -> bytes:
    data = b""
    with disk_errors(), suppress(FileNotFoundError):
        data = blobs.read(blob.digest, offset, min(PART_BYTES, blob.size - offset))
    if not data:
        with suppress(OSError):
            blobs.forget(blob.digest)
        raise TryAgainError(f"The blob {blob.digest} in the server's cache is gone or cut off; it is made again.")
    return data
