"""The user's own packages, as they are: read for package sync, and made into a specification that says all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ropewalk.client.environment.wheels import Wheels
from ropewalk.errors import InputError
from ropewalk.schemas.environments import Difference, EnvironmentSpec, normal_name

__all__ = ["CRITICAL", "Installed", "Snapshot", "installed", "snapshot"]

CRITICAL = frozenset(
    {
        *("dask", "distributed", "cloudpickle", "msgpack", "tornado", "toolz"),
        *("numpy", "pandas", "pyarrow"),
    }
)
"""What scheduler, workers and client exchange is made by these: other versions of them are an error, no warning."""

_NOT_SENT = frozenset({"ropewalk", "pip", "uv", "wheel", "virtualenv"})
"""Packages that nodes have no use for: Ropewalk itself needs nothing there, and the rest installs packages."""


@dataclass(frozen=True, slots=True)
class Installed:
    """One package that is installed here."""

    name: str
    version: str
    project: Path | None = None
    """Folder of a project, installed from there or editable."""
    wheel: Path | None = None
    """File that it was installed from."""
    requirement: str | None = None
    """Where it is from, if not from an index: a repository or an archive."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that is installed, as a specification; wheels of local code by SHA-256, and what could not be taken along."""

    spec: EnvironmentSpec
    wheels: Mapping[str, Path]
    differences: list[Difference] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The name under which the same packages are found again."""
        return f"sync-{self.spec.hash[:20]}"


def installed(found: Iterable[Distribution] | None = None) -> list[Installed]:
    """Return the packages of this Python, each once: the first of its name is the one that is imported."""
    packages: dict[str, Installed] = {}
    for distribution in distributions() if found is None else found:
        name = distribution.metadata["Name"]
        if not name:
            continue  # the leftovers of a broken installation
        key = normal_name(name)
        if key not in packages and key not in _NOT_SENT:
            packages[key] = _of(key, distribution)
    return [packages[key] for key in sorted(packages)]


def _of(name: str, distribution: Distribution) -> Installed:
    version = distribution.version
    try:
        direct = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        direct = {}
    return _from(name, version, direct) if direct.get("url") else Installed(name, version)


def _from(name: str, version: str, direct: Mapping[str, Any]) -> Installed:
    """Say where a package is from, as PEP 610 has it written down."""
    parts = urlsplit(str(direct["url"]))
    if parts.scheme == "file":
        path = Path(unquote(parts.path))
        if "dir_info" in direct and path.is_dir():
            return Installed(name, version, project=path)
        return Installed(name, version, wheel=path if path.suffix == ".whl" and path.is_file() else None)
    # Credentials that were in the address are for this machine only.
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    vcs = direct.get("vcs_info")
    if vcs:
        return Installed(name, version, requirement=f"{name} @ {vcs['vcs']}+{url}@{vcs['commit_id']}")
    return Installed(name, version, requirement=f"{name} @ {url}")


def snapshot(packages: Iterable[Installed] | None = None) -> Snapshot:
    """Return what is installed here; builds wheels of local code that changed."""
    own = Wheels()
    pins: list[str] = []
    wheels, differences, droppable = [], [], []
    for package in installed() if packages is None else packages:
        local = package.wheel or package.project
        if local is not None:
            try:
                wheels.append(own.add(local, version=package.version))
            except InputError as exc:
                differences.append(
                    Difference(name=package.name, level="warning", here=package.version, why=str(exc.message))
                )
            continue
        pins.append(package.requirement or f"{package.name}=={package.version}")
        if package.name not in CRITICAL:
            droppable.append(package.name)
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    spec = EnvironmentSpec(python=python, pip=pins, wheels=wheels, exact=True, droppable=droppable)
    return Snapshot(spec, own.files, differences)
