"""What is in an image, read from the lists of files in its layers: nothing is unpacked and nothing runs."""

from __future__ import annotations

import posixpath
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import FixItError
from ropewalk.schemas.environments import normal_name
from ropewalk.server.environments.oci.blobs import Blobs

__all__ = ["Contents", "Python", "read_layer"]

_INTERESTING = re.compile(
    r"(^|/)s?bin/python[0-9.]*$|/(site|dist)-packages/[^/]+\.(dist|egg)-info(/(METADATA|PKG-INFO))?$"
    r"|(^|/)lib/python3\.\d+/os\.py$|(^|/)lib/ld-musl-[^/]+$|(^|/)\.wh\.[^/]+$"
)
_PACKAGE = re.compile(r"(.*/(?:site|dist)-packages)/([^/]+?)-([^-/]+)(?:-py[0-9.]+)?\.(?:dist|egg)-info(?:/.*)?$")
_LIBRARY = re.compile(r"(.*)lib/python(3\.\d+)/os\.py$")
_LINK_DEPTH = 2
"""Links this deep are kept: ``bin`` → ``usr/bin`` and such."""
_MOST_HOPS = 40
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FORMAT = 1
"""Of what is noted about a layer; raise it when :data:`_INTERESTING` changes."""


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter in an image."""

    executable: str
    """Absolute path, with no links in it."""
    version: str
    """Major and minor."""


def read_layer(digest: str, blobs: Blobs) -> list[tuple[str, str | None]]:
    """Return the names in a layer that tell something, with where links lead; noted, since it takes seconds.

    Raises:
        FixItError: The layer is damaged, or compressed in another way than gzip.
    """
    key = f"contents {_FORMAT} {digest}"
    known = blobs.fact(key)
    if known is None:
        try:
            with tarfile.open(blobs.path(digest), "r:*") as archive:
                known = [[posixpath.normpath(m.name), m.linkname if m.issym() else None] for m in archive if _tells(m)]
        except (tarfile.TarError, EOFError, zlib.error) as exc:
            raise FixItError(
                f"The layer {digest} of the image cannot be read: {exc}.",
                advice="Only layers that are compressed by gzip can be: build the image without zstd.",
                field="container",
            ) from exc
        blobs.note(key, known)
    return [(str(name), link) for name, link in known]


def _tells(member: tarfile.TarInfo) -> bool:
    name = posixpath.normpath(member.name)
    return bool(_INTERESTING.search(name)) or (member.issym() and name.count("/") <= _LINK_DEPTH)


class Contents:
    """The names in an image that tell something."""

    def __init__(self, layers: Iterable[Sequence[tuple[str, str | None]]], config: Mapping[str, Any]) -> None:
        self._files: dict[str, str | None] = {}
        for layer in layers:
            self._hide(name for name, _ in layer)
            self._files |= {name: link for name, link in layer if not posixpath.basename(name).startswith(".wh.")}
        environ = dict(str(each).partition("=")[::2] for each in (config.get("config") or {}).get("Env") or ())
        self._path = (environ.get("PATH") or _PATH).split(":")

    def _hide(self, names: Iterable[str]) -> None:
        """Forget what a layer removes of those below it."""
        for name in names:
            folder, base = posixpath.split(name)
            if base == ".wh..wh..opq":
                gone = f"{folder}/"
            elif base.startswith(".wh."):
                gone = posixpath.join(folder, base.removeprefix(".wh."))
            else:
                continue
            self._files = {
                k: v for k, v in self._files.items() if k != gone and not k.startswith(gone.rstrip("/") + "/")
            }

    def python(self) -> Python | None:
        """Return what ``python`` on the image's PATH runs; None: nothing that can be recognised."""
        for folder in self._path:
            for name in ("python", "python3"):
                found = self._resolve(posixpath.join(folder, name).lstrip("/"))
                version = self._version(found) if found else None
                if found and version:
                    return Python(f"/{found}", version)
        return None

    @property
    def is_musl(self) -> bool:
        """Whether its C library is musl, for which most packages have no files."""
        return any("/ld-musl-" in f"/{name}" for name in self._files)

    def packages(self, python: Python) -> dict[str, str]:
        """Return name and version of each Python package that *python* finds."""
        prefix = posixpath.dirname(posixpath.dirname(python.executable)).lstrip("/")
        ours = re.compile(
            rf"(?:{re.escape(prefix)}|usr/local|usr)/(?:local/)?lib/python(?:{re.escape(python.version)}|3)/"
        )
        found: dict[str, str] = {}
        for name in self._files:
            match = _PACKAGE.fullmatch(name)
            if match and (ours.match(name) or not name.startswith("usr/")):
                found[normal_name(match[2])] = match[3]
        return found

    def _version(self, executable: str) -> str | None:
        named = re.search(r"python(3\.\d+)$", executable)
        if named:
            return named[1]
        prefix = posixpath.dirname(posixpath.dirname(executable))
        prefix = f"{prefix}/" if prefix else ""
        for name in self._files:
            library = _LIBRARY.fullmatch(name)
            if library and library[1] == prefix:
                return library[2]
        return None

    def _resolve(self, name: str) -> str | None:
        """Follow links, of folders on the way, too; None: it leads nowhere that is known."""
        for _ in range(_MOST_HOPS):
            name, moved = self._hop(name)
            if not moved:
                return name if name in self._files else None
        return None

    def _hop(self, name: str) -> tuple[str, bool]:
        parts = name.split("/")
        for count in range(1, len(parts) + 1):
            head = "/".join(parts[:count])
            link = self._files.get(head)
            if link is not None:
                target = posixpath.join("/", posixpath.dirname(head), link)
                return posixpath.normpath(posixpath.join(target, *parts[count:])).lstrip("/"), True
        return name, False
