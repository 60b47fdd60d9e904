"""What builds keep to be faster the next time, each part with its size and last use: any of it may be removed.

Nothing is removed that a running build may use: each holds a file in ``running/`` locked, which the kernel lets go of
when its server dies, and what was used since the oldest of these builds began stays. Nothing of uv's cache is removed
while a uv runs in it: each uv holds ``.lock`` there. Methods block.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

__all__ = [
    "Kept",
    "began",
    "blobs",
    "bytes_of",
    "leftovers",
    "logs",
    "measured",
    "packages",
    "private",
    "prune",
    "running",
    "uv_cache",
]

_CONDA = ("images/conda", "images/conda-private/*")
"""Where conda packages are: those that anybody may have, and those of accounts with credentials."""
_UNITS = {"archive": 1, "sdists": 2, "builds": 1, "git": 2, "environments": 1}
"""Parts of uv's cache, and how deep in them is what can be removed for itself; of all others it is each file."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Something in a cache."""

    path: Path
    size: int
    used: float
    """When it was used last, in seconds since 1970."""
    uv: Path | None = None
    """The cache of uv's that it is a part of."""


@contextlib.contextmanager
def running(folder: Path, build_id: str) -> Iterator[None]:
    """Note that a build runs, for :func:`began`, in *folder*."""
    path, fresh = folder / build_id, folder / f".{build_id}-{os.getpid()}"
    descriptor = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        fresh.rename(path)  # now it can be seen, and is locked
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def began(folder: Path) -> float:
    """Return when the oldest build began that runs, of any server, or else now; notes of dead ones are removed."""
    oldest = time.time()
    for path in folder.glob("[!.]*"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                oldest = min(oldest, path.stat().st_mtime)
            else:
                path.unlink(missing_ok=True)
    return oldest


def bytes_of(path: Path) -> int:
    """Return the bytes of a file, or of all files of a folder; remembered for folders, which are not added to."""
    try:
        status = path.lstat()
    except OSError:
        return 0
    return _folder_bytes(str(path), status.st_mtime_ns) if path.is_dir() else status.st_size


@lru_cache(maxsize=50_000)
def _folder_bytes(path: str, _changed: int) -> int:
    return measured(Path(path))


def measured(path: Path) -> int:
    """Return the bytes of all files of a folder."""
    size = 0
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                size += os.lstat(os.path.join(folder, name)).st_size  # noqa: PTH118 - of hundreds of thousands
    return size


def packages(root: Path) -> list[Kept]:
    """Return what was downloaded: all of uv's caches, and conda packages."""
    found = [kept for cache in root.glob("cache*") for kept in uv_cache(cache)]
    return [*found, *(_kept(path) for store in _CONDA for path in root.glob(f"{store}/packages/*"))]


def private(root: Path, account_id: str) -> list[Kept]:
    """Return what was downloaded with an account's credentials, which only that one may use."""
    cache = root / f"cache-{account_id}"
    conda = [_kept(path) for path in root.glob(f"images/conda-private/{account_id}/packages/*")]
    return [*(uv_cache(cache) if cache.is_dir() else ()), *conda]


def uv_cache(cache: Path) -> list[Kept]:
    """Return the parts of one of uv's caches."""
    found: list[Kept] = []
    for bucket in cache.iterdir():
        if not bucket.is_dir():
            continue
        depth = _UNITS.get(bucket.name.partition("-v")[0])
        units = bucket.glob("/".join("*" * depth)) if depth else (path for path in bucket.rglob("*") if path.is_file())
        found += (_kept(path, cache) for path in units)
    return found


def blobs(root: Path) -> list[Kept]:
    """Return the layers of images."""
    return [_kept(path) for path in root.glob("images/blobs/sha256/*")]


def logs(root: Path) -> list[Kept]:
    """Return the logs of builds."""
    return [_kept(path) for path in root.glob("logs/*.log")]


def leftovers(root: Path, before: float) -> list[Path]:
    """Return what dead servers left half made in the folder of images before that moment."""
    half = ("images/scratch/*", "images/blobs/partial/*", *(f"{store}/packages/partial-*" for store in _CONDA))
    found = [path for pattern in half for path in root.glob(pattern)]
    return [path for path in found if _kept(path).used < before]


def _kept(path: Path, uv: Path | None = None) -> Kept:
    """Return a part. An unpacked wheel is used by links to its files, which change nothing but their ``ctime``."""
    used = 0.0
    for each in (path, *path.glob("*.dist-info/METADATA")):
        with contextlib.suppress(OSError):
            status = each.lstat()
            used = max(used, status.st_mtime if each is path else status.st_ctime)
    return Kept(path, bytes_of(path), used, uv)


def prune(parts: Iterable[Kept], keep_bytes: int, since: float) -> int:
    """Remove what was not used for longest until *keep_bytes* are left; return the bytes freed.

    Args:
        parts: What there is.
        keep_bytes: How much of it may stay.
        since: What was used since then stays in any case.
    """
    found = sorted(parts, key=lambda part: part.used)
    excess, freed = sum(part.size for part in found) - keep_bytes, 0
    with contextlib.ExitStack() as stack:
        idle: dict[Path, bool] = {}
        for part in found:
            if freed >= excess or part.used >= since:
                break
            if part.uv is not None and part.uv not in idle:
                idle[part.uv] = _lock(part.uv, stack)
            if part.uv is not None and not idle[part.uv]:
                continue
            _remove(part.path)
            freed += part.size
    return freed


def _lock(cache: Path, stack: contextlib.ExitStack) -> bool:
    """Keep every uv out of its cache, if none runs in it."""
    file = stack.enter_context((cache / ".lock").open("ab"))
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            doomed = path.with_name(f".gone-{path.name}")
            path.rename(doomed)  # half of a package is worse than none
            shutil.rmtree(doomed, ignore_errors=True)
        else:
            path.unlink()
