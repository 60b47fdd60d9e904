"""What an idle server costs: resident memory, with and without the process that nodes are forked from."""

from __future__ import annotations

import statistics

import psutil

from benchmarks.measure import Result
from benchmarks.program import server, wait_warm

MIB = 2**20


def run(runs: int) -> list[Result]:
    """Measure as many servers as *runs* says, one after the other."""
    alone, parents = [], []
    for _ in range(runs):
        with server() as here:
            wait_warm(here)
            process = psutil.Process(here.pid)
            alone.append(process.memory_info().rss / MIB)
            parents.append(sum(child.memory_info().rss for child in process.children()) / MIB)
    return [
        Result("server_memory", "MiB", None, alone, value=statistics.median(alone)),
        Result("warm_parent_memory", "MiB", None, parents, value=statistics.median(parents)),
    ]
