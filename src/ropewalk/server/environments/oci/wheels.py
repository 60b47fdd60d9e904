"""Installing pip packages for another machine: uv unpacks wheels, nothing of theirs runs.

What comes out is the same whenever it is done: no times, no paths of this machine, and ``.pyc`` files that hold a hash
of their source instead of its time, and are not checked at run time. Without them each start of a node compiles for
seconds.
"""

from __future__ import annotations

import asyncio
import base64
import csv
import errno
import hashlib
import io
import os
import posixpath
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ropewalk.errors import FixItError
from ropewalk.schemas.environments import Lock, LockedPackage, normal_name
from ropewalk.server.environments import resolve, uv
from ropewalk.server.environments.builder import BuildRequest
from ropewalk.server.environments.oci.blobs import disk_errors
from ropewalk.server.environments.oci.layers import Entry
from ropewalk.server.environments.oci.platform import Platform

__all__ = ["PREFIX", "Installed", "check_wheel", "install", "interpreter", "skeleton"]

PREFIX = "opt/ropewalk"
"""Where packages are in an image: a virtual environment, so that those of the base stay out of it."""
INSTALL_SECONDS = 1800.0
"""Mostly downloads; of some gigabytes over a slow line."""
COMPILE_SECONDS = 600.0
_CHUNK_BYTES = 3 * 2**20
"""Of source that one process compiles: some 0.5 s, so that its start of 0.02 s does not count."""
_TELL_TALES = frozenset({"direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED"})
"""What installers note of this machine and moment; no program needs it."""
_NOT_COMPILED = frozenset({"test", "tests"})
"""Folders whose modules no node imports; they are half of what there is in some packages."""
_OURS = ("Using CPython", "Resolved ")
"""How lines of uv begin that are about this machine, or say again what was said when it was resolved."""
_HASH_AND_SIZE = 2
"""What RECORD says of a file, besides its name."""
_COMPILE = Path(__file__).with_name("compile_files.py")

Files = dict[str, list[Entry]]


class Installed:
    """Packages in a folder, each with its files as they will be in an image."""

    def __init__(self, root: Path, python: str) -> None:
        self._root = root
        self._python = python
        self._site = next(iter(sorted(root.glob("**/*.dist-info"))), root / "lib" / "site-packages").parent
        self._local = posixpath.normpath(self._site.relative_to(root).as_posix())
        self._folder, self._prefix = str(self._site), f"{root}/"

    @property
    def site(self) -> str:
        """Where modules are in the image."""
        return f"{PREFIX}/lib/python{self._python}/site-packages"

    def files(self) -> Files:
        """Return the files by the normal names of packages.

        Raises:
            FixItError: One is, or leads, out of the place for packages.
        """
        found: Files = {}
        for info in sorted(self._site.glob("*.dist-info")):
            found[normal_name(info.name.removesuffix(".dist-info").rpartition("-")[0])] = self._package(info)
        return found

    def _package(self, info: Path) -> list[Entry]:
        """Return the files of a package, with a RECORD that is true in the image.

        Hashes of files that are as they were in the wheel are taken from its own RECORD, and not made again.
        """
        with (info / "RECORD").open(newline="", encoding="utf-8") as stream:
            rows = {posixpath.normpath(row[0]): row for row in csv.reader(stream) if row}
        record, entries = [], []
        for name in sorted(rows):
            if _is_left_out(name) or (entry := self._entry(name)) is None:
                continue
            entries.append(entry)
            known = rows[name][1:3]
            same = entry.data is None and len(known) == _HASH_AND_SIZE and known[1] == str(entry.size)
            record.append((name, *known) if same and known[0].startswith("sha256=") else _record(name, entry))
        own = posixpath.join(info.name, "RECORD")
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([*record, (own, "", "")])
        return [*entries, Entry(f"{self.site}/{own}", data=lines.getvalue().encode())]

    def _entry(self, name: str) -> Entry | None:
        """Return the file that RECORD calls *name*; None: it is none."""
        path = os.path.normpath(os.path.join(self._folder, name))  # noqa: PTH118 - of thousands of files
        try:
            status = os.stat(path)  # noqa: PTH116 - as above
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        if not path.startswith(self._prefix):
            file = posixpath.basename(path)[:200]
            raise FixItError(
                f"A package holds the name {file!r}, which leads out of the place for packages.",
                advice="It is broken or malicious: leave it out.",
            )
        inside = path.removeprefix(self._prefix)
        executable = bool(status.st_mode & stat.S_IXUSR)
        if inside.startswith(f"{self._local}/"):
            place = f"{self.site}/{inside.removeprefix(self._local + '/')}"
            return Entry(place, Path(path), executable=executable, length=status.st_size)
        if inside.startswith("bin/"):
            return Entry(f"{PREFIX}/{inside}", data=_with_shebang(Path(path).read_bytes()), executable=True)
        return Entry(f"{PREFIX}/{inside}", Path(path), executable=executable, length=status.st_size)


def _is_left_out(name: str) -> bool:
    folder, file = posixpath.split(name)
    return file.endswith(".pyc") or (folder.endswith(".dist-info") and (file in _TELL_TALES or file == "RECORD"))


def _record(name: str, entry: Entry) -> tuple[str, str, str]:
    data = entry.data if entry.data is not None else (entry.source.read_bytes() if entry.source else b"")
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return name, f"sha256={digest}", str(len(data))


def _with_shebang(script: bytes) -> bytes:
    """Return a script that runs with the Python of the image in place of this machine's."""
    first, newline, rest = script.partition(b"\n")
    if first.startswith(b"#!") and b"python" in first:
        return f"#!/{PREFIX}/bin/python".encode() + newline + rest
    if first == b"#!/bin/sh" and rest.startswith(b"'''exec'"):  # the path was too long for a first line
        rest = rest.partition(b"\n' '''\n")[2]
        return f"#!/{PREFIX}/bin/python\n".encode() + rest
    return script


def check_wheel(path: Path) -> None:
    """Refuse an uploaded wheel that would write elsewhere, or that is none.

    Raises:
        FixItError: Its names lead out of the place for packages, or it holds links.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                parts = info.filename.split("/")
                if ".." in parts or info.filename.startswith("/") or "\\" in info.filename:
                    raise _unsafe(path, f"the name {info.filename[:200]!r}, which leads out of it")
                if stat.S_ISLNK(info.external_attr >> 16):
                    raise _unsafe(path, f"the link {info.filename[:200]!r}")
    except (zipfile.BadZipFile, EOFError) as exc:
        raise _unsafe(path, f"no readable archive ({exc})") from exc


def _unsafe(path: Path, why: str) -> FixItError:
    return FixItError(f"The wheel {path.name} holds {why}.", advice="Build it again, or leave it out.", field="wheels")


async def install(
    packages: Sequence[LockedPackage],
    request: BuildRequest,
    python: str,
    platform: Platform,
    root: Path,
    cache: Path,
    say: Callable[[str], None],
) -> Installed:
    """Install pip packages below *root*, an empty folder.

    Raises:
        FixItError: One cannot be had for the platform any more, or is not what was locked.
        TryAgainError: The index could not be reached, or the disk is full.
    """
    for package in packages:
        if package.url is not None and package.url.startswith(resolve.WHEEL_URL):
            check_wheel(request.wheels[package.url.removeprefix(resolve.WHEEL_URL)])
    lock = _lock_of(packages, request, python)
    options, variables = uv.index_options(request.spec, request.credentials)
    with disk_errors(), tempfile.TemporaryDirectory(dir=root.parent) as folder:
        listing = Path(folder) / "requirements.txt"
        listing.write_text("\n".join(lock) + "\n", "utf-8")
        done = await uv.run_uv(
            [
                *("pip", "install", "--prefix", str(root), "--python", sys.executable, "--no-python-downloads"),
                *("--python-version", python, "--python-platform", platform.uv, "--link-mode", "hardlink"),
                *("--no-deps", "--no-build", "--require-hashes", "--no-compile-bytecode", "--break-system-packages"),
                *("-r", str(listing), *options),
            ],
            cache=cache,
            cwd=Path(folder),
            seconds=INSTALL_SECONDS,
            say=lambda line: None if line.startswith(_OURS) else say(line),
            environ=variables,
        )
    if done.status:
        raise resolve.explain(done, "installed")
    return Installed(root, python)


def _lock_of(packages: Sequence[LockedPackage], request: BuildRequest, python: str) -> list[str]:

    return resolve.lock_lines(Lock(python=python, platform=request.target.platform, packages=list(packages)), request)


def skeleton(home: str, executable: str, python: str) -> list[Entry]:
    """Return a virtual environment without packages, upon the Python *executable* in the folder *home* of the base."""
    config = f"home = {home}\ninclude-system-site-packages = false\nversion = {python}\nexecutable = {executable}\n"
    return [
        Entry(f"{PREFIX}/pyvenv.cfg", data=config.encode()),
        Entry(f"{PREFIX}/bin/python", link=executable),
        Entry(f"{PREFIX}/bin/python3", link="python"),
        Entry(f"{PREFIX}/bin/python{python}", link="python"),
        Entry(f"{PREFIX}/lib64", link="lib"),
        Entry(f"{PREFIX}/lib/python{python}/site-packages"),
    ]


async def interpreter(python: str, cache: Path, folder: Path) -> str | None:
    """Return an interpreter of this machine that compiles for version *python*; None: there is none."""
    if python == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    done = await uv.run_uv(
        ["python", "find", "--no-python-downloads", "--no-project", python],
        cache=cache,
        cwd=folder,
        seconds=60.0,
        say=lambda _: None,
    )
    return done.output.strip() or None if done.status == 0 else None


async def compiled(entries: Sequence[Entry], program: str, folder: Path, cores: asyncio.Semaphore) -> list[Entry]:
    """Return the ``.pyc`` files of *entries*, made in *folder* by the interpreter *program*, as *cores* allow.

    Files are compiled in chunks, each by a process of its own and in order: a ``.pyc`` file depends, harmlessly, on
    what was compiled before. Chunks depend on nothing but the files: it is the same on any number of processors.
    """
    sources = [each for each in entries if each.name.endswith(".py") and not _NOT_COMPILED & set(each.name.split("/"))]
    targets = [(each, folder / f"{number}.pyc") for number, each in enumerate(sources) if each.source is not None]

    async def compile_chunk(number: int, chunk: Sequence[tuple[Entry, Path]]) -> str:
        listing = folder / f"files-{number}"
        listing.write_text("\n".join(f"{each.source}\t/{each.name}\t{made}" for each, made in chunk), "utf-8")
        async with cores:
            return await _compile(program, listing)

    async with asyncio.TaskGroup() as group:
        tags = [group.create_task(compile_chunk(*each)) for each in enumerate(_chunks(targets))]
    found = []
    for each, made in targets:
        if made.exists():
            parent, name = posixpath.split(each.name)
            tag = tags[0].result()
            found.append(Entry(f"{parent}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc", made))
    return found


def _chunks(targets: Sequence[tuple[Entry, Path]]) -> Iterator[list[tuple[Entry, Path]]]:
    chunk: list[tuple[Entry, Path]] = []
    size = 0
    for each, made in targets:
        chunk.append((each, made))
        size += each.size
        if size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


async def _compile(program: str, listing: Path) -> str:
    """Compile the files of *listing*; return what the interpreter calls its ``.pyc`` files."""
    done = await uv.run(
        [program, "-I", "-S", str(_COMPILE), str(listing)],
        environ={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
        cwd=listing.parent,
        seconds=COMPILE_SECONDS,
        say=lambda _: None,
    )
    if "No space left" in done.errors or "Disk quota" in done.errors:
        raise OSError(errno.ENOSPC, "No space left on device", str(listing.parent))
    if done.status:
        raise FixItError(f"The packages could not be compiled: {done.errors[-500:]}")
    return done.output.strip()
