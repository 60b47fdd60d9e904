"""Container images in the registry of a cloud account."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from ropewalk.schemas.common import Schema

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Tag = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}$")]

MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
"""The kinds of manifest that are pushed: of one image for one platform."""

MAX_MANIFEST = 4 * 2**20
"""Bytes; the distribution specification asks registries to take at least as much."""

PART_BYTES = 16 * 2**20
"""Bytes of a part of a layer, but the last. ECR takes from 5 MiB to 20 MiB ("Amazon ECR service quotas")."""


class Digests(Schema):
    """Blobs by digest: layers, and the configuration of an image."""

    digests: Annotated[list[Digest], Field(max_length=1000)]


class UploadStart(Schema):
    """A blob that is going to be sent in parts."""

    digest: Digest
    size: Annotated[int, Field(gt=0)]


class Upload(Schema):
    """A blob that is being sent."""

    id: str
    offset: int = Field(description="The byte to go on from.")


class Image(Schema):
    """An image that clusters of the account can run from."""

    reference: str = Field(description="What to give as `container=`.")
    digest: Digest
    tags: list[str]
    size: int = Field(description="Bytes, compressed.")
    pushed_at: datetime | None
