"""From locked packages to layers. A layer that was made before is neither installed nor made again."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ropewalk.schemas.environments import LockedPackage
from ropewalk.server.environments.builder import BuildRequest, Report
from ropewalk.server.environments.oci import conda, wheels
from ropewalk.server.environments.oci.blobs import Blobs, disk_errors, in_words
from ropewalk.server.environments.oci.channels import Channels
from ropewalk.server.environments.oci.grouping import Group, Sized, split
from ropewalk.server.environments.oci.layers import Entry, Layer, Tree, pack
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.together import one_error
from ropewalk.server.environments.resolve import WHEEL_URL

__all__ = ["Assembly"]

_FORMAT = 2
"""Of layers; raise it when the same packages are to give other ones."""

PACKED_AT_ONCE = 2
"""Layers: each is compressed on all processors, and reading the files of one need not wait for another."""


@dataclass(frozen=True, slots=True)
class Assembly:
    """Makes the layers of one environment."""

    request: BuildRequest
    python: str
    platform: Platform
    blobs: Blobs
    scratch: Path
    """Folder for what is made meanwhile, on the disk of the cache, so that files can be linked."""
    cache: Path
    """Of uv."""
    channels: Channels
    """Of conda."""
    report: Report
    made: Callable[[Layer], None] = lambda _: None
    """Told of each layer as soon as it is made."""
    cores: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(os.cpu_count() or 1))
    """For processes that compile."""
    packing: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(PACKED_AT_ONCE))

    async def layers(self, packages: Sequence[LockedPackage]) -> list[Layer]:
        """Return the layers of *packages*, making those that there are none of yet.

        Raises:
            FixItError: A package cannot be had any more, or leads out of its place.
            TryAgainError: An index does not answer.
        """
        by_name = {package.name: package for package in packages}
        with disk_errors(), one_error(), tempfile.TemporaryDirectory(dir=self.scratch, prefix="layers-") as name:
            folder = Path(name)
            program = await wheels.interpreter(self.python, self.cache, folder)
            if program is None:
                self.report.log(f"No Python {self.python} here to compile with: nodes take some seconds more to start.")
            files = await self._install([p for p in packages if self._size(p) is None], folder / "unknown")
            below = self._interpreter(packages)
            groups = split([Sized(p.name, self._size(p) or 0, _is_own(p), p.name in below) for p in packages])
            keys = {group: self._key([by_name[name] for name in group.names], program) for group in groups}
            known = {group: self._known(key) for group, key in keys.items()}
            needed = {name for group in groups if known[group] is None for name in group.names}
            files |= await self._install([by_name[n] for n in sorted(needed - files.keys())], folder / "again")
            missing = [group for group in groups if known[group] is None]
            # What takes longest first: nothing large is left to wait for when all else is done.
            missing.sort(key=lambda group: -sum(self._size(by_name[name]) or 0 for name in group.names))
            async with asyncio.TaskGroup() as work:
                making = {
                    group: work.create_task(self._make(group, keys[group], files, program, folder / str(number)))
                    for number, group in enumerate(missing)
                }
            return [known[group] or making[group].result() for group in groups]

    async def _install(self, packages: Sequence[LockedPackage], root: Path) -> dict[str, list[Entry]]:
        """Install *packages*; return their files, and note how large each is."""
        if not packages:
            return {}
        self.report.log(f"Installing {len(packages)} packages for {self.platform}")
        files = await self._conda([each for each in packages if each.manager == "conda"])
        files |= await self._pip([each for each in packages if each.manager == "pip"], root)
        tree = Tree(wheels.PREFIX)
        for package in packages:
            entries = [tree.check(entry) for entry in files.setdefault(package.name, [])]
            self.blobs.note(self._size_key(package), sum(entry.size for entry in entries))
        return files

    async def _pip(self, packages: Sequence[LockedPackage], root: Path) -> dict[str, list[Entry]]:
        if not packages:
            return {}
        await asyncio.to_thread(root.mkdir)
        installed = await wheels.install(
            packages, self.request, self.python, self.platform, root, self.cache, self.report.log
        )
        return await asyncio.to_thread(installed.files)

    async def _conda(self, packages: Sequence[LockedPackage]) -> dict[str, list[Entry]]:
        if not packages:
            return {}
        folders = await conda.fetch(packages, self.channels, self.report.log)
        for package in packages:
            self.blobs.note(f"depends {_identity(package)}", conda.depends(folders[package.name]))
        return {
            package.name: await asyncio.to_thread(conda.entries, folders[package.name], package, self.python)
            for package in packages
        }

    def _interpreter(self, packages: Sequence[LockedPackage]) -> set[str]:
        """Return the names of the packages that Python itself needs: they change least."""
        by_name = {package.name: package for package in packages if package.manager == "conda"}
        found, waiting = set(), ["python"]
        while waiting:
            name = waiting.pop()
            if name in by_name and name not in found:
                found.add(name)
                waiting += self.blobs.fact(f"depends {_identity(by_name[name])}") or ()
        return found

    async def _make(
        self, group: Group, key: str, files: Mapping[str, list[Entry]], program: str | None, folder: Path
    ) -> Layer:
        entries = [entry for name in group.names for entry in files[name]]
        if program is not None:
            await asyncio.to_thread(folder.mkdir)
            entries += await wheels.compiled(entries, program, folder, self.cores)
        async with self.packing:
            layer = await asyncio.to_thread(pack, group.title, entries, self.blobs)
        self.blobs.note(key, asdict(layer))
        self.report.log(f"Layer {group.title}: {in_words(layer.size)}")
        self.made(layer)
        return layer

    def _known(self, key: str) -> Layer | None:
        fact = self.blobs.fact(key)
        return Layer(**fact) if isinstance(fact, dict) and self.blobs.has(fact["digest"]) else None

    def _size(self, package: LockedPackage) -> int | None:
        size = self.blobs.fact(self._size_key(package))
        return size if isinstance(size, int) else None

    def _size_key(self, package: LockedPackage) -> str:
        return f"size {_FORMAT} {self.python} {self.platform} {_identity(package)}"

    def _key(self, packages: Sequence[LockedPackage], program: str | None) -> str:
        facts = [_FORMAT, self.python, str(self.platform), wheels.PREFIX, program is not None]
        text = json.dumps([*facts, *(_identity(package) for package in packages)])
        return f"layer {hashlib.sha256(text.encode()).hexdigest()}"


def _identity(package: LockedPackage) -> str:
    return f"{package.name}=={package.version} {package.url or ''} {' '.join(sorted(package.hashes))}"


def _is_own(package: LockedPackage) -> bool:
    return package.url is not None and package.url.startswith(WHEEL_URL)
