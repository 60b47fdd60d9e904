"""Installing pip packages for another machine: uv unpacks wheels, nothing of theirs runs.

What comes out is the same whenever it is done: no times, no paths of this machine, and ``.pyc`` files that hold a hash
of their source instead of its time, and are not checked at run time. Without them each start of a node compiles for
seconds.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import os
import posixpath
import stat
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
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
_TELL_TALES = frozenset({"direct_url.json", "uv_cache.json", "uv_build.json", "REQUESTED"})
"""What installers note of this machine and moment; no program needs it."""
_NOT_COMPILED = frozenset({"test", "tests"})
"""Folders whose modules no node imports; they are half of what there is in some packages."""
_OURS = ("Using CPython", "Resolved ")
"""How lines of uv begin that are about this machine, or say again what was said when it was resolved."""
_COMPILE = Path(__file__).with_name("compile_files.py")

Files = dict[str, list[Entry]]


class Installed:
    """Packages in a folder, each with its files as they will be in an image."""

    def __init__(self, root: Path, python: str) -> None:
        self._root = root
        self._python = python
        self._site = next(iter(sorted(root.glob("**/*.dist-info"))), root / "lib" / "site-packages").parent
        self._local = posixpath.normpath(self._site.relative_to(root).as_posix())

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
        with (info / "RECORD").open(newline="", encoding="utf-8") as stream:
            names = [row[0] for row in csv.reader(stream) if row]
        record, entries = [], []
        for name in sorted({posixpath.normpath(each) for each in names}):
            path = Path(os.path.normpath(self._site / name))
            if posixpath.basename(name) in _TELL_TALES and posixpath.dirname(name).endswith(".dist-info"):
                continue
            if name.endswith((".pyc", ".dist-info/RECORD")) or not path.is_file():
                continue
            entry = self._entry(path)
            entries.append(entry)
            record.append(_record(name, entry))
        own = posixpath.join(info.name, "RECORD")
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([*record, (own, "", "")])
        return [*entries, Entry(f"{self.site}/{own}", data=lines.getvalue().encode())]

    def _entry(self, path: Path) -> Entry:
        try:
            inside = path.relative_to(self._root).as_posix()
        except ValueError:
            raise FixItError(
                f"A package holds the name {path.name[:200]!r}, which leads out of the place for packages.",
                advice="It is broken or malicious: leave it out.",
            ) from None
        executable = bool(path.stat().st_mode & stat.S_IXUSR)
        if inside.startswith(f"{self._local}/"):
            return Entry(f"{self.site}/{inside.removeprefix(self._local + '/')}", path, executable=executable)
        if inside.startswith("bin/"):
            return Entry(f"{PREFIX}/{inside}", data=_with_shebang(path.read_bytes()), executable=True)
        return Entry(f"{PREFIX}/{inside}", path, executable=executable)


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


async def compiled(entries: Sequence[Entry], program: str, folder: Path) -> list[Entry]:
    """Return the ``.pyc`` files of *entries*, made in *folder* by the interpreter *program*.

    One process makes all of them, in order: a ``.pyc`` file depends, harmlessly, on what was compiled before.
    """
    sources = [each for each in entries if each.name.endswith(".py") and not _NOT_COMPILED & set(each.name.split("/"))]
    listing = folder / "files"
    lines = (f"{each.source}\t/{each.name}\t{number}.pyc" for number, each in enumerate(sources) if each.source)
    listing.write_text("\n".join(lines), "utf-8")
    done = await uv.run(
        [program, "-I", "-S", str(_COMPILE), str(listing)],
        environ={"PYTHONHASHSEED": "0", "LANG": "C.UTF-8"},
        cwd=folder,
        seconds=COMPILE_SECONDS,
        say=lambda _: None,
    )
    if done.status:
        raise FixItError(f"The packages could not be compiled: {done.errors[-500:]}")
    tag = done.output.strip()
    found = []
    for number, each in enumerate(sources):
        if (made := folder / f"{number}.pyc").exists():
            parent, name = posixpath.split(each.name)
            found.append(Entry(f"{parent}/__pycache__/{name.removesuffix('.py')}.{tag}.pyc", made))
    return found
