"""The user's own modules that are in no project: the files beside a script or notebook, and on ``PYTHONPATH``.

They are found as Python finds them, on ``sys.path``, and read at each start: an edit builds nothing.
"""

from __future__ import annotations

import hashlib
import io
import os
import site
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
from pathlib import Path

from ropewalk.client.environment.wheels import IGNORE_FILE, project_files
from ropewalk.schemas.environments import Difference

__all__ = ["MAX_BYTES", "Modules", "local_modules"]

MAX_BYTES = 16 * 2**20
"""Of all files together. The scheduler keeps them and sends them to each new worker; code has some 100 kB."""
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip file can tell: the same files make the same archive."""

_NOT_SENT = frozenset({"setup", "conftest", "noxfile", "ropewalk", "__main__"})
"""What builds or tests, and what nodes have a part of already."""


@dataclass(frozen=True, slots=True)
class Modules:
    """Modules and packages of the user's, with all their files."""

    files: Mapping[str, Path]
    """By the place that each has below a folder of ``sys.path``."""
    names: Mapping[Path, list[str]]
    """What is brought along, by the folder that it is from."""
    differences: list[Difference] = field(default_factory=list)
    """What is not."""

    def archive(self) -> bytes:
        """Return all files as a zip archive, which is the same for the same files."""
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            for place in sorted(self.files):
                entry = zipfile.ZipInfo(place, EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, self.files[place].read_bytes())
        return stream.getvalue()

    def told(self) -> list[str]:
        """Return a line for each folder."""
        return [f"Your modules come along: {', '.join(names)} (from {folder})" for folder, names in self.names.items()]


def local_modules(path: Iterable[str] | None = None, main: str | None = None) -> Modules:
    """Return the modules and packages in folders of ``sys.path`` that belong to no installation.

    Of a folder, that is each ``.py`` file and each folder with an ``__init__.py``, as Python can import them by name;
    without what git and ``.ropewalkignore`` leave out, and without the running script, which Dask sends by itself.

    Args:
        path: By default ``sys.path``.
        main: Path of the running script.
    """
    search = [Path(each or ".").resolve() for each in (sys.path if path is None else path)]
    script = Path(main or getattr(sys.modules.get("__main__"), "__file__", None) or ".").resolve()
    files: dict[str, Path] = {}
    names: dict[Path, list[str]] = {}
    differences: list[Difference] = []
    installed = _installed()
    own = [folder for folder in dict.fromkeys(search) if folder.is_dir() and not _is_installed(folder, installed)]
    elsewhere = [str(folder) for folder in search if folder not in own]
    taken: set[str] = set()
    for folder in own:
        found = [each for each in _importable(folder) if each not in taken and not _known(each, folder, elsewhere)]
        taken |= set(found)
        grouped = _files_of(folder, found, script)
        for name, file in _unreadable(grouped).items():
            del grouped[name]
            differences.append(_locked(name, file))
        large = _too_large(grouped, MAX_BYTES - _size(files.values()))
        differences += [_large(name, folder, _size(grouped.pop(name).values())) for name in large]
        if grouped:
            names[folder] = sorted(grouped)
            files |= {place: file for each in grouped.values() for place, file in each.items()}
    return Modules(files, names, differences)


def _installed() -> list[Path]:
    """Return the folders of Python, of what is installed for it, and of projects that are installed from a folder."""
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")]
    sites = [*site.getsitepackages(), site.getusersitepackages()]
    programs = [str(Path(prefix) / "bin") for prefix in {sys.prefix, sys.base_prefix, "/usr", "/usr/local"}]
    return [Path(each).resolve() for each in (*paths, *sites, *programs, *_editable(sites))]


def _editable(sites: Iterable[str]) -> list[str]:
    """Return what ``.pth`` files add to ``sys.path``: projects that are installed from a folder."""
    found = []
    for file in (each for folder in sites for each in Path(folder).glob("*.pth")):
        try:
            lines = file.read_text("utf-8", errors="replace").splitlines()
        except OSError:
            continue
        named = (line.strip() for line in lines if line.strip() and not line.startswith(("#", "import")))
        found += [str(file.parent / each) for each in named]
    return found


def _is_installed(folder: Path, installed: Iterable[Path]) -> bool:
    inside = any(part in ("site-packages", "dist-packages") for part in folder.parts)
    return inside or folder in installed or folder.is_relative_to(_standing()) or folder == Path(folder.anchor)


@cache
def _standing() -> Path:
    """Return the folder of Python's own modules, which takes half a millisecond to find out."""
    return Path(sysconfig.get_path("stdlib")).resolve()


def _importable(folder: Path) -> list[str]:
    found = set()
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                name, dot, ending = entry.name.partition(".")
                module = ending == "py" if dot else os.path.isfile(os.path.join(entry.path, "__init__.py"))  # noqa: PTH113, PTH118 - of many files, quickly
                if module and name.isidentifier():
                    found.add(name)
    except OSError:
        return []
    return sorted(found - _NOT_SENT - sys.stdlib_module_names)


def _known(name: str, folder: Path, elsewhere: list[str]) -> bool:
    """Whether the same files are installed, from this very folder: nodes have them as a package."""
    finders = [each for each in sys.meta_path if each not in (BuiltinImporter, FrozenImporter, PathFinder)]
    specs = [PathFinder.find_spec(name, elsewhere)]
    for finder in finders:
        try:
            specs.append(finder.find_spec(name, None))
        except Exception:  # noqa: BLE001, S112 - somebody else's finder; it does not know this one
            continue
    return any(
        spec is not None and spec.origin and Path(spec.origin).resolve().is_relative_to(folder) for spec in specs
    )


def _files_of(folder: Path, names: list[str], script: Path) -> dict[str, dict[str, Path]]:
    """Return the files of modules and packages, by name and by their place."""
    if not names:
        return {}
    both = [each for name in names for each in (name, f"{name}.py") if (folder / each).exists()]
    grouped: dict[str, dict[str, Path]] = {}
    for file in project_files(folder, only=both):
        place = file.relative_to(folder).as_posix()
        if file != script:
            grouped.setdefault(place.partition("/")[0].removesuffix(".py"), {})[place] = file
    return grouped


def _unreadable(grouped: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
    """Return the names to leave out since this program may not read them, each with the first such file."""
    found = {
        name: next((file for file in files.values() if not os.access(file, os.R_OK)), None)
        for name, files in grouped.items()
    }
    return {name: file for name, file in found.items() if file is not None}


def _locked(name: str, file: Path) -> Difference:
    why = f"{file} cannot be read by this program, so it stays here. Allow that, or name it in {IGNORE_FILE}."
    return Difference(name=name, level="warning", why=why)


def _too_large(grouped: Mapping[str, Mapping[str, Path]], room: int) -> list[str]:
    """Return the names to leave out, the largest first, so that the others have room."""
    sizes = {name: _size(files.values()) for name, files in grouped.items()}
    left = []
    for name in sorted(sizes, key=lambda each: -sizes[each]):
        if sum(sizes.values()) <= room:
            break
        left.append(name)
        del sizes[name]
    return left


def _size(files: Iterable[Path]) -> int:
    return sum(file.stat().st_size for file in files)


def _large(name: str, folder: Path, size: int) -> Difference:
    why = (
        f"With {size / 2**20:.1f} MiB, {folder / name} is too large to come along: modules have {MAX_BYTES >> 20} MiB "
        f"together. Name data in {folder / IGNORE_FILE}, or make it a project and install it (pip install -e)."
    )
    return Difference(name=name, level="warning", why=why)


def digest(archive: bytes) -> str:
    """Return what an archive is called on nodes."""
    return hashlib.sha256(archive).hexdigest()[:16]
