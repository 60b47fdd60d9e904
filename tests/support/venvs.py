"""Virtual environments of programs that must not share packages with Ropewalk, made once from files with hashes."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / ".cache"


class NoEnvironmentError(Exception):
    """It cannot be made here; says why."""


def python(name: str, requirements: Path) -> Path:
    """Return the Python of the virtual environment *name*, making it if there is none for these requirements."""
    home = CACHE / f"{name}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:12]}"
    if not (home / "ready").exists():
        CACHE.mkdir(exist_ok=True)
        with (CACHE / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (home / "ready").exists():
                _install(home, requirements)
    return home / "bin" / "python"


def _find_uv() -> str:
    """Return uv: of the caller, of ``PATH``, or the one that ``scripts/lib.sh`` fetched."""
    found = [os.environ.get("UV"), shutil.which("uv"), *sorted(map(str, CACHE.glob("uv-*/bin/uv")))]
    for uv in found:
        if uv and Path(uv).exists():
            return uv
    raise NoEnvironmentError("uv is needed to install packages, and was not found; run scripts/test once")


def _install(home: Path, requirements: Path) -> None:
    uv = _find_uv()
    shutil.rmtree(home, ignore_errors=True)
    interpreter = str(home / "bin" / "python")
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, str(home)],
        [uv, "pip", "install", "--quiet", "--python", interpreter, "--require-hashes", "-r", str(requirements)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise NoEnvironmentError(f"{requirements.name} could not be installed: {done.stderr.strip()[-500:]}")
    (home / "ready").touch()
