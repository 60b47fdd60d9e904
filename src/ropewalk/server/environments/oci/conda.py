"""Conda packages for another machine: py-rattler solves and downloads, and the files are laid out here.

They go below :data:`~ropewalk.server.environments.oci.wheels.PREFIX` of an image, whose path is written into those
files that hold their place. Nothing of theirs runs: no link scripts, and no activation scripts at the start of a node.
"""

from __future__ import annotations

import asyncio
import json
import os
import posixpath
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.environments import CondaSpec, LockedPackage
from ropewalk.server.environments.oci.blobs import disk_errors
from ropewalk.server.environments.oci.channels import Channels, explain, rattler, without_tokens
from ropewalk.server.environments.oci.layers import Entry
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.wheels import PREFIX

__all__ = ["depends", "entries", "fetch", "name_of", "solve", "solved", "subdirs"]

_GLIBC, _KERNEL = "2.28", "5.10"
"""What packages may count upon: as for wheels, and the kernel of Fargate and of supported distributions."""
_ARCHSPEC = {"amd64": "x86_64", "arm64": "aarch64"}
_AT_ONCE = 8
_NAME_END = re.compile(r"[\s=<>!~\[]")
_STANDING = {"site-packages": "lib/python{python}/site-packages", "python-scripts": "bin"}
"""Folders of packages that are for any version of Python, and where they go."""


async def solve(spec: CondaSpec, python: str, platform: Platform, channels: Channels) -> list[LockedPackage]:
    """Return what the packages of *spec* come to.

    Raises:
        FixItError: There is no solution; the message is the solver's.
        TryAgainError: A channel does not answer.
    """
    named = {name_of(each) for each in spec.dependencies}
    wanted = [*spec.dependencies, *([] if "python" in named else [f"python {python}.*"])]
    return await solved(wanted, spec.channels, platform, channels.gateway(spec.channels))


def name_of(dependency: str) -> str:
    """Return the name of the package that a dependency asks for."""
    return _NAME_END.split(dependency.rpartition("::")[2], maxsplit=1)[0].lower()


async def solved(
    wanted: Sequence[str], sources: Sequence[str], platform: Platform, gateway: Any, *, strict: bool = True
) -> list[LockedPackage]:
    """Return what *wanted* comes to; *strict*: a package is taken from the first channel that has it, whatever version.

    Raises:
        FixItError: There is no solution; the message is the solver's.
        TryAgainError: A channel does not answer.
    """
    library = rattler()
    try:
        found = await library.solve(
            sources=list(sources),
            specs=[library.MatchSpec(each) for each in wanted],
            gateway=gateway,
            platforms=subdirs(platform),
            virtual_packages=_virtual(library, platform),
            channel_priority=library.ChannelPriority.Strict if strict else library.ChannelPriority.Disabled,
        )
    except library.exceptions.SolverError as exc:
        raise FixItError(
            f"The conda packages could not be resolved for {platform}. {exc}",
            advice="Loosen one of the requirements that it names: they cannot be had together.",
            field="conda",
        ) from None
    except library.exceptions.InvalidMatchSpecError as exc:
        raise FixItError(f"A conda package is named in a way that is not understood: {exc}.", field="conda") from None
    except (library.exceptions.GatewayError, library.exceptions.FetchRepoDataError, OSError) as exc:
        raise explain(exc, sources) from None
    return sorted((_locked(record) for record in found), key=lambda package: package.name)


def subdirs(platform: Platform) -> list[Any]:
    """Return the parts of a channel that have packages for *platform*."""
    return [rattler().Subdir(name) for name in (platform.conda, "noarch")]


def _virtual(rattler: Any, platform: Platform) -> list[Any]:
    def one(name: str, version: str, build: str = "0") -> Any:
        return rattler.GenericVirtualPackage(
            rattler.PackageName(name), rattler.Version(version), rattler.package.BuildString(build)
        )

    return [
        one("__unix", "0"),
        one("__linux", _KERNEL),
        one("__glibc", _GLIBC),
        one("__archspec", "1", _ARCHSPEC[platform.architecture]),
    ]


def _locked(record: Any) -> LockedPackage:
    if record.sha256 is None:
        raise FixItError(f"The conda channel gives no SHA-256 of {record.file_name}.", field="conda")
    return LockedPackage(
        name=record.name.normalized,
        version=str(record.version),
        manager="conda",
        hashes=[f"sha256:{record.sha256.hex()}"],
        url=record.url,
        build=str(record.build),
    )


async def fetch(packages: Sequence[LockedPackage], channels: Channels, say: Callable[[str], None]) -> dict[str, Path]:
    """Return the folder of each unpacked package, downloading those that are not there; verified by hash.

    Raises:
        FixItError: A package is not on its channel any more, or has other bytes than when it was locked.
    """
    store = channels.cache / "packages"
    store.mkdir(parents=True, exist_ok=True)
    limit = asyncio.Semaphore(_AT_ONCE)

    async def bring(package: LockedPackage) -> Path:
        digest = package.hashes[0].removeprefix("sha256:")
        target = store / digest
        if target.is_dir():
            os.utime(target)  # so that it is not the first to go when room is needed
            return target
        async with limit:
            say(f"Downloading {package.name} {package.version}")
            with disk_errors(), tempfile.TemporaryDirectory(dir=store, prefix="partial-") as folder:
                await _download(channels, package, Path(folder) / "package", bytes.fromhex(digest))
                try:
                    (Path(folder) / "package").rename(target)
                except OSError:
                    if not target.is_dir():  # else another build was faster
                        raise
        return target

    found = await asyncio.gather(*(bring(package) for package in packages))
    return {package.name: path for package, path in zip(packages, found, strict=True)}


async def _download(channels: Channels, package: LockedPackage, target: Path, digest: bytes) -> None:
    library, url = rattler(), str(package.url)
    try:
        client = channels.downloader(url)
        sha256, _ = await library.package_streaming.download_and_extract(client, url, target, digest)
    except (library.exceptions.ExtractError, OSError) as exc:
        text = without_tokens(str(exc))
        if "401" in text or "403" in text:
            raise explain(exc, [url]) from None
        if "404" in text or "410" in text:
            raise FixItError(
                f"The conda package {package.name} {package.version} is not on its channel any more.",
                advice="Build with force_rebuild, so that another version is chosen.",
                field="conda",
            ) from None
        raise TryAgainError(
            f"The conda package {package.name} {package.version} could not be had: {text}.", delay=10.0, field="conda"
        ) from None
    if sha256 != digest:
        shutil.rmtree(target, ignore_errors=True)
        raise TryAgainError(f"The conda package {package.name} arrived damaged.", delay=10.0, field="conda")


def depends(folder: Path) -> list[str]:
    """Return the names of what an unpacked package needs."""
    return [str(each).split()[0] for each in _info(folder, "index.json").get("depends", ())]


def entries(folder: Path, package: LockedPackage, python: str) -> list[Entry]:
    """Return the files of an unpacked package as they are in an image."""
    index, link = _info(folder, "index.json"), _info(folder, "link.json").get("noarch") or {}
    anywhere = index.get("noarch") == "python"
    found = []
    for fact in _info(folder, "paths.json").get("paths", ()):
        name = str(fact["_path"])
        if name.endswith(".pyc") or fact.get("path_type") == "directory":
            continue
        found.append(_entry(folder, fact, _place(name, python) if anywhere else name))
    found += [_script(str(each)) for each in link.get("entry_points") or () if anywhere]
    return [*found, _note(index, package, found)]


def _info(folder: Path, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder / "info" / name).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _place(name: str, python: str) -> str:
    top, slash, rest = name.partition("/")
    return f"{_STANDING[top].format(python=python)}/{rest}" if slash and top in _STANDING else name


def _entry(folder: Path, fact: dict[str, Any], place: str) -> Entry:
    source = folder / str(fact["_path"])
    name = f"{PREFIX}/{place}"
    if source.is_symlink():
        return Entry(name, link=str(source.readlink()))
    if not source.resolve().is_relative_to(folder.resolve()):
        raise FixItError(
            f"A conda package holds the name {str(fact['_path'])[:200]!r}, which leads out of it.",
            advice="It is broken or malicious: leave it out.",
            field="conda",
        )
    executable = bool(source.stat().st_mode & stat.S_IXUSR)
    placeholder = fact.get("prefix_placeholder")
    if not placeholder:
        return Entry(name, source, executable=executable)
    data = _replaced(source.read_bytes(), str(placeholder).encode(), binary=fact.get("file_mode") == "binary")
    return Entry(name, data=data, executable=executable)


def _replaced(data: bytes, placeholder: bytes, *, binary: bool) -> bytes:
    """Return *data* with our prefix; strings in programs keep their length, as offsets count on it."""
    prefix = f"/{PREFIX}".encode()
    if not binary:
        return data.replace(placeholder, prefix)
    parts = []
    at = 0
    while (found := data.find(placeholder, at)) >= 0:
        end = data.find(b"\0", found)
        end = len(data) if end < 0 else end
        text = data[found:end].replace(placeholder, prefix)
        parts += [data[at:found], text.ljust(end - found, b"\0")]
        at = end
    return b"".join([*parts, data[at:]])


def _script(entry_point: str) -> Entry:
    name, _, where = (part.strip() for part in entry_point.partition("="))
    module, _, function = where.partition(":")
    text = (
        f"#!/{PREFIX}/bin/python\nimport sys\n\nfrom {module} import {function.partition('.')[0]}\n\n"
        f"if __name__ == '__main__':\n    sys.exit({function}())\n"
    )
    return Entry(f"{PREFIX}/bin/{name}", data=text.encode(), executable=True)


def _note(index: dict[str, Any], package: LockedPackage, files: Sequence[Entry]) -> Entry:
    """Return what conda's own tools look for to know that a package is installed."""
    start = f"{PREFIX}/"
    names = sorted(each.name.removeprefix(start) for each in files)
    value = {**index, "url": package.url, "sha256": package.hashes[0].removeprefix("sha256:"), "files": names}
    name = f"{package.name}-{package.version}-{package.build}.json"
    data = json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    return Entry(posixpath.join(PREFIX, "conda-meta", name), data=data)
