"""The harness of the benchmarks, not the numbers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest
from benchmarks import __main__ as program
from benchmarks import imports, many, plots, server
from benchmarks.measure import Result, alternate, table
from benchmarks.program import bounded, end_nodes, ended_with_us, nodes, users_folder, wait_gone
from sqlalchemy import create_engine

from ropewalk.client.environment.modules import local_modules
from tests.support.waiting import PATIENCE, wait_until


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


def test_nothing_of_this_checkout_comes_along_to_the_nodes_that_are_measured() -> None:
    before = list(sys.path)
    assert "benchmarks" in [name for names in local_modules(main=__file__).names.values() for name in names]
    with users_folder():
        assert not local_modules(main=__file__).names
    assert sys.path == before


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


def test_a_wait_for_processes_ends_also_if_they_do_not() -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        wait_until(lambda: psutil.Process(process.pid).cmdline() == ["sleep", "60"])
        with pytest.raises(RuntimeError, match=r"sleep 60 \(\d+\) has outlived its cluster"):
            wait_gone([psutil.Process(process.pid)], within=0.05)
        process.kill()
        wait_gone([psutil.Process(process.pid)])  # a zombie, which nobody has taken note of


def _the_time_is_over() -> None:
    """Send what the timer would send: that may come anywhere on a busy machine."""
    assert 3000 < signal.getitimer(signal.ITIMER_REAL)[0] <= 3600
    os.kill(os.getpid(), signal.SIGALRM)
    signal.pause()


def test_a_benchmark_that_takes_too_long_is_broken_off_and_ends_what_it_began() -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)]
    with (
        pytest.raises(SystemExit, match="took too long"),
        bounded(3600),
        subprocess.Popen(["sleep", "60"]) as process,
        ended_with_us(process),
    ):
        _the_time_is_over()
    assert process.returncode == -signal.SIGTERM
    assert [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGTERM)] == handlers


def test_nodes_that_were_left_are_ended_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"PATH": os.environ["PATH"], "ROPEWALK_NODE": "i/c/worker/n", "TMPDIR": str(tmp_path / "local" / "tmp")}
    with subprocess.Popen(["sleep", "60"], env=environ) as node:
        wait_until(lambda: [process.pid for process in nodes(tmp_path)] == [node.pid])  # once it is sleep
        end_nodes(tmp_path)
        assert node.wait(PATIENCE) == -signal.SIGKILL
    assert capsys.readouterr().err.startswith("1 processes of nodes were left")
    end_nodes(tmp_path)
    assert capsys.readouterr().err == ""


def test_a_picture_shows_every_run_and_the_limit(tmp_path: Path) -> None:
    results = [
        {"name": "a<b", "ratio": 0.5, "limit": 0.4, "runs": {"ours": [1.0, 1.0], "theirs": [2.0, 2.0]}},
        {"name": "free", "ratio": 9.0, "limit": None, "runs": {"ours": [9.0], "theirs": [1.0]}},
        {"name": "memory", "value": 3.0, "limit": None, "runs": [3.0]},
    ]
    (tmp_path / "r.json").write_text(json.dumps(results))
    assert plots.main([str(tmp_path / "r.json"), "--to", str(tmp_path / "p.svg")]) == 0
    root = ET.fromstring((tmp_path / "p.svg").read_text())
    texts = ["".join(each.itertext()) for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "a<b" in texts
    assert "memory" not in texts
    dots = [float(each.attrib["cx"]) for each in root.iter("{http://www.w3.org/2000/svg}circle")]
    assert dots == [round(plots.x_of(part), 1) for part in (1, 1, 0.5, 0.5, 1, plots.WIDEST)]
    strokes = [each.attrib["stroke"] for each in root.iter("{http://www.w3.org/2000/svg}path")]
    assert strokes.count(plots.LIMIT) == 1


def test_statements_are_counted_but_for_the_beginnings_of_transactions(tmp_path: Path) -> None:
    count = many.Count()
    try:
        engine = create_engine("sqlite://")
        with engine.connect() as connection:
            for statement in ("BEGIN", "SELECT 1", "SELECT 2"):
                connection.exec_driver_sql(statement)
        engine.dispose()
    finally:
        count.stop()
    count.write(tmp_path)
    assert (tmp_path / many.FILE).read_text() == "2"


def test_a_server_with_pretended_clusters_is_measured() -> None:
    names = [result.name for result in server.many(runs=1, clusters=2, idle=0.2)]
    assert names == [
        *("server_memory_with_clusters", "idle_queries_per_minute", "list_requests_per_second", "list_p99"),
        "list_vs_bare_query",
    ]
