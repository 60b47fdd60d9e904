"""An image for nodes, made of this machine's Python and the tests' own packages: nothing is pulled, no version differs.

A tar of a whole file system for ``docker import``: the interpreter and its standard library under ``/usr/local``, the
shared libraries that they need, Dask with what it depends on, busybox as the shell where the machine has it. With
``.pyc`` files: without them each start of a node compiles for seconds.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"
PACKAGES = ("distributed", "cryptography", "numpy")
"""What nodes run, with all that these require; numpy, because clients compare its version with theirs."""

_USELESS = re.compile(
    r"(^|/)(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|config-3[^/]*|site-packages)(/|$)"
)


def build(packages: Sequence[str] = PACKAGES) -> Path:
    """Return the tar, making it if there is none of these packages; safe in several processes.

    With no packages it is as small an image with Python as others are made upon.
    """
    kind = "node-image" if packages else "base-image"
    target = CACHE / f"{kind}-{_digest(packages)}.tar"
    CACHE.mkdir(exist_ok=True)
    with (CACHE / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            for old in CACHE.glob(f"{kind}-*.tar"):
                old.unlink()
            with tempfile.TemporaryDirectory(dir=CACHE) as folder:
                _stage(Path(folder), packages)
                _pack(Path(folder), target)
    return target


def _digest(packages: Sequence[str]) -> str:
    facts = [sys.version, Path(__file__).read_text()]
    facts += sorted(f"{found.metadata['Name']}=={found.version}" for found in _closure(packages))
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:12]


def _closure(names: Iterable[str]) -> list[Distribution]:
    """Return distributions and all that they require here."""
    found: dict[str, Distribution] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        found[name] = distribution(name)
        for line in found[name].requires or []:
            wanted = Requirement(line)
            if wanted.marker is None or wanted.marker.evaluate({"extra": ""}):
                waiting.append(wanted.name)
    return list(found.values())


def _stage(root: Path, packages: Sequence[str]) -> None:
    """Lay the file system out."""
    prefix = root / "usr" / "local"
    library = prefix / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    _copy_tree(Path(sysconfig.get_path("stdlib", vars={"installed_base": sys.base_prefix})), library)
    (prefix / "bin").mkdir()
    interpreter = Path(sys.base_prefix) / "bin" / library.name
    shutil.copy2(interpreter, prefix / "bin" / "python3")
    (prefix / "bin" / "python").symlink_to("python3")
    for package in _closure(packages):
        _copy_package(package, library / "site-packages")
    compileall.compile_dir(library, quiet=2, workers=2)
    # A base image has the libraries that common packages count upon.
    others = [] if packages else [file for package in _closure(PACKAGES) for file in _shared(package)]
    _copy_libraries([interpreter, *library.rglob("*.so*"), *others], root)
    _furnish(root)


def _copy_tree(source: Path, target: Path) -> None:
    def skip(folder: str, names: list[str]) -> set[str]:
        inside = Path(folder).relative_to(source)
        return {name for name in names if _USELESS.search((inside / name).as_posix())}

    shutil.copytree(source, target, ignore=skip, symlinks=True)


def _copy_package(package: Distribution, target: Path) -> None:
    for file in package.files or []:
        if file.parts[0] == ".." or "tests" in file.parts:
            continue
        place = target / file
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # RECORD may list .pyc files that are not there
            shutil.copy2(str(package.locate_file(file)), place)


def _shared(package: Distribution) -> list[Path]:
    return [Path(str(package.locate_file(file))) for file in package.files or [] if ".so" in file.name]


def _copy_libraries(programs: Iterable[Path], root: Path) -> None:
    """Copy what the dynamic linker finds for the programs, to where it looks by itself."""
    found: set[str] = set()
    for chunk in _chunks([str(program) for program in programs], 100):
        listing = subprocess.run(["ldd", *chunk], capture_output=True, text=True, check=False).stdout
        found |= set(re.findall(r"=> (/\S+)", listing)) | set(re.findall(r"^\s+(/\S+) \(", listing, re.MULTILINE))
    inside = root / "usr" / "local" / "lib"
    for name in sorted(found):
        path = Path(name)
        if inside in path.parents or ".libs" in name:
            continue
        place = root / ("lib64" if path.name.startswith("ld-") else "lib/x86_64-linux-gnu") / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            shutil.copy2(path.resolve(), place)


def _chunks(items: list[str], size: int) -> Iterator[list[str]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _furnish(root: Path) -> None:
    for name in ("etc", "tmp", "root", "proc", "sys", "dev", "bin"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").chmod(0o1777)
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\ndask:x:1000:1000::/tmp:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\ndask:x:1000:\n")
    busybox = shutil.which("busybox")
    if busybox:
        shutil.copy2(Path(busybox).resolve(), root / "bin" / "busybox")
        for applet in ("sh", "cat", "ls", "sleep", "true", "false", "env", "kill", "ps"):
            (root / "bin" / applet).symlink_to("busybox")


def _pack(root: Path, target: Path) -> None:
    partial = target.with_suffix(".partial")

    def anonymous(info: tarfile.TarInfo) -> tarfile.TarInfo:
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        return info

    with tarfile.open(partial, mode="w") as archive:
        for child in sorted(root.iterdir()):
            archive.add(child, child.name, filter=anonymous)
    partial.rename(target)
