"""What it costs to import the package and to ask the program for help, against importing distributed."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.measure import Result, alternate
from benchmarks.program import PROGRAM


def run(runs: int) -> list[Result]:
    """Measure whole processes, each after one that is not counted, so that both find warm disks."""
    python = [sys.executable, "-c"]
    sides = {name: [*python, f"import {name}"] for name in ("ropewalk", "distributed")}
    show = [PROGRAM, "--help"]
    for command in (*sides.values(), show):
        seconds(command)
    (imported,) = alternate(lambda: [seconds(sides["ropewalk"])], lambda: [seconds(sides["distributed"])], runs)
    (helped,) = alternate(lambda: [seconds(show)], lambda: [seconds(sides["distributed"])], runs)
    return [imported.ratio("import_ropewalk", 1.1), helped.ratio("help_vs_import", 0.5)]


def seconds(command: list[str]) -> float:
    """Return how long a program takes."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - our own programs
    return time.perf_counter() - began
