"""Tables, times, sizes and amounts, as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from ropewalk.cli import output

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0 s ago"),
        (59.9, "59 s ago"),
        (60, "1 min ago"),
        (3599, "59 min ago"),
        (7300, "2 h ago"),
        (86400 * 3, "3 d ago"),
        (-90, "in 1 min"),
    ],
)
def test_ages_are_shown_in_their_largest_unit(seconds: float, shown: str) -> None:
    assert output.age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_times_are_local_with_their_age() -> None:
    local = NOW.astimezone()
    assert output.when(NOW, NOW + timedelta(minutes=3)) == f"{local:%Y-%m-%d %H:%M:%S} (3 min ago)"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(2**30, "1 GiB"), (int(1.5 * 2**30), "1.5 GiB"), (512 * 2**20, "512 MiB"), (2**40, "1024 GiB")],
)
def test_sizes_have_the_unit_that_fits(number: int, shown: str) -> None:
    assert output.size(number) == shown


@pytest.mark.parametrize(
    ("amount", "shown"), [(0.0, "0.00 USD"), (1.234, "1.23 USD"), (0.0123, "0.0123 USD"), (0.1, "0.10 USD")]
)
def test_small_amounts_keep_their_digits(amount: float, shown: str) -> None:
    assert output.money(amount, "USD") == shown


def test_an_empty_table_says_so_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["A"], [], empty="There is nothing.")
    assert capsys.readouterr() == ("", "There is nothing.\n")


def test_cells_show_what_is_missing_and_stay_on_their_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["A", "B", "C", "D"], [[None, True, 1.0, "two\nlines [red]x[/red]"]], empty="")
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["-", "yes", "1", "two", "lines", "[red]x[/red]"]


def test_columns_are_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    output.table(["NAME", "N", "Z"], [["a", 1, "x"], ["long-name", 100, "y"]], right=["N"], empty="")
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.index("Z") == first.index("x") == second.index("y")
    assert first[: header.index("Z")].rstrip().endswith("  1")
    assert not any(line.endswith(" ") for line in (header, first, second))


@pytest.mark.parametrize("width", [30, 60, 80])
def test_a_narrow_terminal_folds_and_cuts_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    monkeypatch.setattr(output, "console", lambda: Console(width=width, highlight=False, markup=False, emoji=False))
    cells = ["weather/" + "n" * 40, "starting", "0.0123 USD", "the scheduler ended with exit code 70"]
    output.table(["CLUSTER", "STATE", "COST", "REASON"], [cells], empty="")
    shown = capsys.readouterr().out
    assert "…" not in shown
    assert max(len(line) for line in shown.splitlines()) <= width
    for letters in cells:
        for letter in set(letters) - {" "}:
            assert shown.count(letter) >= letters.count(letter)


@pytest.mark.parametrize(("ago", "shown"), [(timedelta(minutes=3), "(3 min ago)"), (timedelta(days=2), "(2 d ago)")])
def test_tables_show_the_part_of_a_time_that_matters(ago: timedelta, shown: str) -> None:
    local = (NOW - ago).astimezone()
    clock = f"{local:%H:%M:%S}" if local.date() == NOW.astimezone().date() else f"{local:%Y-%m-%d}"
    assert output.short(NOW - ago, NOW) == f"{clock} {shown}"


def test_lists_are_shown_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    output.facts([("From", ["10.0.0.0/8", "5.6.7.8/32"]), ("Peering", [])])
    shown = capsys.readouterr().out
    assert "10.0.0.0/8, 5.6.7.8/32" in shown
    assert "[" not in shown
