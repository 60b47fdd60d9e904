"""Packages of a version as people look for them, and where each came from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from ropewalk.schemas.environments import (
    EnvironmentDiff,
    EnvironmentSpec,
    EnvironmentVersion,
    LockedPackage,
    normal_name,
    requirement_name,
)
from ropewalk.server.environments.resolve import WHEEL_URL
from ropewalk.server.web.environment_form import LABELS

__all__ = ["Row", "fields", "found", "rows", "source"]

ASKED = "asked"
"""The filter for packages that the specification names, without those that they need."""


@dataclass(frozen=True, slots=True)
class Row:
    """One package."""

    name: str
    version: str
    source: str
    asked: bool
    """The specification names it; the others are what those need."""


def rows(version: EnvironmentVersion) -> list[Row]:
    """Return the packages of a version by name."""
    asked = _asked(version.spec)
    found = [
        Row(each.name, _version(each), source(each, version.spec), normal_name(each.name) in asked)
        for each in version.packages
    ]
    return sorted(found, key=lambda row: row.name.lower())


def found(rows: Sequence[Row], words: str, which: str) -> list[Row]:
    """Return the rows in which *words* occur, in any column."""
    wanted = words.strip().lower()
    return [
        row
        for row in rows
        if (row.asked or which != ASKED) and wanted in f"{row.name} {row.version} {row.source}".lower()
    ]


def source(package: LockedPackage, spec: EnvironmentSpec) -> str:
    """Return where a package came from, in a few words."""
    if package.manager == "conda":
        return _channel(package.url)
    if package.url is None:
        own = [urlsplit(url).hostname or url for url in (*spec.extra_index_urls, spec.index_url) if url]
        return f"package index ({', '.join(own)})" if own else "package index"
    if package.url.startswith(WHEEL_URL):
        sha256 = package.url.removeprefix(WHEEL_URL)
        return f"uploaded: {next((each.filename for each in spec.wheels if each.sha256 == sha256), 'a wheel')}"
    return package.url


def fields(difference: EnvironmentDiff) -> list[tuple[str, str, str]]:
    """Return what differs besides packages: label, before and after, a line for each item."""
    return [(LABELS.get(name, name), _readable(old), _readable(new)) for name, (old, new) in difference.spec.items()]


def _readable(value: str | None) -> str:
    if value is None:
        return ""
    try:
        parsed = json.loads(value)
    except ValueError:
        return value
    if isinstance(parsed, list):
        return "\n".join(each if isinstance(each, str) else each.get("filename", str(each)) for each in parsed)
    if isinstance(parsed, dict) and "dependencies" in parsed:
        return "\n".join([*(f"channel {each}" for each in parsed["channels"]), *parsed["dependencies"]])
    if isinstance(parsed, dict):
        return "\n".join(f"{name}={text}" for name, text in parsed.items())
    return value


def _asked(spec: EnvironmentSpec) -> set[str]:
    conda = spec.conda.dependencies if spec.conda else []
    names = [requirement_name(each.rpartition("::")[2]) for each in (*spec.pip, *conda)]
    return {name for name in (*names, *(wheel.name for wheel in spec.wheels)) if name}


def _version(package: LockedPackage) -> str:
    return f"{package.version} {package.build}" if package.build else package.version


def _channel(url: str | None) -> str:
    """Return the channel of a package's address: ``…/conda-forge/linux-64/numpy-2.0.conda``."""
    if url is None:
        return "conda"
    parts = urlsplit(url)
    path = parts.path.rsplit("/", 2)[0].strip("/")
    return f"conda: {path.rpartition('/')[2] or parts.hostname}"
