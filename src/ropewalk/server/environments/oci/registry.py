"""One repository of a registry, by the OCI distribution specification: images are read and written."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO, Any

import httpx

from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.images import MANIFEST_TYPES, MAX_MANIFEST, Image
from ropewalk.server.environments.oci.blobs import Blobs, digest_of
from ropewalk.server.environments.oci.http import RegistryHttp
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.reference import Reference

__all__ = ["Manifest", "Repository"]

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
AT_ONCE = 4
"""Requests about blobs at a time: one stream rarely fills a line, and registries count."""
_CORRUPT_TRIES = 2
"""How often a blob is fetched whose bytes are not those of its digest: once more, since lines do err."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an image consists of, as bytes, since its digest is of these."""

    data: bytes
    media_type: str

    @property
    def digest(self) -> str:
        return digest_of(self.data)

    @property
    def value(self) -> dict[str, Any]:
        try:
            found = json.loads(self.data)
        except ValueError:
            found = None
        return found if isinstance(found, dict) else {}


class Repository:
    """One repository; as a :class:`~ropewalk.server.environments.oci.push.Store`, images can be pushed to it."""

    def __init__(self, http: RegistryHttp, reference: Reference) -> None:
        self._http = http
        self.reference = reference
        self._path = f"/v2/{reference.repository}"
        self._uploads: dict[str, tuple[str, int]] = {}
        """Address to go on at, and bytes that are there, of each upload that began here."""

    async def aclose(self) -> None:
        await self._http.aclose()

    # Reading.

    async def find(self, target: str) -> Manifest | None:
        """Return the manifest of a tag or digest; None: there is none."""
        accept = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
        answer = await self._http.send(
            "GET", f"{self._path}/manifests/{target}", scope=self._scope, headers={"Accept": accept}, accept=(404,)
        )
        if answer.status_code == 404:
            return None
        if len(answer.content) > MAX_MANIFEST:
            raise FixItError(f"The manifest of {self.reference} is too large.")
        kind = answer.headers.get("Content-Type", "").partition(";")[0].strip()
        found = Manifest(answer.content, kind)
        if target.startswith("sha256:") and found.digest != target:
            raise _corrupt(target)
        return found

    async def has(self, target: str) -> bool:
        """Whether there is an image with this tag or digest; nothing is read."""
        accept = ", ".join(MANIFEST_TYPES)
        answer = await self._http.send(
            "HEAD", f"{self._path}/manifests/{target}", scope=self._scope, headers={"Accept": accept}, accept=(404,)
        )
        return answer.status_code != 404

    async def image(self, platform: Platform) -> Manifest:
        """Return the manifest of the image for one platform, whether the name is of one image or of several.

        Raises:
            FixItError: There is none.
        """
        found = await self.find(self.reference.target)
        if found is None:
            raise FixItError(
                f"There is no image {self.reference}.",
                advice="Check the name and the tag; some registries say so to those who may not see it.",
                field="container",
            )
        if found.media_type not in INDEX_TYPES and "manifests" not in found.value:
            return found
        for entry in found.value.get("manifests", ()):
            facts = entry.get("platform") or {}
            if facts.get("os") == "linux" and facts.get("architecture") == platform.architecture:
                inner = await self.find(str(entry.get("digest")))
                if inner is not None:
                    return inner
        known = sorted({str((each.get("platform") or {}).get("architecture")) for each in found.value["manifests"]})
        raise FixItError(
            f"The image {self.reference} is not for {platform}; it is for: {', '.join(known) or 'nothing'}.",
            advice="Choose another image, or nodes of that architecture.",
            field="container",
        )

    async def fetch(self, digest: str, blobs: Blobs) -> None:
        """Bring a blob into *blobs*, verified; what is there already is not fetched."""
        if blobs.has(digest):
            return
        for _ in range(_CORRUPT_TRIES):
            with blobs.writer() as (stream, path):
                if await self._download(digest, stream):
                    blobs.adopt(path, digest)
                    return
        raise _corrupt(digest)

    async def _download(self, digest: str, stream: IO[bytes]) -> bool:
        """Write a blob to *stream*, going on where a line broke; say whether its bytes are right."""
        attempt = 1
        state = hashlib.sha256()
        while True:
            at = stream.tell()
            try:
                headers = {"Range": f"bytes={at}-"} if at else {}
                async with self._http.stream(
                    f"{self._path}/blobs/{digest}", scope=self._scope, headers=headers
                ) as answer:
                    if at and answer.status_code == 200:  # it does not do parts
                        stream.seek(0)
                        stream.truncate()
                        state = hashlib.sha256()
                    elif answer.status_code not in (200, 206):
                        await answer.aread()
                        error = self._http.refused(answer, "GET")
                        await self._http.wait(attempt, error)
                        attempt += 1
                        continue
                    async for chunk in answer.aiter_raw():
                        state.update(chunk)
                        await asyncio.to_thread(stream.write, chunk)
                stream.flush()
                return f"sha256:{state.hexdigest()}" == digest
            except httpx.TransportError as exc:
                error = TryAgainError(f"The registry {self._http.host} broke off: {exc or type(exc).__name__}.")
                await self._http.wait(attempt, error)
                attempt = 1 if stream.tell() > at else attempt + 1

    # Writing.

    async def missing(self, digests: Sequence[str]) -> list[str]:
        limit = asyncio.Semaphore(AT_ONCE)

        async def there(digest: str) -> bool:
            async with limit:
                path = f"{self._path}/blobs/{digest}"
                answer = await self._http.send("HEAD", path, scope=self._scope_all, accept=(404,))
            return answer.status_code != 404

        found = await asyncio.gather(*(there(digest) for digest in digests))
        return [digest for digest, known in zip(digests, found, strict=True) if not known]

    async def mount(self, digest: str, source: Reference) -> bool:
        """Take over a blob from another repository of the same registry, without sending it; False: it cannot."""
        if source.host != self.reference.host:
            return False
        scope = f"{self._scope_all} repository:{source.repository}:pull"
        path = f"{self._path}/blobs/uploads/?mount={digest}&from={source.repository}"
        answer = await self._http.send("POST", path, scope=scope, content=b"", accept=(401, 403, 404, 405))
        if answer.status_code == 202:  # it began an upload instead
            await self._http.send("DELETE", self._location(answer), scope=self._scope_all, accept=(404, 405))
        return answer.status_code == 201

    async def begin(self, digest: str, size: int) -> str:  # noqa: ARG002 - a registry learns both at the end
        answer = await self._http.send("POST", f"{self._path}/blobs/uploads/", scope=self._scope_all, content=b"")
        location = self._location(answer)
        self._uploads[location] = (location, 0)
        return location

    def _location(self, answer: httpx.Response) -> str:
        """Return where an upload goes on."""
        location = answer.headers.get("Location")
        if location is None:
            raise FixItError(f"The registry {self._http.host} began an upload without saying where it goes on.")
        return str(self._http.url(location))

    async def send(self, upload: str, first: int, data: bytes) -> int:
        location, offset = self._upload(upload)
        if offset != first:
            raise _unknown()
        headers = {
            "Content-Type": "application/octet-stream",
            "Content-Range": f"{first}-{first + len(data) - 1}",
        }
        try:
            answer = await self._http.send(
                "PATCH", location, scope=self._scope_all, headers=headers, content=data, accept=(404, 416), again=False
            )
        except TryAgainError as error:
            return await self._where(upload, error)
        if answer.status_code in (404, 416):
            raise _unknown()
        return self._moved(upload, answer, first + len(data))

    async def _where(self, upload: str, error: TryAgainError) -> int:
        """Find out how much of an upload arrived after an answer was lost."""
        location, offset = self._upload(upload)
        answer = await self._http.send("GET", location, scope=self._scope_all, accept=(400, 404, 416))
        if answer.status_code != 204 or "Range" not in answer.headers:
            raise _unknown() from error
        last = answer.headers["Range"].rpartition("-")[2]
        return self._moved(upload, answer, int(last) + 1 if last.isdecimal() and int(last) else offset)

    def _moved(self, upload: str, answer: httpx.Response, offset: int) -> int:
        location = answer.headers.get("Location")
        self._uploads[upload] = (str(self._http.url(location)) if location else self._uploads[upload][0], offset)
        return offset

    def _upload(self, upload: str) -> tuple[str, int]:
        if upload not in self._uploads:
            raise _unknown()
        return self._uploads[upload]

    async def finish(self, upload: str, digest: str) -> None:
        location, _ = self._upload(upload)
        url = self._http.url(location).copy_merge_params({"digest": digest})
        answer = await self._http.send(
            "PUT", str(url), scope=self._scope_all, headers={"Content-Length": "0"}, content=b"", accept=(400, 404)
        )
        del self._uploads[upload]
        if answer.status_code == 404:
            if await self.missing([digest]):  # else only its answer was lost
                raise _unknown()
        elif answer.status_code == 400:
            raise _unknown()

    async def put(self, manifest: bytes, media_type: str, tag: str) -> Image:
        path = f"{self._path}/manifests/{tag}"
        await self._http.send(
            "PUT", path, scope=self._scope_all, headers={"Content-Type": media_type}, content=manifest
        )
        digest = digest_of(manifest)
        if not await self.has(digest):
            raise TryAgainError(f"The registry {self._http.host} took the image {tag!r}, but does not have it.")
        value = json.loads(manifest)
        size = sum(int(layer.get("size", 0)) for layer in value.get("layers", ()))
        return Image(reference=str(self.reference.at(digest)), digest=digest, tags=[tag], size=size, pushed_at=None)

    @property
    def _scope(self) -> str:
        return f"repository:{self.reference.repository}:pull"

    @property
    def _scope_all(self) -> str:
        return f"repository:{self.reference.repository}:pull,push"


def _corrupt(digest: str) -> TryAgainError:
    return TryAgainError(
        f"The bytes that arrived are not those of {digest}, twice.",
        delay=60.0,
        advice="A proxy on the way may change them, or the registry is damaged.",
    )


def _unknown() -> FixItError:
    return FixItError(
        "The registry has no such upload, or other bytes of it.",
        advice="Push the image again: what is complete is not sent again.",
        details={"upload": "unknown"},
    )
