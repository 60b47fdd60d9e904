"""Sending an image to the registry of a cloud account: only what is missing, several blobs at once, resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from threading import Lock

from ropewalk.client import calls
from ropewalk.client.archive import Blob, Source, open_source
from ropewalk.client.http import Api
from ropewalk.errors import InputError, NotFoundError
from ropewalk.schemas.images import PART_BYTES, Digests, Image, Upload, UploadStart

__all__ = ["push"]

AT_ONCE = 4
"""Blobs on their way: one stream rarely fills a line."""
FRESH_STARTS = 3
"""How often a blob is begun again because the registry lost it."""

Progress = Callable[[int, int], None]
"""Called with the bytes done so far, of all that have to be sent."""


def push(
    api: Api, account: str, path: Path, *, tag: str | None = None, platform: str | None = None, progress: Progress
) -> Image:
    """Push the image in a file or folder.

    Args:
        api: The server.
        account: Slug of the account.
        path: An OCI layout (folder or tar), or what ``docker save`` or ``podman save`` wrote.
        tag: Its name in the registry; None: the one in the archive.
        platform: Which image of several, for example ``linux/arm64``.
        progress: Told of every part.

    Raises:
        InputError: The archive cannot be used, or has no tag.
        FixItError: The registry refused.
    """
    with open_source(path, platform) as source:
        name = tag or source.tag
        if name is None:
            raise InputError("The archive does not say how the image is called.", advice="Use --tag NAME.", field="tag")
        blobs = source.blobs
        missing = set(api(calls.missing_blobs(account, Digests(digests=[blob.digest for blob in blobs]))).digests)
        _Pushing(api, account, [blob for blob in blobs if blob.digest in missing], progress).run()
        return _named(api, account, source, name)


def _named(api: Api, account: str, source: Source, tag: str) -> Image:
    image = api(calls.put_image(account, tag, source.manifest, source.media_type))
    if image.digest != source.digest:
        raise InputError(
            f"The registry has another image under {tag!r}: {image.digest}, not {source.digest}.",
            advice="Push it with another tag.",
        )
    return image


class _Pushing:
    """The blobs of one push."""

    def __init__(self, api: Api, account: str, blobs: list[Blob], progress: Progress) -> None:
        self._api, self._account, self._blobs = api, account, blobs
        self._progress = progress
        self._total = sum(blob.size for blob in blobs)
        self._done: dict[str, int] = {}
        self._lock = Lock()
        self._journal = _Journal(f"{api.server} {account}")
        self._failed = False

    def run(self) -> None:
        """Send all; the first error ends the others after their present part."""
        self._progress(0, self._total)
        with ThreadPoolExecutor(AT_ONCE, thread_name_prefix="push") as pool:
            sending = [pool.submit(self._send, blob) for blob in self._blobs]
            try:
                for work in sending:
                    work.result()
            except BaseException:  # Ctrl-C, too
                self._failed = True
                raise

    def _send(self, blob: Blob) -> None:
        try:
            for _ in range(FRESH_STARTS):
                with suppress(NotFoundError):
                    self._send_once(blob)
                    return
                # The registry lost it, or has other bytes than we think.
                self._journal.forget(blob.digest)
            self._send_once(blob)
        except BaseException:
            self._failed = True
            raise

    def _send_once(self, blob: Blob) -> None:
        upload = self._journal.find(blob.digest)
        if upload is None:
            upload = self._api(calls.begin_upload(self._account, UploadStart(digest=blob.digest, size=blob.size)))
        while upload.offset < blob.size and not self._failed:
            self._told(blob, upload.offset)
            data = blob.read(upload.offset, PART_BYTES)
            upload = self._api(calls.send_part(self._account, upload, data))
            self._journal.keep(blob.digest, upload)
        if self._failed:
            return
        self._api(calls.finish_upload(self._account, upload.id, blob.digest))
        self._journal.forget(blob.digest)
        self._told(blob, blob.size)

    def _told(self, blob: Blob, offset: int) -> None:
        with self._lock:
            self._done[blob.digest] = offset
            self._progress(sum(self._done.values()), self._total)


class _Journal:
    """Remembers in a file of the user's cache which uploads are under way, so that a push that was ended goes on."""

    def __init__(self, where: str) -> None:
        base = os.environ.get("XDG_CACHE_HOME")
        self._path = (Path(base) if base else Path.home() / ".cache") / "ropewalk" / "uploads.json"
        self._where = where
        self._lock = Lock()

    def find(self, digest: str) -> Upload | None:
        with self._lock:
            found = self._read().get(f"{self._where} {digest}")
        return None if found is None else Upload.model_validate(found)

    def keep(self, digest: str, upload: Upload) -> None:
        with self._lock:
            self._write({**self._read(), f"{self._where} {digest}": upload.model_dump()})

    def forget(self, digest: str) -> None:
        with self._lock:
            entries = self._read()
            if entries.pop(f"{self._where} {digest}", None) is not None:
                self._write(entries)

    def _read(self) -> dict[str, dict[str, object]]:
        # What cannot be read is as good as absent: the blob is begun anew.
        with suppress(OSError, ValueError):
            found = json.loads(self._path.read_text("utf-8"))
            if isinstance(found, dict):
                return found
        return {}

    def _write(self, entries: dict[str, dict[str, object]]) -> None:
        with suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            fresh = self._path.with_suffix(f".{os.getpid()}")
            fresh.write_text(json.dumps(entries), "utf-8")
            fresh.replace(self._path)
