"""Draws results: ``python -m benchmarks.plots FILE.json... --to PICTURE.svg``.

One row for each ratio. Each dot is one run, in parts of the median of the other side; the short line is our median, the
long one what it may be.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

WIDTH, LABELS, ROW, TOP, MARGIN = 860, 280, 46, 46, 24
OURS, THEIRS, LIMIT, INK = "#1f6feb", "#8c959f", "#cf222e", "#24292f"
WIDEST = 2.0
"""Parts of the other side's median at the right edge; what is beyond is drawn there."""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.plots", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--to", type=Path, required=True, metavar="PICTURE.svg")
    options = parser.parse_args(arguments)
    results = [result for file in options.files for result in json.loads(file.read_text())]
    options.to.write_text(picture([result for result in results if "ratio" in result]))
    return 0


def picture(results: Sequence[Mapping[str, Any]]) -> str:
    """Return the drawing of *results*, all of them ratios."""
    height = TOP + ROW * len(results) + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        *_axis(height),
    ]
    for number, result in enumerate(results):
        parts += _row(result, TOP + ROW * number + ROW / 2)
    return "\n".join([*parts, "</svg>"]) + "\n"


def x_of(part: float) -> float:
    """Return where *part* of the other side's median is, in pixels."""
    return LABELS + (WIDTH - LABELS - MARGIN) * min(part, WIDEST) / WIDEST


def _axis(height: float) -> Iterable[str]:
    yield _text(LABELS, 16, "parts of the other side's median; blue: Ropewalk, grey: the other side, red: limit")
    for part in (0.0, 0.5, 1.0, 1.5, 2.0):
        yield _line(x_of(part), TOP - 6, height - MARGIN, "#d0d7de", 1)
        yield _text(x_of(part), TOP - 12, f"{part:g}", anchor="middle")


def _row(result: Mapping[str, Any], y: float) -> Iterable[str]:
    ours, theirs = result["runs"]["ours"], result["runs"]["theirs"]
    unit = statistics.median(theirs)
    yield _text(LABELS - 12, y + 4, result["name"], anchor="end")
    yield from _dots(theirs, unit, y + 8, THEIRS)
    yield from _dots(ours, unit, y - 8, OURS)
    yield _line(x_of(result["ratio"]), y - 16, y, OURS, 2)
    if result["limit"] is not None:
        yield _line(x_of(result["limit"]), y - 18, y + 18, LIMIT, 2)


def _dots(seconds: Iterable[float], unit: float, y: float, colour: str) -> Iterable[str]:
    for each in seconds:
        yield f'<circle cx="{x_of(each / unit):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}" fill-opacity="0.6"/>'


def _line(x: float, top: float, bottom: float, colour: str, width: int) -> str:
    return f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}" stroke-width="{width}"/>'


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} font-size="12" fill="{INK}">{escape(text)}</text>'


if __name__ == "__main__":
    raise SystemExit(main())
