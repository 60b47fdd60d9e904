"""Images in the cloud account's ECR repository, through ECR's own API: no daemon, and no password of a registry.

Layers go in parts and only where they are missing; ECR verifies each digest itself.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from typing import Any

from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.infrastructure import Infrastructure
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.images import Image

__all__ = ["EcrImages"]

DIGESTS_PER_CALL = 100
"""Of BatchCheckLayerAvailability (its API reference: layerDigests, 1 to 100 items)."""

_UNKNOWN_UPLOAD = ("UploadNotFoundException", "InvalidLayerPartException", "EmptyUploadException")
"""The upload is over, or has other bytes than the sender thinks (a lost answer): that blob is begun again."""


class EcrImages:
    """One repository."""

    def __init__(self, aws: Aws, infrastructure: Infrastructure) -> None:
        self._aws = aws
        self._infrastructure = infrastructure

    @property
    def repository(self) -> str:
        return self._infrastructure.repository

    async def find(self, digest: str) -> Image | None:
        try:
            answer = await self._call("DescribeImages", imageIds=[{"imageDigest": digest}])
        except BackendError as error:
            if aws_code(error) == "ImageNotFoundException":
                return None
            raise
        found = answer.get("imageDetails") or ()
        return self._image(found[0]) if found else None

    async def missing(self, digests: Sequence[str]) -> list[str]:
        batches = [digests[at : at + DIGESTS_PER_CALL] for at in range(0, len(digests), DIGESTS_PER_CALL)]
        answers = await asyncio.gather(
            *(self._call("BatchCheckLayerAvailability", layerDigests=list(batch)) for batch in batches)
        )
        there = {
            layer["layerDigest"]
            for answer in answers
            for layer in answer.get("layers", ())
            if layer.get("layerAvailability") == "AVAILABLE"
        }
        return [digest for digest in digests if digest not in there]

    async def begin(self, digest: str, size: int) -> str:  # noqa: ARG002 - ECR learns both at the end
        answer = await self._call("InitiateLayerUpload")
        return str(answer["uploadId"])

    async def send(self, upload: str, first: int, data: bytes) -> int:
        try:
            answer = await self._call(
                "UploadLayerPart",
                uploadId=upload,
                partFirstByte=first,
                partLastByte=first + len(data) - 1,
                layerPartBlob=data,
            )
        except BackendError as error:
            # The part, or the one before, arrived although its answer did not: go on after what ECR has.
            last = error.details.get("last_byte")
            if isinstance(last, int) and last + 1 != first:
                return last + 1
            raise _told(error) from error
        return int(answer.get("lastByteReceived", first + len(data) - 1)) + 1

    async def finish(self, upload: str, digest: str) -> None:
        try:
            await self._call("CompleteLayerUpload", uploadId=upload, layerDigests=[digest])
        except BackendError as error:
            if aws_code(error) != "LayerAlreadyExistsException":
                raise _told(error) from error

    async def put(self, manifest: bytes, media_type: str, tag: str) -> Image:
        digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
        try:
            await self._call(
                "PutImage",
                imageManifest=manifest.decode(),
                imageManifestMediaType=media_type,
                imageTag=tag,
                imageDigest=digest,
            )
        except BackendError as error:
            if aws_code(error) == "ImageTagAlreadyExistsException":
                raise _taken(tag) from error
            if aws_code(error) != "ImageAlreadyExistsException":
                raise _told(error) from error
        found = [image for image in await self.images() if image.digest == digest]
        if not found:
            raise FixItError(
                f"ECR took the image {tag!r}, but does not list it.", advice="Push it again; nothing is sent twice."
            )
        return found[0].model_copy(update={"reference": f"{self._infrastructure.repository}:{tag}"})

    async def images(self) -> list[Image]:
        name = self._infrastructure.repository_name
        found = [
            self._image(item)
            async for item in self._aws.pages("ecr", "DescribeImages", "imageDetails", repositoryName=name)
        ]
        return sorted(found, key=lambda image: image.pushed_at.timestamp() if image.pushed_at else 0.0, reverse=True)

    async def delete(self, digest: str) -> None:
        answer = await self._call("BatchDeleteImage", imageIds=[{"imageDigest": digest}])
        for failure in answer.get("failures", ()):
            if failure.get("failureCode") != "ImageNotFound":
                raise FixItError(
                    f"ECR did not delete the image: {failure.get('failureReason') or failure.get('failureCode')}.",
                    advice="An image that an index refers to goes with the index.",
                )

    def _image(self, item: dict[str, Any]) -> Image:
        tags = sorted(item.get("imageTags") or ())
        repository = self._infrastructure.repository
        return Image(
            reference=f"{repository}:{tags[0]}" if tags else f"{repository}@{item['imageDigest']}",
            digest=item["imageDigest"],
            tags=tags,
            size=int(item.get("imageSizeInBytes") or 0),
            pushed_at=item.get("imagePushedAt"),
        )

    async def _call(self, operation: str, **parameters: Any) -> dict[str, Any]:
        name = self._infrastructure.repository_name
        return await self._aws.call("ecr", operation, repositoryName=name, **parameters)


def _taken(tag: str) -> FixItError:
    return FixItError(
        f"Another image has the tag {tag!r} already, and tags of this repository never move: clusters that were "
        "started with it would change under their users.",
        advice="Push it with another tag: --tag NAME.",
        field="tag",
    )


def _told(error: BackendError) -> BackendError:
    code = aws_code(error)
    if code in _UNKNOWN_UPLOAD:
        return FixItError(
            "The registry has no such upload, or other bytes of it.",
            advice="Push the image again: what is complete is not sent again.",
            details={**error.details, "upload": "unknown"},
        )
    if code in ("InvalidLayerException", "LayerDigestMismatchException", "ImageDigestDoesNotMatchException"):
        return FixItError(
            "The bytes that arrived are not those of the digest.",
            advice="Push the image again; if it happens once more, the file is damaged.",
            details=error.details,
        )
    return error
