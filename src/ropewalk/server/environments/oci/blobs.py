"""Blobs in a folder, by digest: what was pulled or made once is not pulled or made again."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from ropewalk.errors import FixItError

__all__ = ["Blobs", "digest_of", "disk_errors", "in_words"]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def in_words(size: int) -> str:
    """Return a number of bytes for people."""
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{max(size, 1) / 1e3:.1f} kB"


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Tell a full disk as what it is."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT):
            raise FixItError(
                "There is no room on the disk of the server for this image.",
                advice="The server's operator can free some; then build again: what was done is not done twice.",
                details={"path": str(exc.filename or "")},
            ) from exc
        raise


class Blobs:
    """A folder with blobs and small facts. Several processes may use it at once: files appear whole or not at all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("sha256", "facts", "partial"):
            (folder / part).mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        return self.folder / "sha256" / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        """Whether it is there; that it is used is noted, for when room is needed."""
        try:
            os.utime(self.path(digest))
        except FileNotFoundError:
            return False
        return True

    def read(self, digest: str, offset: int = 0, size: int = -1) -> bytes:
        with self.path(digest).open("rb") as stream:
            stream.seek(offset)
            return stream.read(size)

    def size(self, digest: str) -> int:
        return self.path(digest).stat().st_size

    def keep(self, data: bytes) -> str:
        """Keep a small blob; return its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            with self.writer() as (stream, path):
                stream.write(data)
                stream.flush()
                self.adopt(path, digest)
        return digest

    @contextlib.contextmanager
    def writer(self) -> Iterator[tuple[IO[bytes], Path]]:
        """Open a file to write a blob to; :meth:`adopt` makes it one, otherwise it is gone after the block."""
        with disk_errors(), tempfile.TemporaryDirectory(dir=self.folder / "partial") as folder:
            path = Path(folder) / "blob"
            with path.open("w+b") as stream:
                yield stream, path

    def adopt(self, path: Path, digest: str) -> None:
        """Take a complete file, whose digest is known to be right, as a blob."""
        path.chmod(0o600)
        path.replace(self.path(digest))

    def forget(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def verify(self, digest: str) -> bool:
        """Whether a blob is there, and has the bytes that it should have; it is gone if not."""
        with contextlib.suppress(FileNotFoundError), self.path(digest).open("rb") as stream:
            if f"sha256:{hashlib.file_digest(stream, 'sha256').hexdigest()}" == digest:
                return True
        self.forget(digest)
        return False

    # Small facts: what is known under a key, such as the layer that some packages became.

    def fact(self, key: str) -> Any:
        """Return what was noted under *key*; None: nothing that can be read."""
        try:
            return json.loads(self._fact(key).read_text("utf-8"))
        except (OSError, ValueError):
            return None

    def note(self, key: str, value: Any) -> None:
        """Note a JSON value under *key*."""
        path = self._fact(key)
        with disk_errors(), tempfile.TemporaryDirectory(dir=self.folder / "partial") as folder:
            fresh = Path(folder) / "fact"
            fresh.write_text(json.dumps(value), "utf-8")
            fresh.replace(path)

    def _fact(self, key: str) -> Path:
        return self.folder / "facts" / hashlib.sha256(key.encode()).hexdigest()
