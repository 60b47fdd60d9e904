"""Images of an account: clients send blobs in parts, and the server passes them on with the cloud account's own key.

The server keeps nothing of an upload: the registry does. A client that was interrupted, or a server that was started
again in between, goes on where the registry says.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ropewalk.backends.port import HasImages, ImageStore
from ropewalk.errors import BackendError, FixItError, InputError, NotFoundError
from ropewalk.schemas.images import MANIFEST_TYPES, MAX_MANIFEST, PART_BYTES, Image, UploadStart
from ropewalk.server.cloud_accounts.service import resolve
from ropewalk.server.db.models import Account
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["begin", "delete_image", "finish", "list_images", "missing", "put_image", "send"]


async def list_images(context: Context, caller: AccountCaller) -> list[Image]:
    """Return the images in the registry of the account's cloud account, newest first."""
    async with _store(context, caller) as store:
        return await store.images()


async def missing(context: Context, caller: AccountCaller, digests: list[str]) -> list[str]:
    """Return which of these blobs have to be sent."""
    async with _store(context, caller) as store:
        return await store.missing(digests)


async def begin(context: Context, caller: AccountCaller, wish: UploadStart) -> str:
    """Begin to send a blob; return the id of the upload."""
    async with _store(context, caller) as store:
        return await store.begin(wish.digest, wish.size)


async def send(context: Context, caller: AccountCaller, upload: str, first: int, data: bytes) -> int:
    """Pass on a part of a blob; return the byte to go on from.

    Raises:
        InputError: It is empty or too large.
        NotFoundError: The registry does not know the upload any more: begin the blob again.
    """
    if not 0 < len(data) <= PART_BYTES:
        raise InputError(f"A part has from 1 to {PART_BYTES} bytes, not {len(data)}.", field="body")
    async with _store(context, caller) as store:
        return await store.send(upload, first, data)


async def finish(context: Context, caller: AccountCaller, upload: str, digest: str) -> None:
    """Complete a blob; the registry verifies its digest."""
    async with _store(context, caller) as store:
        await store.finish(upload, digest)


async def put_image(context: Context, caller: AccountCaller, tag: str, manifest: bytes, media_type: str) -> Image:
    """Make an image of blobs that were sent.

    Raises:
        InputError: The manifest is not one of a single image.
    """
    _check_manifest(manifest, media_type)
    async with _store(context, caller) as store:
        image = await store.put(manifest, media_type, tag)
    await _note(context, caller, EventCode.IMAGE_PUSHED, f"The image {image.reference} was pushed.", image.digest)
    return image


async def delete_image(context: Context, caller: AccountCaller, name: str) -> None:
    """Delete an image, given by tag or digest, with all its tags.

    Raises:
        NotFoundError: There is none.
    """
    async with _store(context, caller) as store:
        found = next((i for i in await store.images() if name == i.digest or name in i.tags), None)
        if found is None:
            raise NotFoundError(f"There is no image {name!r}.", advice="See them with: ropewalk image list")
        await store.delete(found.digest)
    await _note(context, caller, EventCode.IMAGE_DELETED, f"The image {found.reference} was deleted.", found.digest)


@asynccontextmanager
async def _store(context: Context, caller: AccountCaller) -> AsyncIterator[ImageStore]:
    async with context.db.read() as session:
        row = await resolve(session, await session.get_one(Account, caller.account_id))
    backend = await context.backends.get(row.id)
    if not isinstance(backend, HasImages):
        raise FixItError(
            f"The cloud account of {caller.account!r} ({row.kind}) has no registry for images.",
            advice="Images are kept where clusters run in AWS. See: ropewalk cloud-account show",
        )
    try:
        yield backend.images
    except BackendError as error:
        if error.details.get("upload") == "unknown":
            raise NotFoundError(error.message, advice=error.advice, details={"upload": "unknown"}) from error
        raise


def _check_manifest(manifest: bytes, media_type: str) -> None:
    if media_type not in MANIFEST_TYPES:
        raise InputError(
            f"A manifest of the type {media_type!r} is not one of a single image.",
            advice=f"Give one of: {', '.join(MANIFEST_TYPES)}",
            field="content-type",
        )
    try:
        value: Any = json.loads(manifest)
        complete = isinstance(value["config"]["digest"], str) and isinstance(value["layers"], list)
    except (ValueError, LookupError, TypeError):
        complete = False
    if not complete or len(manifest) > MAX_MANIFEST:
        raise InputError("The manifest is not that of an image: it needs config and layers.", field="body")


async def _note(context: Context, caller: AccountCaller, code: EventCode, message: str, digest: str) -> None:
    async with context.db.transaction() as session:
        record(
            session,
            context.clock.now(),
            code,
            message,
            account_id=caller.account_id,
            actor=caller.username,
            details={"digest": digest},
        )
