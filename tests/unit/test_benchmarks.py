"""The harness of the benchmarks, not the numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import __main__ as program
from benchmarks import imports
from benchmarks.measure import Result, alternate, table


def test_both_sides_take_turns_and_neither_is_always_first() -> None:
    calls: list[str] = []

    def side(name: str, *seconds: float) -> tuple[float, ...]:
        calls.append(name)
        return seconds

    start, end = alternate(lambda: side("ours", 1, 5), lambda: side("theirs", 2, 4), 3)
    assert calls == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert (start.ours, start.theirs, end.ours, end.theirs) == ([1] * 3, [2] * 3, [5] * 3, [4] * 3)


def test_a_ratio_is_of_medians_so_that_one_bad_run_does_not_count() -> None:
    seconds = iter([1.0, 1.0, 50.0])
    (sides,) = alternate(lambda: [next(seconds)], lambda: [2.0], 3)
    assert sides.ratio("name", 0.5).ratio == 0.5
    assert sides.ratio("name", 0.5).ok
    assert not sides.ratio("name", 0.4).ok


def test_the_table_marks_what_is_above_its_limit() -> None:
    text = table([Result("fast", "1", 0.4, [], ratio=0.2), Result("fat", "MiB", 10, [], value=20.0)])
    assert [line.split() for line in text.splitlines()] == [
        ["name", "result", "limit"],
        ["fast", "0.2x", "0.4"],
        ["fat", "20", "MiB", "10", "ABOVE", "THE", "LIMIT"],
    ]


def test_the_file_has_what_was_measured_where_and_with_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(imports, "seconds", lambda command: 0.5)
    assert program.main(["imports", "--runs", "1", "--json", str(tmp_path / "out.json")]) == 1
    first, second = json.loads((tmp_path / "out.json").read_text())
    assert {key: first[key] for key in ("name", "ratio", "unit", "limit", "runs")} == {
        "name": "import_ropewalk",
        "ratio": 1.0,
        "unit": "1",
        "limit": 1.1,
        "runs": {"ours": [0.5], "theirs": [0.5]},
    }
    assert "value" not in first
    assert first["versions"]["distributed"]
    assert second["name"] == "help_vs_import"
    said = capsys.readouterr()
    assert "ABOVE THE LIMIT" in said.out
    assert "Fewer than 7 runs" in said.err


def test_a_real_program_is_timed() -> None:
    assert 0 < imports.seconds(["true"]) < 60


@pytest.mark.parametrize("name", program.NAMES)
def test_every_name_is_a_module_that_can_be_run(name: str) -> None:
    assert callable(__import__(f"benchmarks.{name}", fromlist=["run"]).run)
