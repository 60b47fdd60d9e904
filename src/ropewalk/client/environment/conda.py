"""The user's conda environment as conda itself has it written down, in ``conda-meta``; conda is not run."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ropewalk.schemas.environments import CondaSpec, Difference, Platform, normal_name

__all__ = ["CondaPackage", "conda_packages", "described", "without_pip"]

SUBDIRS = {"linux/amd64": "linux-64", "linux/arm64": "linux-aarch64"}
"""What conda calls the platforms of nodes."""

_NOT_SENT = frozenset({"ropewalk", "pip", "uv", "wheel", "virtualenv", "conda", "mamba", "micromamba", "pixi"})
"""Ropewalk itself needs nothing on nodes, and the rest installs packages."""
_CRITICAL = frozenset(
    {
        *("python", "dask", "dask-core", "distributed", "cloudpickle", "msgpack-python", "msgpack", "tornado", "toolz"),
        *("numpy", "pandas", "pyarrow", "pyarrow-core"),
    }
)
"""As :data:`~ropewalk.client.environment.snapshot.CRITICAL`, by the names that they have in conda's channels."""

_INFO = re.compile(r"(?:^|/)site-packages/([^/]+?)-([^-/]+)(?:-py[0-9.]+)?\.(?:dist|egg)-info(?:/|$)")
_IN_PYTHON = re.compile(r"(?:^|/)site-packages/")
_TOKEN = re.compile(r"/t/[^/]+(?=/)")
_SPEC_NAME = re.compile(r"(?:.*::)?([A-Za-z0-9_][A-Za-z0-9_.-]*)")
_CONDA_ORG = "https://conda.anaconda.org/"


@dataclass(frozen=True, slots=True)
class CondaPackage:
    """One package that conda installed."""

    name: str
    version: str
    build: str
    subdir: str
    """Platform that it is for, as conda calls it, or ``noarch``."""
    channel: str | None
    """Name or address, without credentials; None: a folder of this machine."""
    requested: bool
    """The user asked for it by name."""
    python: bool
    """It has files that Python imports."""
    distributions: frozenset[tuple[str, str]] = frozenset()
    """Name and version of the Python packages in it, as pip would call them."""
    depends: frozenset[str] = frozenset()


def conda_packages(prefix: Path | None = None) -> list[CondaPackage]:
    """Return the packages of a conda environment, by default the one of this program; none: it is of another kind."""
    folder = (Path(sys.prefix) if prefix is None else prefix) / "conda-meta"
    asked = _asked(folder / "history")
    found = [_package(record, asked) for record in _records(folder)]
    return sorted(found, key=lambda package: package.name)


def _records(folder: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            value = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError):
            continue  # the leftovers of a broken installation
        if isinstance(value, dict) and value.get("name") and value.get("version"):
            yield value


def _package(record: Mapping[str, Any], asked: set[str]) -> CondaPackage:
    name = str(record["name"]).lower()
    files = [str(each).replace("\\", "/") for each in record.get("files") or ()]
    infos = (match for each in files if (match := _INFO.search(each)))
    subdir = str(record.get("subdir") or "noarch")
    spec = record.get("requested_spec") or record.get("requested_specs")
    return CondaPackage(
        name=name,
        version=str(record["version"]),
        build=str(record.get("build") or record.get("build_string") or ""),
        subdir=subdir,
        channel=_channel(record, subdir),
        requested=name in asked or bool(spec and spec not in ("None", ["None"])),
        python=any(_IN_PYTHON.search(each) for each in files),
        distributions=frozenset((normal_name(match[1]), match[2]) for match in infos),
        depends=frozenset(str(each).split()[0] for each in record.get("depends") or ()),
    )


def _channel(record: Mapping[str, Any], subdir: str) -> str | None:
    """Return the channel of a package as anybody may read it: tokens and passwords are for this machine only."""
    address = str(record.get("url") or record.get("channel") or "")
    if "://" not in address:
        name = address.removesuffix(f"/{subdir}")
        known = re.fullmatch(r"[A-Za-z0-9_.-]+(/[A-Za-z0-9_.-]+)*", name)
        return name if known else None
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https"):
        return None
    path = _TOKEN.sub("", parts.path, count=1)
    for part in (f"/{subdir}/", "/noarch/"):
        path = path.partition(part)[0]
    path = path.rstrip("/").removesuffix(f"/{subdir}")
    url = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=path, query="", fragment="").geturl()
    return url.removeprefix(_CONDA_ORG)


def _asked(history: Path) -> set[str]:
    """Return the names that the user asked for and did not remove again, as conda's history has them."""
    try:
        lines = history.read_text("utf-8", errors="replace").splitlines()
    except OSError:
        return set()
    found: set[str] = set()
    for line in lines:
        what, mark, rest = line.partition(" specs:")
        if not mark or not what.startswith("#"):
            continue
        names = {match[1].lower() for each in _specs(rest) if (match := _SPEC_NAME.match(each))}
        found = found - names if what.removeprefix("#").strip() == "remove" else found | names
    return found


def _specs(text: str) -> list[str]:
    """Read the list that a line of the history ends with: ``["numpy", "dask=2026"]``, in either kind of quotes."""
    return [double or single for double, single in re.findall(r'"([^"]+)"|\'([^\']+)\'', text)]


def without_pip(packages: Iterable[CondaPackage], installed: Mapping[str, str]) -> list[CondaPackage]:
    """Return those of *packages* that are as conda left them: what pip replaced since is pip's.

    Args:
        packages: What conda installed.
        installed: Version of each Python package that is installed now, by normal name.
    """
    return [
        each
        for each in packages
        if not each.distributions or any(installed.get(name) == version for name, version in each.distributions)
    ]


def described(packages: Sequence[CondaPackage], platform: Platform) -> tuple[CondaSpec, list[str], list[Difference]]:
    """Return what nodes are to have of *packages*, the names that may be missing there, and what cannot be asked for.

    Versions are pinned, and builds where they are for the platform of the nodes.
    """
    sent = [each for each in packages if each.name not in _NOT_SENT]
    known = [each for each in sent if each.channel is not None]
    needed = {name for each in sent for name in each.depends}
    history = any(each.requested for each in sent)
    matters = [each for each in sent if each.python or (each.requested if history else each.name not in needed)]
    differences = [_unknown(each) for each in sent if each.channel is None and each in matters]
    pins = [_pin(each, platform) for each in known]
    spec = CondaSpec(channels=_channels(known), dependencies=pins, matters=[each.name for each in matters])
    return spec, [each.name for each in known if each.name not in _CRITICAL], differences


def _pin(package: CondaPackage, platform: Platform) -> str:
    same = package.subdir in (SUBDIRS[platform], "noarch")
    return f"{package.name} =={package.version}" + (f" {package.build}" if same and package.build else "")


def _channels(packages: Iterable[CondaPackage]) -> list[str]:
    """Return the channels, those that most packages are from first."""
    counted = Counter(each.channel for each in packages if each.channel is not None)
    return sorted(counted, key=lambda channel: (-counted[channel], channel))


def _unknown(package: CondaPackage) -> Difference:
    return Difference(
        name=package.name,
        level="error" if package.name in _CRITICAL else "warning",
        here=package.version,
        why="It was installed from a folder of this machine and not from a channel; it is left out.",
    )
