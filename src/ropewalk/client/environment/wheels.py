"""People's own code as wheels: files that exist, and projects that one is built of, again only when they changed."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

from ropewalk.errors import InputError
from ropewalk.schemas.environments import MAX_WHEEL, LocalWheel

__all__ = ["IGNORE_FILE", "Wheels", "find_uv", "project_files"]

IGNORE_FILE = ".ropewalkignore"
"""Patterns of files that are not sent, one a line, beside those of ``.gitignore``."""
BUILD_SECONDS = 600.0
"""A wheel of Python files takes a second; one with compiled parts takes minutes."""
EPOCH = "315532800"
"""1980-01-01, the first moment that a zip file can tell: the same files make the same wheel, bit for bit."""

_NEVER = (
    *(".git", ".hg", ".svn", "__pycache__", ".venv", "venv", ".tox", ".nox", ".mypy_cache", ".pytest_cache"),
    *(".ruff_cache", "node_modules", "build", "dist", "*.egg-info", "*.pyc", "*.pyo", ".DS_Store", ".env", "*.pem"),
)
"""What is no code, or must not leave this machine."""


class Wheels:
    """Wheels of one environment; ``files`` has each by its SHA-256."""

    def __init__(self) -> None:
        self._files: dict[str, Path] = {}

    @property
    def files(self) -> Mapping[str, Path]:
        return self._files

    def add(self, path: Path, *, version: str | None = None) -> LocalWheel:
        """Take a wheel, or build one of the project in a folder.

        Args:
            path: A file that ends with ``.whl``, or the folder of a project.
            version: What the project's version is, where that is told by its repository.

        Raises:
            InputError: It is neither, or cannot be built; says why.
        """
        path = path.expanduser().absolute()
        file = path if path.suffix == ".whl" and path.is_file() else _built(path, version)
        size = file.stat().st_size
        if size > MAX_WHEEL:
            raise InputError(
                f"The wheel {file.name} has {size / 2**20:.0f} MiB; at most {MAX_WHEEL >> 20} MiB can be sent.",
                advice=f"Leave data out of it: name files in {path / IGNORE_FILE}, one pattern a line.",
                field="wheels",
            )
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self._files[digest] = file
        return LocalWheel(filename=file.name, sha256=digest, size=size)


def _built(project: Path, version: str | None) -> Path:
    if not ((project / "pyproject.toml").is_file() or (project / "setup.py").is_file()):
        raise InputError(
            f"{project} is neither a wheel nor the folder of a project.",
            advice="Give a .whl file, or a folder with a pyproject.toml.",
            field="wheels",
        )
    files = list(project_files(project))
    kept = _cache() / _tree_hash(project, files, version)
    found = next(kept.glob("*.whl"), None) if kept.is_dir() else None
    return found or _build(project, files, version, kept)


def project_files(project: Path, only: Sequence[str] = ()) -> Iterator[Path]:
    """Return the files of a project that may be sent: what git does not ignore, or all but what is never code.

    Args:
        project: Its folder.
        only: Files and folders in it; by default all.
    """
    ignored = [*_NEVER, *_patterns(project)]
    tracked = _tracked(project, only)
    for path in sorted(_walked(project, ignored, only) if tracked is None else tracked):
        relative = path.relative_to(project)
        if path.is_file() and not any(_matches(relative, pattern) for pattern in ignored):
            yield path


def _patterns(project: Path) -> list[str]:
    try:
        lines = (project / IGNORE_FILE).read_text("utf-8").splitlines()
    except OSError:
        return []
    return [line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#")]


def _matches(relative: Path, pattern: str) -> bool:
    if "/" in pattern:
        below = pattern.lstrip("/")
        return fnmatch(relative.as_posix(), below) or fnmatch(relative.as_posix(), f"{below}/*")
    return any(fnmatch(part, pattern) for part in relative.parts)


def _tracked(project: Path, only: Sequence[str]) -> list[Path] | None:
    """Return what git knows of, and what is new and not ignored; None: it says nothing of this folder."""
    git = shutil.which("git")
    if git is None:
        return None
    listing = [git, "-C", str(project), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing += ["--", *(f":(literal){each}" for each in only)] if only else []
    done = subprocess.run(listing, capture_output=True, check=False)  # noqa: S603 - our own command
    if done.returncode != 0:
        return None  # no repository
    if not done.stdout:
        ignored = [git, "-C", str(project), "check-ignore", "--quiet", "."]
        if subprocess.run(ignored, capture_output=True, check=False).returncode == 0:  # noqa: S603 - our own command
            return None  # a folder that a repository around it leaves out
    return [project / os.fsdecode(name) for name in done.stdout.split(b"\0") if name]


def _walked(project: Path, ignored: list[str], only: Sequence[str]) -> list[Path]:
    found = [project / each for each in only if (project / each).is_file()]
    starts = [project / each for each in only] or [project]
    for folder, folders, files in (each for start in starts for each in os.walk(start)):
        folders[:] = [name for name in folders if not any(fnmatch(name, pattern) for pattern in ignored)]
        found += [Path(folder) / name for name in files]
    return found


def _tree_hash(project: Path, files: list[Path], version: str | None) -> str:
    total = hashlib.sha256(f"{version} {sys.version_info[:2]} {sys.platform}".encode())
    for path in files:
        total.update(f"\0{path.relative_to(project).as_posix()}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def _build(project: Path, files: list[Path], version: str | None, kept: Path) -> Path:
    """Build in a copy: what is ignored is not there, and nothing is written into the project."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix="build-") as folder:
        copy, made = Path(folder) / project.name, Path(folder) / "made"
        for path in files:
            target = copy / path.relative_to(project)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, target)
        made.mkdir()
        _run(_command(project, copy, made), project, version)
        wheel = next(made.glob("*.whl"), None)
        if wheel is None:
            raise _failed(project, "nothing was made")
        if not kept.exists():
            made.rename(kept)
        return kept / wheel.name


def _command(project: Path, source: Path, made: Path) -> list[str]:
    uv = find_uv()
    if uv is not None:
        return [uv, "build", "--wheel", "--no-config", "--python", sys.executable, "--out-dir", str(made), str(source)]
    if importlib.util.find_spec("pip") is None:
        why = f"that needs uv or pip, and {sys.prefix} has no pip, nor is there a uv. Install uv."
        raise _failed(project, why, "Or give a wheel that was built elsewhere.")
    return [sys.executable, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", str(made), str(source)]


def _run(command: list[str], project: Path, version: str | None) -> None:
    environ = {**os.environ, "SOURCE_DATE_EPOCH": EPOCH, "NO_COLOR": "1"}
    if version is not None:
        # Its repository is not in the copy, and would be asked for the version.
        environ["SETUPTOOLS_SCM_PRETEND_VERSION"] = version
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command, env=environ, capture_output=True, text=True, timeout=BUILD_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise _failed(project, str(exc)) from None
    if done.returncode != 0:
        raise _failed(project, (done.stderr or done.stdout).strip()[-2000:])


def _failed(project: Path, why: str, advice: str | None = None) -> InputError:
    advice = advice or f"See that `pip wheel {project}` works, or give a wheel."
    return InputError(f"No wheel could be built of {project}: {why}", advice=advice, field="wheels")


def find_uv() -> str | None:
    """Return the path of uv, if it is installed."""
    try:
        from uv import find_uv_bin  # noqa: PLC0415 - not a dependency of the client
    except ImportError:
        return shutil.which("uv")
    try:
        return find_uv_bin()
    except FileNotFoundError:
        return shutil.which("uv")


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ropewalk" / "wheels"
