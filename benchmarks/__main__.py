"""The one entry point: ``python -m benchmarks NAME --json FILE [--runs N]``."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import dask.config

from benchmarks.measure import LEAST_RUNS, surroundings, table
from benchmarks.program import bounded

NAMES = ("aws", "environments", "imports", "kubernetes", "reach", "server", "startup", "web", "work")


LIMIT_SECONDS = 900.0
"""In which a benchmark must have ended; the longest, `work`, needs some ten minutes on two cores."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, write a file; returns 1 if something is above its limit."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results here, too")
    parser.add_argument("--runs", type=int, default=LEAST_RUNS, help=f"of each side; default and least: {LEAST_RUNS}")
    options = parser.parse_args(arguments)
    if options.runs < LEAST_RUNS:
        print(f"Fewer than {LEAST_RUNS} runs: good for a look, not for a statement.", file=sys.stderr)
    # The working directory is this repository, with hundreds of tests; `startup` has modules as people have them.
    dask.config.set({"ropewalk.sync_modules": False})
    with bounded(LIMIT_SECONDS):
        results = importlib.import_module(f"benchmarks.{options.name}").run(options.runs)
    if options.json is not None:
        noted = surroundings()
        options.json.write_text(json.dumps([{**result.record(), **noted} for result in results], indent=1) + "\n")
    print(table(results))
    return 0 if all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
