"""Where software environments are on disk: virtual environments, uploaded wheels, logs of builds, uv's cache.

``<local_dir>/environments/``
    ``venvs/<hash>/``                                a virtual environment; others may read it, never list or write;
                                                     with something of an account's own, its user alone may
    ``venvs/tmp-<build id>-…/``                      one that is being made, or was given up
    ``wheels/<account id>/<sha256>/<name>.whl``      uploaded wheels
    ``logs/<build id>.log``                          logs of builds
    ``cache/``                                       uv's, of public indexes; ``cache-<account id>/`` of private ones
    ``images/``                                      layers of images, and what was pulled and downloaded for them
    ``scratch/``                                     files of builds that run
    ``running/``                                     a locked file for each build that runs
"""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path

from ropewalk.backends.local.filesystem import explained
from ropewalk.errors import InputError
from ropewalk.schemas.environments import MAX_WHEEL, LocalWheel

__all__ = ["Files", "LogFile"]

MAX_LOG = 5 * 2**20
"""Bytes of a build's log that are kept; a build that says more has gone wrong, and its beginning says how."""
_CUT = b"The log is longer than is kept; the rest is left out.\n"


@dataclass(frozen=True, slots=True)
class Files:
    """The folder of all software environments. Methods block."""

    root: Path

    @property
    def venvs(self) -> Path:
        return self._folder("venvs", 0o711)

    @property
    def scratch(self) -> Path:
        return self._folder("scratch", 0o700)

    @property
    def running(self) -> Path:
        return self._folder("running", 0o700)

    @property
    def images(self) -> Path:
        return self._folder("images", 0o700)

    def cache(self, account_id: str | None) -> Path:
        """Return uv's cache: one of its own for an account's private indexes, so that nobody else reads of it there."""
        return self._folder("cache" if account_id is None else f"cache-{account_id}", 0o700)

    def log(self, build_id: str) -> LogFile:
        return LogFile(self._folder("logs", 0o700) / f"{build_id}.log")

    def wheel(self, account_id: str, wheel: LocalWheel) -> Path:
        """Return where an uploaded wheel is, or would be."""
        return self._folder("wheels", 0o700) / account_id / wheel.sha256 / wheel.filename

    def missing(self, account_id: str, wheels: Iterable[LocalWheel]) -> list[LocalWheel]:
        """Return which of *wheels* the account has not uploaded."""
        return [wheel for wheel in wheels if not self.wheel(account_id, wheel).exists()]

    async def keep_wheel(self, account_id: str, wheel: LocalWheel, body: AsyncIterator[bytes]) -> None:
        """Write an uploaded wheel; it appears only when it is complete and has its hash.

        Raises:
            InputError: It is not what it should be.
            TryAgainError: The disk is full.
        """
        target = self.wheel(account_id, wheel)
        half = self.scratch / f"wheel-{secrets.token_hex(8)}"
        digest, size = hashlib.sha256(), 0
        with explained("Storing a wheel", half):
            try:
                with half.open("xb") as file:
                    async for part in body:
                        size += len(part)
                        if size > min(wheel.size, MAX_WHEEL):
                            break
                        digest.update(part)
                        file.write(part)
                if size != wheel.size or digest.hexdigest() != wheel.sha256:
                    raise InputError(
                        f"What was sent of {wheel.filename} is not the file that was announced.",
                        advice="Send it again.",
                        field="body",
                    )
                target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                half.replace(target)
            finally:
                half.unlink(missing_ok=True)

    def remove(self, venv: Path) -> None:
        """Remove a virtual environment: at once for those who look, and then from the disk."""
        doomed = self.venvs / f"tmp-removed-{secrets.token_hex(6)}"
        venv.rename(doomed)
        shutil.rmtree(doomed, ignore_errors=True)

    def _folder(self, name: str, mode: int) -> Path:
        path = self.root / name
        if not path.is_dir():
            with explained("Making a folder for software environments", path):
                # Those above are opened for other users by the backend, where nodes have users of their own.
                self.root.mkdir(mode=0o711, parents=True, exist_ok=True)
                path.mkdir(mode=mode, exist_ok=True)
                self.root.chmod(0o711)
                path.chmod(mode)
        return path


@dataclass(frozen=True, slots=True)
class LogFile:
    """The log of one build: appended to by the server that builds, read by all."""

    path: Path

    @property
    def size(self) -> int:
        """Bytes; 0 where there is none."""
        try:
            return self.path.stat().st_size
        except OSError:
            return 0

    def append(self, line: str) -> bool:
        """Add a line; returns whether there is room for more.

        A disk that is full does not end the build: its own work will say so.
        """
        data = f"{line}\n".encode()
        room = self.size + len(data) <= MAX_LOG
        with contextlib.suppress(OSError):
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(descriptor, data if room else _CUT)
            finally:
                os.close(descriptor)
        return room

    def read(self, offset: int, limit: int) -> tuple[str, int]:
        """Return text from byte *offset*, at most *limit* bytes, and where it ends: between two characters."""
        try:
            with self.path.open("rb") as file:
                file.seek(offset)
                data = file.read(limit)
        except OSError:
            return "", offset
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        return text, offset + len(data) - len(decoder.getstate()[0])
