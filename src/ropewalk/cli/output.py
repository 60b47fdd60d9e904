"""What commands print: tables for people, JSON for programs, nothing that drives a terminal.

Rich is imported when something is printed: a third of the start-up time of a command that fails early.
"""

from __future__ import annotations

import contextlib
import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ropewalk.cli import state

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console
    from rich.table import Table

    from ropewalk.errors import RopewalkError
    from ropewalk.schemas.common import Event

PIPE_WIDTH = 10_000
"""Columns of a table that no terminal shows: nothing is folded or cut."""

LEAST_WIDTH = 12
"""Columns that the last column of a table has in a narrow terminal before the others have to fold, too."""

_CONTROL = re.compile(r"\x1b(?!\[[0-9;]*m)|[\x00-\x08\x0b-\x1a\x1c-\x1f\x7f-\x9f]")
"""Control characters except tab, line feed and colours: logs come from programs that we know nothing of."""


def console(*, stderr: bool = False) -> Console:
    """Return a console on standard output (or error) that never cuts what is piped."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False, markup=False, emoji=False
    )


def clean(text: str) -> str:
    """Return *text* without control characters that could rewrite a terminal's screen."""
    return _CONTROL.sub("", text)


def say(text: str) -> None:
    """Print a line for people; with ``--json`` it goes to standard error."""
    stream = sys.stderr if state.current.json else sys.stdout
    print(clean(text), file=stream, flush=True)


def note(text: str) -> None:
    """Print a remark to standard error."""
    print(clean(text), file=sys.stderr, flush=True)


def raw(text: str) -> None:
    """Print text that a program wrote, as it is."""
    sys.stdout.write(clean(text))
    sys.stdout.flush()


def dump(value: BaseModel | Sequence[BaseModel] | dict[str, Any], *, line: bool = False) -> None:
    """Print *value* as JSON; ``line``: on one line, for streams."""
    if isinstance(value, dict):
        data: Any = value
    elif isinstance(value, Sequence):
        data = [item.model_dump(mode="json") for item in value]
    else:
        data = value.model_dump(mode="json")
    print(json.dumps(data, indent=None if line else 2, ensure_ascii=False), flush=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str, right: Sequence[str] = ()) -> None:
    """Print rows under *headers*. In a narrow terminal the last column folds, then the others: nothing is cut.

    Args:
        headers: Titles.
        rows: Cells; None is shown as a dash.
        empty: Printed to standard error when there are no rows.
        right: Titles of the columns that are aligned to the right.
    """
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index, header in enumerate(headers):
        folds = index == len(headers) - 1
        made.add_column(header, justify="right" if header in right else "left", no_wrap=not folds, overflow="fold")
    for row in rows:
        made.add_row(*(Text(_cell(value), style=_style(value)) for value in row))
    if not made.row_count:
        note(empty)
        return
    target = console()
    if _width(target, made) + LEAST_WIDTH > target.width:
        for column in made.columns:
            column.no_wrap = False
    with target.capture() as capture:
        target.print(made)
    # Rich pads the last column, which only makes lines of piped output long.
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in capture.get().splitlines()))
    sys.stdout.flush()


def _width(target: Console, made: Table) -> int:
    """Return what all columns but the last need, with the space between them."""
    cells = [[column.header, *column.cells] for column in made.columns[:-1]]
    return sum(max(target.measure(cell).maximum for cell in column) + 2 for column in cells)


def events(found: Sequence[Event], *, empty: str, who: bool = False) -> None:
    """Print a timeline, oldest first, as it came; ``who``: with a column for the user who did it."""
    headers = ["TIME", "LEVEL", "CODE", *(["WHO"] if who else []), "WHAT HAPPENED"]
    rows = [
        [f"{e.time.astimezone():%Y-%m-%d %H:%M:%S}", e.level, e.code, *([e.actor] if who else []), e.message]
        for e in found
    ]
    table(headers, rows, empty=empty)


def event(found: Event) -> None:
    """Print one event of a stream on a line."""
    node = f"{found.node}: " if found.node else ""
    say(f"{found.time.astimezone():%H:%M:%S}  {found.code:<24}  {node}{found.message}")


@contextlib.contextmanager
def waiting(what: str, *, quiet: bool = False) -> Iterator[None]:
    """Show on a terminal that something takes its time; lines printed meanwhile appear above."""
    if quiet or not (sys.stderr.isatty() and sys.stdout.isatty()):
        yield
        return
    from rich.live import Live
    from rich.spinner import Spinner

    # On standard output as well, so that Rich moves the spinner out of the way of what is printed.
    with Live(Spinner("dots", what), console=console(), transient=True, refresh_per_second=8):
        yield


def facts(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    shown = [(name, when(value) if isinstance(value, datetime) else _cell(value)) for name, value in pairs]
    width = max(len(name) for name, _ in shown)
    for name, value in shown:
        print(f"{name:<{width}}  {value}", flush=True)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return short(value)
    if isinstance(value, list):
        return ", ".join(_cell(item) for item in value) or "-"
    return clean(f"{value:g}" if isinstance(value, float) else str(value)).replace("\n", " ")


_STYLES = {
    "ready": "green",
    "ok": "green",
    "starting": "yellow",
    "pending": "yellow",
    "stopping": "yellow",
    "warning": "yellow",
    "failed": "red",
    "lost": "red",
    "error": "red",
}


def _style(value: object) -> str:
    return _STYLES.get(str(value), "")


def when(moment: datetime, now: datetime | None = None) -> str:
    """Return local time and age: ``2026-03-01 14:05:09 (3 min ago)``."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({age(moment, now)})"


def short(moment: datetime, now: datetime | None = None) -> str:
    """Return what of local time and age matters in a table: ``14:05:09 (3 min ago)``, ``2026-02-01 (28 d ago)``."""
    local, today = moment.astimezone(), (now or datetime.now(UTC)).astimezone()
    shown = f"{local:%H:%M:%S}" if local.date() == today.date() else f"{local:%Y-%m-%d}"
    return f"{shown} ({age(moment, now)})"


def age(moment: datetime, now: datetime | None = None) -> str:
    """Return how long ago *moment* was, or in how long it will be, in its largest unit."""
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    size = duration(abs(seconds))
    return f"in {size}" if seconds < 0 else f"{size} ago"


def duration(seconds: float) -> str:
    """Return seconds in their largest unit, rounded down as ages are."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= length:
            return f"{int(seconds // length)} {unit}"
    return f"{int(seconds)} s"


def size(number: int) -> str:
    """Return bytes as people write them."""
    gib = number / 2**30
    return f"{gib:.4g} GiB" if gib >= 1 else f"{number / 2**20:.4g} MiB"


def money(amount: float, currency: str) -> str:
    """Return an amount with its currency; small amounts keep the digits that matter."""
    return f"{amount:.2f} {currency}" if amount == 0 or amount >= 0.1 else f"{amount:.4f} {currency}"


def error(exc: RopewalkError) -> None:
    """Tell an error on standard error: as JSON when the command writes JSON, otherwise message and advice."""
    if state.current.json:
        print(json.dumps({"error": exc.body()}, default=str, ensure_ascii=False), file=sys.stderr, flush=True)
        return
    from rich.text import Text

    text = Text.assemble(("Error: ", "bold red"), (clean(exc.message), "red"))
    if exc.advice:
        text.append(f"\n  {clean(exc.advice)}")
    console(stderr=True).print(text, soft_wrap=True)
