"""Measuring two sides in turns, and telling the outcome."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

LEAST_RUNS = 7
"""Medians of fewer runs are noise on a machine that does other things, too."""

PACKAGES = ("ropewalk", "dask", "distributed", "bokeh", "numpy", "pandas", "pyarrow", "sqlalchemy", "fastapi")


@dataclass(frozen=True, slots=True)
class Result:
    """One number: a *ratio* of medians of two sides, or a *value*, with what it was made of and what it may be.

    ``runs`` has the single measurements in seconds (of a ratio: of both sides), in the order in which they were made.
    """

    name: str
    unit: str
    limit: float | None
    runs: Any
    ratio: float | None = None
    value: float | None = None

    @property
    def number(self) -> float:
        return self.ratio if self.ratio is not None else self.value or 0.0

    @property
    def ok(self) -> bool:
        return self.limit is None or self.number <= self.limit

    def record(self) -> dict[str, Any]:
        """Return it as it is written to a file, with either ``ratio`` or ``value``."""
        return {key: value for key, value in asdict(self).items() if value is not None or key == "limit"}


@dataclass(slots=True)
class Sides:
    """Measurements of the same thing on two sides."""

    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def ratio(self, name: str, limit: float | None) -> Result:
        """Return how much ours takes of theirs, by the medians."""
        ratio = statistics.median(self.ours) / statistics.median(self.theirs)
        runs = {"ours": self.ours, "theirs": self.theirs}
        return Result(name, "1", limit, runs, ratio=ratio)


def alternate(
    ours: Callable[[], Sequence[float]], theirs: Callable[[], Sequence[float]], runs: int
) -> tuple[Sides, ...]:
    """Measure both sides in turns, which side is first changing each time, so that a slow spell hits both.

    Each call returns the same number of measurements (seconds); the result has :class:`Sides` for each of them.
    """
    found: tuple[Sides, ...] = ()
    for number in range(runs):
        first, second = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        one, two = first(), second()
        mine, other = (one, two) if number % 2 == 0 else (two, one)
        told = "; ".join(f"{a:.2f} s against {b:.2f} s" for a, b in zip(mine, other, strict=True))
        print(f"Round {number + 1} of {runs}: {told}", file=sys.stderr, flush=True)  # one that is broken off told it
        found = found or tuple(Sides() for _ in mine)
        for sides, a, b in zip(found, mine, other, strict=True):
            sides.ours.append(a)
            sides.theirs.append(b)
    return found


def surroundings() -> dict[str, Any]:
    """Return the versions and the machine, which every number depends on."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    load = os.getloadavg()[0]
    return {"versions": versions, "system": platform.platform(), "cores": os.cpu_count(), "load": load}


def table(results: Iterable[Result]) -> str:
    """Return the results as text for people."""
    rows = [("name", "result", "limit", "")]
    for result in results:
        kind = "x" if result.ratio is not None else f" {result.unit}"
        limit = "-" if result.limit is None else f"{result.limit:g}"
        rows.append((result.name, f"{result.number:.3g}{kind}", limit, "" if result.ok else "ABOVE THE LIMIT"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
