"""Compares the packages of this program with those of a cluster, before they exchange a single pickle.

Tasks are pickled functions: they travel between versions of Python and of libraries that must understand each other.
What comes of a difference is a cryptic error much later, so it is told at the start, with the command that removes it.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib import metadata

from ropewalk.errors import InputError, VersionMismatchError

__all__ = [
    "PACKAGES",
    "Difference",
    "Severity",
    "VersionMismatchWarning",
    "check_action",
    "compare",
    "describe",
    "local_versions",
    "report",
]


class Severity(StrEnum):
    """How bad a difference is."""

    ERROR = "error"
    """Known to break: other pickles, other protocol."""
    WARNING = "warning"
    """May break, depending on what is sent."""


@dataclass(frozen=True)
class _Rule:
    parts: int
    """How many parts of the version number have to agree."""
    severity: Severity
    needed: bool = False
    """Whether a client without it differs, too. Else only what both sides have is compared."""


PACKAGES: Mapping[str, _Rule] = {
    # Byte code and cloudpickle's output change with each minor version of Python, never with a patch.
    "python": _Rule(2, Severity.ERROR, needed=True),
    # One release train; the protocol between client, scheduler and worker may change with any release.
    "dask": _Rule(3, Severity.ERROR, needed=True),
    "distributed": _Rule(3, Severity.ERROR, needed=True),
    "cloudpickle": _Rule(2, Severity.WARNING, needed=True),
    "msgpack": _Rule(1, Severity.WARNING, needed=True),
    "tornado": _Rule(1, Severity.WARNING, needed=True),
    "toolz": _Rule(1, Severity.WARNING, needed=True),
    # Their objects are pickled by reference to internal modules, which move between minor versions.
    "numpy": _Rule(2, Severity.WARNING),
    "pandas": _Rule(2, Severity.WARNING),
    "pyarrow": _Rule(1, Severity.WARNING),
    # Compression is negotiated by name; a major version has never changed the format, but has changed the API.
    "lz4": _Rule(1, Severity.WARNING),
    "blosc": _Rule(1, Severity.WARNING),
    "zstandard": _Rule(1, Severity.WARNING),
    "fsspec": _Rule(1, Severity.WARNING),
    "scipy": _Rule(2, Severity.WARNING),
    "scikit-learn": _Rule(2, Severity.WARNING),
    "xarray": _Rule(2, Severity.WARNING),
    "numba": _Rule(2, Severity.WARNING),
}


class VersionMismatchWarning(UserWarning):
    """Packages of this program and of the cluster differ."""


@dataclass(frozen=True)
class Difference:
    """One package that differs; None: it is not installed there."""

    package: str
    client: str | None
    cluster: str | None
    severity: Severity


def local_versions(packages: Iterable[str] = PACKAGES) -> dict[str, str]:
    """Return the versions of this program's packages, from their metadata: nothing is imported."""
    found: dict[str, str] = {}
    for name in packages:
        if name == "python":
            found[name] = platform.python_version()
            continue
        version = _version(name)
        if version is not None:
            found[name] = version
    return found


@cache
def _version(name: str) -> str | None:
    """Return a package's version; looked up once, since each is a file to be parsed, and each start compares them."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def compare(client: Mapping[str, str], cluster: Mapping[str, str]) -> list[Difference]:
    """Return what differs enough to matter, the worst first.

    A package that the cluster does not report is passed over, unless the client cannot do without it.
    """
    found = []
    for name, rule in PACKAGES.items():
        mine, theirs = client.get(name), cluster.get(name)
        if mine is None or theirs is None:
            differs = rule.needed and mine != theirs
        else:
            differs = _head(mine, rule.parts) != _head(theirs, rule.parts)
        if differs:
            found.append(Difference(name, mine, theirs, rule.severity))
    return sorted(found, key=lambda each: each.severity is not Severity.ERROR)


def _head(version: str, parts: int) -> list[str]:
    """Return the first parts of a version, without a local label; ``2026.8`` equals ``2026.8.0``."""
    numbers = version.partition("+")[0].split(".")[:parts]
    return numbers + ["0"] * (parts - len(numbers))


def describe(differences: Iterable[Difference]) -> tuple[str, str]:
    """Return a message with a table of *differences*, and advice with the command that removes them."""
    rows = [(each.package, each.client or "missing", each.cluster or "missing") for each in differences]
    header = ("package", "this program", "cluster")
    widths = [max(len(row[column]) for row in (header, *rows)) for column in range(3)]
    table = "\n".join("  " + "  ".join(map(str.ljust, row, widths)).rstrip() for row in (header, *rows))
    message = f"Packages of this program and of the cluster differ:\n{table}\n"
    return message, _advice([row for row in rows if row[2] != "missing"])


def _advice(rows: list[tuple[str, str, str]]) -> str:
    wanted = {name: version for name, _, version in rows}
    python = wanted.pop("python", None)
    advice = []
    if python:
        advice.append(f"Run this program with Python {'.'.join(python.split('.')[:2])}, like the cluster.")
    if wanted:
        packages = " ".join(f"{name}=={version}" for name, version in wanted.items())
        advice.append(f"To match the cluster, run: pip install {packages}")
    return " ".join(advice) or "Install on the cluster what is missing there."


def check_action(action: object) -> None:
    """Raise an InputError unless *action* is ``warn``, ``error`` or ``ignore``."""
    if action not in ("warn", "error", "ignore"):
        raise InputError(
            f"versions={action!r} is not known.", advice="Use 'warn', 'error' or 'ignore'.", field="versions"
        )


def report(cluster: Mapping[str, str], action: object, *, client: Mapping[str, str] | None = None) -> None:
    """Compare and act: *action* is ``warn``, ``error`` or ``ignore``.

    Raises:
        VersionMismatchError: *action* is ``error`` and something differs.
        InputError: *action* is something else.
    """
    check_action(action)
    if action == "ignore" or not cluster:
        return
    differences = compare(local_versions() if client is None else client, cluster)
    if not differences:
        return
    message, advice = describe(differences)
    if action == "warn":
        warnings.warn(f"{message}{advice}", VersionMismatchWarning, stacklevel=2)
        return
    raise VersionMismatchError(
        message,
        advice=advice + " To connect all the same: versions='warn'.",
        details={each.package: {"client": each.client, "cluster": each.cluster} for each in differences},
    )
