"""scripts/* and .ci/run: they are sound, and CI refuses skips that nobody explained."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHELL = ["scripts/demo", "scripts/docs", "scripts/soak", "scripts/test", "scripts/lib.sh", ".ci/run"]
ALLOWED = "# a comment\n\ntests.unit.test_x::test_root* # needs a kernel that CI has not\n"


def _report(tmp_path: Path, kind: str = "pytest.skip") -> Path:
    report = tmp_path / "junit.xml"
    report.write_text(
        "<testsuites><testsuite>"
        '<testcase classname="tests.unit.test_x" name="test_fine"/>'
        '<testcase classname="tests.unit.test_x" name="test_root[a-1]">'
        f'<skipped type="{kind}" message="not root"/></testcase>'
        "</testsuite></testsuites>"
    )
    return report


def _check(report: Path, allowed: str, *, ci: str = "true") -> subprocess.CompletedProcess[str]:
    listing = report.with_name("allowed.txt")
    listing.write_text(allowed)
    return subprocess.run(
        [sys.executable, ROOT / "scripts" / "check_skips.py", report, listing],
        env={**os.environ, "CI": ci}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("script", SHELL)
def test_shell_scripts_parse(script: str) -> None:
    done = subprocess.run(["bash", "-n", ROOT / script], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SHELL)
def test_shell_scripts_pass_shellcheck(script: str) -> None:
    program = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run(
        [program, "--external-sources", script], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", ["scripts/demo", "scripts/soak", "scripts/test", ".ci/run"])
def test_scripts_can_be_run(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)


def test_an_explained_skip_is_fine_in_ci(tmp_path: Path) -> None:
    assert _check(_report(tmp_path), ALLOWED).returncode == 0


def test_an_unexplained_skip_fails_ci_and_says_which(tmp_path: Path) -> None:
    done = _check(_report(tmp_path), "")
    assert done.returncode == 1
    assert "tests.unit.test_x::test_root[a-1]: not root" in done.stderr


def test_outside_ci_a_skip_is_no_failure(tmp_path: Path) -> None:
    assert _check(_report(tmp_path), "", ci="").returncode == 0


def test_an_expected_failure_is_no_skip(tmp_path: Path) -> None:
    assert _check(_report(tmp_path, "pytest.xfail"), "").returncode == 0


def test_the_list_needs_reasons(tmp_path: Path) -> None:
    done = _check(_report(tmp_path), "tests.unit.test_x::test_root*\n")
    assert done.returncode != 0
    assert "no reason" in done.stderr


def test_a_machine_without_python_is_told_what_to_install(tmp_path: Path) -> None:
    for program in ("dirname", "mkdir", "bash"):
        found = shutil.which(program)
        assert found is not None
        (tmp_path / program).symlink_to(found)
    done = subprocess.run(
        ["/bin/bash", "-c", f'root="{tmp_path}"; . "{ROOT}/scripts/lib.sh"; make_venv'],
        env={"PATH": str(tmp_path), "HOME": str(tmp_path)}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Python 3.11 or newer was not found" in done.stderr
