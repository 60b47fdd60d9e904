"""The user's own packages, as they are: read for package sync, and made into a specification that says all of them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from ropewalk.client.environment.conda import CondaPackage, described, without_pip
from ropewalk.client.environment.wheels import Wheels
from ropewalk.errors import InputError
from ropewalk.schemas.environments import Difference, EnvironmentSpec, LocalWheel, Platform, normal_name

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


def snapshot(
    packages: Iterable[Installed] | None = None,
    *,
    conda: Sequence[CondaPackage] = (),
    platform: Platform = "linux/amd64",
    reached: bool = True,
) -> Snapshot:
    """Return what is installed here; builds wheels of local code that changed.

    Args:
        packages: What Python finds; by default what it finds here.
        conda: What conda installed of it, and beside it.
        platform: Of the nodes.
        reached: Whether nodes can have packages from conda channels. If not, those that are Python packages are asked
            for from package indexes.
    """
    found = installed() if packages is None else list(packages)
    left = without_pip(conda, {package.name: package.version for package in found})
    pip, files, differences, droppable = _from_indexes(found, left if reached else ())
    spec, names = None, list[str]()
    if reached and left:
        spec, names, unknown = described(left, platform)
        differences += unknown
    else:
        differences += [_not_reached(each) for each in left if each.requested and not each.python]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    complete = EnvironmentSpec(
        python=python, conda=spec, pip=pip, wheels=files[0], exact=True, droppable=[*droppable, *names]
    )
    return Snapshot(complete, files[1], differences)


def _from_indexes(
    packages: Iterable[Installed], conda: Iterable[CondaPackage]
) -> tuple[list[str], tuple[list[LocalWheel], Mapping[str, Path]], list[Difference], list[str]]:
    """Return pins of what is from package indexes, wheels of what is from here, and the names that may be missing."""
    own, pins, wheels = Wheels(), list[str](), list[LocalWheel]()
    differences, droppable = list[Difference](), list[str]()
    theirs = {name for each in conda for name, _ in each.distributions}
    for package in packages:
        local = package.wheel or package.project
        if local is not None:
            try:
                wheels.append(own.add(local, version=package.version))
            except InputError as exc:
                differences.append(
                    Difference(name=package.name, level="warning", here=package.version, why=str(exc.message))
                )
        elif package.name not in theirs:
            pins.append(package.requirement or f"{package.name}=={package.version}")
            if package.name not in CRITICAL:
                droppable.append(package.name)
    return pins, (wheels, own.files), differences, droppable


def _not_reached(package: CondaPackage) -> Difference:
    why = "It is from a conda channel and no Python package; nodes there get packages from pip's indexes only."
    return Difference(name=package.name, level="warning", here=package.version, why=why)
