"""scripts/demo, as a newcomer runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.timeout(400)  # machines may be busy


@pytest.fixture
def taken() -> Iterator[None]:
    """Take the default port, unless somebody has it already."""
    with socket.socket() as listener:
        with suppress(OSError):
            listener.bind(("127.0.0.1", 8780))
            listener.listen()
        yield


def _start(cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [ROOT / "scripts" / "demo"],
        cwd=cwd, env={**os.environ, "DASK_CONFIG": str(cwd / "broken.yaml")}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def _left(home: str) -> list[list[str]]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            found.append(process.cmdline())
    return [command for command in found if any(home in part for part in command)]


def _home(output: str) -> str:
    """Return the name of the run's directory, which is in the command line of all its processes."""
    return output.split("its data is in ")[1].split("/data", maxsplit=1)[0]


def test_the_demo_computes_and_leaves_nothing(tmp_path: Path, taken: None) -> None:
    (tmp_path / "broken.yaml").write_text("ropewalk: [")
    with _start(tmp_path) as demo:
        output, _ = demo.communicate(timeout=350)
    assert demo.returncode == 0, output
    assert "port 8780 is taken, so another one is used" in output
    assert output.count("equal      by_") == 5
    assert "cluster.stopped" in output
    assert "no process is left" in output
    assert "docs/tutorial.md" in output
    assert not _left(_home(output))
    assert not (ROOT / _home(output)).exists()


def test_ctrl_c_in_the_middle_cleans_up(tmp_path: Path) -> None:
    seen = ""
    with _start(tmp_path) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            seen += line
            if "workers is ready" in line:
                os.killpg(demo.pid, signal.SIGINT)
                break
        seen += demo.communicate(timeout=350)[0]
    assert demo.returncode == 130, seen
    assert "no process is left" in seen
    assert not _left(_home(seen))
