"""Routes of images in the registry of an account's cloud account."""

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query, Request, status

from ropewalk.schemas.images import Digest, Digests, Image, Tag, Upload, UploadStart
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.environments import images
from ropewalk.server.identity.permissions import AccountCaller, Permission

router = APIRouter(prefix="/api/v1/accounts/{account}/images", tags=["images"])

Reader = Annotated[AccountCaller, require(Permission.ACCOUNT_IMAGES_READ)]
Pusher = Annotated[AccountCaller, require(Permission.ACCOUNT_IMAGES_PUSH)]
UploadId = Annotated[str, Path(pattern=r"^[A-Za-z0-9_.=-]{1,256}$", description="As the registry named it.")]


@router.get("")
async def list_images(context: ContextDep, caller: Reader) -> list[Image]:
    """List the images, newest first."""
    return await images.list_images(context, caller)


@router.post("/missing")
async def missing_blobs(context: ContextDep, caller: Pusher, wish: Digests) -> Digests:
    """Return which of these blobs the registry does not have."""
    return Digests(digests=await images.missing(context, caller, wish.digests))


@router.post("/uploads", status_code=status.HTTP_201_CREATED)
async def begin_upload(context: ContextDep, caller: Pusher, wish: UploadStart) -> Upload:
    """Begin to send a blob."""
    return Upload(id=await images.begin(context, caller, wish), offset=0)


@router.put("/uploads/{upload}")
async def send_part(
    context: ContextDep,
    caller: Pusher,
    request: Request,
    upload: UploadId,
    first: Annotated[int, Query(ge=0, description="Where in the blob the body begins, in bytes.")],
) -> Upload:
    """Send a part: from 5 to 16 MiB, the last one may be smaller; parts go in order."""
    offset = await images.send(context, caller, upload, first, await request.body())
    return Upload(id=upload, offset=offset)


@router.post("/uploads/{upload}/finish", status_code=status.HTTP_204_NO_CONTENT)
async def finish_upload(
    context: ContextDep, caller: Pusher, upload: UploadId, digest: Annotated[Digest, Query()]
) -> None:
    """Complete a blob; the registry verifies its digest."""
    await images.finish(context, caller, upload, digest)


@router.put("/{tag}")
async def put_image(
    context: ContextDep,
    caller: Pusher,
    request: Request,
    tag: Tag,
    content_type: Annotated[str, Header(description="Media type of the manifest.")] = "",
) -> Image:
    """Make an image of blobs that were sent: the body is its manifest."""
    return await images.put_image(context, caller, tag, await request.body(), content_type)


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_image(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_IMAGES_DELETE)], name: str
) -> None:
    """Delete an image, given by tag or digest, with all its tags."""
    await images.delete_image(context, caller, name)
