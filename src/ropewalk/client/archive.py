"""Reading an image out of an OCI layout or of what ``docker save`` wrote. Nothing is ever unpacked.

Members are read by the digests and names that the archive's own indexes give, never written to a path that it names; a
link leads to another member of the archive or nowhere.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import posixpath
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ropewalk.errors import InputError
from ropewalk.schemas.images import MANIFEST_TYPES, MAX_MANIFEST

__all__ = ["Blob", "Source", "open_source"]

_INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_CHUNK = 2**20
_MAX_INDEX = 4 * 2**20
_MAX_DEPTH = 4
"""Of indexes in indexes, and of links."""


@dataclass(frozen=True)
class Blob:
    """A layer or a configuration; it can be read anywhere, by several threads."""

    digest: str
    size: int
    opener: Callable[[], Stream]

    def read(self, offset: int, size: int) -> bytes:
        """Return at most *size* bytes from *offset*."""
        with self.opener() as stream:
            stream.seek(offset)
            return stream.read(size)

    def verify(self) -> None:
        """Raise InputError unless the bytes are those of the digest."""
        digest = hashlib.sha256()
        size = 0
        with self.opener() as stream:
            while data := stream.read(_CHUNK):
                digest.update(data)
                size += len(data)
        if f"sha256:{digest.hexdigest()}" != self.digest or size != self.size:
            raise InputError(
                f"The archive is damaged: the blob {self.digest} has other bytes than its digest says.",
                advice="Save the image again.",
            )


@dataclass(frozen=True)
class Source:
    """One image for one platform."""

    manifest: bytes
    media_type: str
    blobs: list[Blob]
    tag: str | None

    @property
    def digest(self) -> str:
        return f"sha256:{hashlib.sha256(self.manifest).hexdigest()}"


class Stream(Protocol):
    """What is needed of a file that was opened for reading."""

    def seek(self, offset: int, /) -> int: ...

    def read(self, size: int = -1, /) -> bytes: ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None, /
    ) -> None: ...


class Files(Protocol):
    """The files of an archive or a folder."""

    def open(self, name: str) -> Stream | None:
        """Open a file by its name; None: there is none."""

    def size(self, name: str) -> int:
        """Return its size in bytes."""


@contextmanager
def open_source(path: Path, platform: str | None = None) -> Iterator[Source]:
    """Open an image; its blobs are verified and can be read in the block.

    Args:
        path: An OCI layout (folder or tar file, plain or gzip), or what ``docker save`` wrote.
        platform: Which one of several images, for example ``linux/arm64``; None: the only one.

    Raises:
        InputError: It is no such thing, is damaged, or holds several images.
    """
    with ExitStack() as stack:
        files = _files(path, stack)
        if (index := _json(files, "index.json")) is not None:
            source = _oci(files, index, platform)
        elif (entries := _json(files, "manifest.json")) is not None:
            source = _docker(files, entries, Path(stack.enter_context(tempfile.TemporaryDirectory())))
        else:
            raise InputError(
                f"{path} is neither an OCI layout (index.json) nor an archive of docker save (manifest.json).",
                advice="Write one with: docker save IMAGE -o image.tar",
                field="file",
            )
        for blob in source.blobs:
            blob.verify()
        yield source


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root.resolve()

    def open(self, name: str) -> Stream | None:
        path = (self._root / name).resolve()
        if not path.is_relative_to(self._root) or not path.is_file():
            return None
        return path.open("rb")

    def size(self, name: str) -> int:
        return (self._root / name).stat().st_size


class _Tar:
    """A plain tar file: each reader opens it anew at the member's place, so that threads do not meet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with tarfile.open(path, "r:") as archive:
            self._members = {posixpath.normpath(member.name): member for member in archive}

    def open(self, name: str) -> Stream | None:
        member = self._member(name)
        return None if member is None else _Part(self._path, member.offset_data, member.size)

    def size(self, name: str) -> int:
        member = self._member(name)
        return 0 if member is None else member.size

    def _member(self, name: str) -> tarfile.TarInfo | None:
        name = posixpath.normpath(name)
        for _ in range(_MAX_DEPTH):
            member = self._members.get(name)
            if member is None or member.isreg():
                return member
            if not (member.issym() or member.islnk()):
                return None
            # Old versions of docker save link a layer that occurs twice to its first occurrence.
            base = "" if member.islnk() else posixpath.dirname(name)
            name = posixpath.normpath(posixpath.join(base, member.linkname))
        return None


class _Part:
    """A stretch of a file, as a file of its own."""

    def __init__(self, path: Path, start: int, size: int) -> None:
        self._stream = path.open("rb")
        self._start, self._size, self._at = start, size, 0
        self._stream.seek(start)

    def seek(self, offset: int, /) -> int:
        self._at = min(max(offset, 0), self._size)
        self._stream.seek(self._start + self._at)
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        left = self._size - self._at
        data = self._stream.read(left if size < 0 else min(size, left))
        self._at += len(data)
        return data

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, value: object, traceback: object, /) -> None:
        self.close()


def _files(path: Path, stack: ExitStack) -> Files:
    if path.is_dir():
        return _Folder(path)
    try:
        with path.open("rb") as stream:
            packed = stream.read(2) == b"\x1f\x8b"
        if packed:
            plain = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "image.tar"
            with gzip.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
            path = plain
        return _Tar(path)
    except FileNotFoundError:
        raise InputError(f"There is no file or folder {path}.", field="file") from None
    except (tarfile.TarError, EOFError, gzip.BadGzipFile) as exc:
        raise InputError(
            f"{path} is not a tar archive, or is cut off: {exc}.", advice="Save the image again.", field="file"
        ) from None


def _json(files: Files, name: str) -> Any:
    stream = files.open(name)
    if stream is None:
        return None
    with stream:
        text = stream.read(_MAX_INDEX)
    try:
        return json.loads(text)
    except ValueError:
        raise InputError(f"{name} in the archive is not JSON.", advice="Save the image again.", field="file") from None


# OCI layouts.


def _oci(files: Files, index: Any, platform: str | None) -> Source:
    entry = _chosen(files, index, platform, _MAX_DEPTH)
    manifest = _oci_blob(files, entry)
    if manifest.size > MAX_MANIFEST:
        raise _unusable("its manifest is too large")
    data = manifest.read(0, manifest.size)
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != manifest.digest:
        manifest.verify()
    value = json.loads(data)
    blobs = [_oci_blob(files, value.get("config")), *(_oci_blob(files, layer) for layer in value.get("layers", ()))]
    name = (entry.get("annotations") or {}).get("org.opencontainers.image.ref.name")
    media_type = str(value.get("mediaType") or entry.get("mediaType"))
    return Source(data, media_type, _once(blobs), _tag_of(name))


def _chosen(files: Files, index: Any, platform: str | None, depth: int) -> dict[str, Any]:
    """Return the entry of one image, looking into indexes that are in the index."""
    found: list[dict[str, Any]] = []
    for entry in _entries(index):
        if entry.get("mediaType") in _INDEX_TYPES and depth:
            blob = _oci_blob(files, entry)
            inner = _entries(json.loads(blob.read(0, _MAX_INDEX)))
            name = {"annotations": entry.get("annotations") or {}}
            found += [{**name, **each} for each in inner if each.get("mediaType") in MANIFEST_TYPES]
        elif entry.get("mediaType") in MANIFEST_TYPES:
            found.append(entry)
    # Attestations of buildx pose as images of an unknown platform.
    images = [entry for entry in found if _platform(entry) != "unknown/unknown"]
    fitting = [entry for entry in images if platform is None or _platform(entry) in (platform, None)]
    if len({entry.get("digest") for entry in fitting}) == 1:
        return fitting[0]
    known = ", ".join(sorted({_platform(entry) or "one without a platform" for entry in images})) or "none"
    if not fitting:
        raise _unusable(f"it holds no image for {platform}; it holds: {known}" if images else "it holds no image")
    raise InputError(f"The archive holds several images: {known}.", advice="Choose with --platform.", field="platform")


def _entries(index: Any) -> list[dict[str, Any]]:
    manifests = index.get("manifests") if isinstance(index, dict) else None
    if not isinstance(manifests, list) or not all(isinstance(entry, dict) for entry in manifests):
        raise _unusable("its index has no list of manifests")
    return manifests


def _platform(entry: dict[str, Any]) -> str | None:
    found = entry.get("platform")
    if not isinstance(found, dict):
        return None
    return f"{found.get('os', 'linux')}/{found.get('architecture')}"


def _oci_blob(files: Files, entry: Any) -> Blob:
    digest = entry.get("digest") if isinstance(entry, dict) else None
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise _unusable(f"{digest!r} is not a sha256 digest")
    name = f"blobs/sha256/{digest.removeprefix('sha256:')}"
    return _blob(files, name, digest)


def _blob(files: Files, name: str, digest: str) -> Blob:
    def opener() -> Stream:
        stream = files.open(name)
        if stream is None:
            raise _unusable(f"{name} is missing")
        return stream

    opener().close()
    return Blob(digest, files.size(name), opener)


# What docker save writes: layers as plain tar files, which registries keep compressed.


def _docker(files: Files, entries: Any, scratch: Path) -> Source:
    if not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], dict):
        raise InputError("The archive holds several images.", advice="Save one image only.", field="file")
    entry = entries[0]
    config = _plain(files, entry.get("Config"))
    layers = [_packed(files, name, scratch / str(at)) for at, name in enumerate(entry.get("Layers") or ())]
    manifest = {
        "schemaVersion": 2,
        "mediaType": _DOCKER_MANIFEST,
        "config": {"mediaType": _DOCKER_CONFIG, "size": config.size, "digest": config.digest},
        "layers": [{"mediaType": _DOCKER_LAYER, "size": layer.size, "digest": layer.digest} for layer in layers],
    }
    names = entry.get("RepoTags") or [None]
    data = json.dumps(manifest, separators=(",", ":"), sort_keys=True).encode()
    return Source(data, _DOCKER_MANIFEST, _once([config, *layers]), _tag_of(names[0]))


def _plain(files: Files, name: Any) -> Blob:
    stream = files.open(name) if isinstance(name, str) else None
    if stream is None:
        raise _unusable(f"its configuration {name!r} is missing")
    with stream:
        digest = hashlib.sha256(stream.read()).hexdigest()
    return _blob(files, str(name), f"sha256:{digest}")


def _packed(files: Files, name: Any, target: Path) -> Blob:
    """Compress a layer; the same layer gives the same bytes, so that it is not sent twice."""
    stream = files.open(name) if isinstance(name, str) else None
    if stream is None:
        raise _unusable(f"its layer {name!r} is missing")
    with stream, target.open("wb") as raw, gzip.GzipFile("", "wb", 6, raw, mtime=0) as packed:
        while data := stream.read(_CHUNK):
            packed.write(data)
    digest = hashlib.sha256()
    with target.open("rb") as done:
        while data := done.read(_CHUNK):
            digest.update(data)
    return Blob(f"sha256:{digest.hexdigest()}", target.stat().st_size, lambda: target.open("rb"))


def _once(blobs: list[Blob]) -> list[Blob]:
    return list({blob.digest: blob for blob in blobs}.values())


def _tag_of(name: Any) -> str | None:
    """Return the tag of a reference such as ``repo/image:tag``, or of a bare tag."""
    if not isinstance(name, str):
        return None
    last = name.rpartition("/")[2]
    image, colon, tag = last.partition(":")
    found = f"{image}-{tag}" if colon and tag != "latest" else image
    return found if _TAG.fullmatch(found) else None


def _unusable(why: str) -> InputError:
    return InputError(f"The archive cannot be used: {why}.", advice="Save the image again.", field="file")
