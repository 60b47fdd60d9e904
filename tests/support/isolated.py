"""What tests of isolated nodes need: the right to change users, and a Python that every user may run."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path

import pytest

_PROCESS = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
UID_BASE = 2_100_065_536 + 65_536 * _PROCESS
"""After the default range, so that nothing of a real server is touched, and another one in each process of the tests:
an account's files are removed when nobody else runs as its user."""


@cache
def interpreter() -> str:
    """Return an interpreter of our version with our packages, in a place that everybody may enter.

    Skips the test where there is none, or no right to use it.
    """
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can run programs as other users")
    base = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if base is None or _version(base) != sysconfig.get_python_version():
        pytest.skip("isolated nodes need a Python of this version outside of private directories")
    folder = public_folder()
    subprocess.run([base, "-m", "venv", "--without-pip", folder / "env"], check=True)
    packages = folder / "env" / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages" / "ours.pth"
    packages.write_text(sysconfig.get_path("purelib"))
    return str(folder / "env" / "bin" / "python")


def _version(python: str) -> str:
    code = "import sysconfig; print(sysconfig.get_python_version())"
    return subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def public_folder() -> Path:
    """Return a new directory that every user may enter, as /var/lib; pytest's own are private."""
    folder = Path(tempfile.mkdtemp(prefix="ropewalk-test-", dir="/tmp"))
    folder.chmod(0o755)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def data_dir() -> Path:
    """Return a new data directory, as private as a server makes it."""
    folder = public_folder() / "data"
    folder.mkdir(mode=0o700)
    return folder
