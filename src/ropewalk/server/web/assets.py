"""Style sheets, scripts and icons: each at an address that holds its hash, so that browsers keep it for ever."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from markupsafe import Markup

from ropewalk.errors import NotFoundError, SettingsError

__all__ = ["Asset", "get", "icon", "licences", "url"]

_FOLDERS = ("static", "own")
"""What the build took from npm (scripts/web_assets.py), and what is ours."""

_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


@dataclass(frozen=True)
class Asset:
    """One file, ready to be sent."""

    digest: str
    media_type: str
    body: bytes
    packed: bytes
    """The same, compressed by gzip."""


@cache
def _all() -> dict[str, Asset]:
    """Return every file by name; read and compressed once, at the first page, some 0.1 s."""
    found = {}
    for folder in _FOLDERS:
        home = files("ropewalk.server.web") / folder
        for path in home.iterdir() if home.is_dir() else ():
            media_type = _TYPES.get(path.name.rpartition(".")[2])
            if media_type is not None:
                body = path.read_bytes()
                digest = hashlib.sha256(body).hexdigest()[:16]
                found[path.name] = Asset(digest, media_type, body, gzip.compress(body, mtime=0))
    return found


def url(name: str) -> str:
    """Return the address of a file."""
    try:
        return f"/static/{_all()[name].digest}/{name}"
    except KeyError:
        raise SettingsError(
            f"The file {name} of the web pages is missing: this copy of Ropewalk was not built.",
            advice="In a working copy, run: uv sync --reinstall-package ropewalk",
        ) from None


def get(digest: str, name: str) -> Asset:
    """Return a file.

    Raises:
        NotFoundError: There is none of that name and content: the page is of another version of the server.
    """
    asset = _all().get(name)
    if asset is None or asset.digest != digest:
        raise NotFoundError("There is no such file.", advice="Load the page again.")
    return asset


@cache
def _icons() -> dict[str, str]:
    path = files("ropewalk.server.web") / "static" / "icons.json"
    drawings: dict[str, str] = json.loads(path.read_bytes()) if path.is_file() else {}
    return drawings


@cache
def icon(name: str) -> Markup:
    """Return an icon of Tabler's, without a meaning to screen readers: the text beside it has that."""
    drawing = Markup(_icons()[name])  # noqa: S704 - from a package that is pinned by its hash
    return Markup(
        '<svg class="icon" width="24" height="24" viewBox="0 0 24 24" fill="none" stroke="currentColor"'
        ' stroke-width="2" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" focusable="false">{}</svg>'
    ).format(drawing)


def licences() -> str:
    """Return the licences of what others made; the wheel has them as ``server/web/static/LICENSES.txt``."""
    return (files("ropewalk.server.web") / "static" / "LICENSES.txt").read_text(encoding="utf-8")
