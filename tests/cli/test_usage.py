"""``ropewalk usage``, and ``ropewalk.usage``."""

from __future__ import annotations

import json
from datetime import date

import pytest

import ropewalk
from ropewalk.client.usage import local_zone
from ropewalk.errors import InputError
from ropewalk.schemas.usage import Usage, UsageRow
from tests.cli.conftest import NOW, FakeServer, Run

PATH = "/accounts/ada/usage"


def row(**values: object) -> UsageRow:
    given = {"currency": "USD", "cost": 1.5, "node_hours": 3, "core_hours": 6, "memory_gib_hours": 12}
    return UsageRow.model_validate({**given, "unpriced_core_hours": 0, **values})


def found(*rows: UsageRow, by: tuple[str, ...] = ("day",)) -> Usage:
    values = {"account": "ada", "first": "2026-03-01", "last": "2026-03-30", "zone": "UTC", "until": NOW, "tag": "team"}
    notes = ["4.0 core hours have no price."] if rows else []
    totals = [row(cost=3.0, core_hours=12)] if rows else []
    return Usage.model_validate({**values, "by": by, "rows": rows, "totals": totals, "tags": [], "notes": notes})


def test_a_table_has_the_sums_the_total_and_what_is_not_known(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, found(row(day=date(2026, 3, 1), member="mia"), by=("day", "member")))
    result = run("usage", "--by", "day", "--by", "member", "--first", "2026-03-01", "--zone", "Europe/Berlin")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["DAY", "MEMBER", "CORE", "HOURS", "GIB", "HOURS", "COST"]
    assert lines[1] == ["2026-03-01", "mia", "6.00", "12.00", "1.50", "USD"]
    assert (lines[2][0], lines[2][-2]) == ("total", "3.00")
    assert "Note: 4.0 core hours have no price." in result.stderr
    asked = server.requests[-1].url.params
    assert asked.get_list("by") == ["day", "member"]
    assert (asked["first"], asked["zone"]) == ("2026-03-01", "Europe/Berlin")


def test_csv_and_json_are_for_programs(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, found(row(tag="=1+1"), by=("tag",)))
    lines = run("usage", "--by", "tag", "--tag", "team", "--csv").stdout.splitlines()
    assert lines[0].startswith("tag:team,node_hours,core_hours")
    assert lines[1].startswith("'=1+1,3.0,6.0")
    assert json.loads(run("usage", "--json").stdout)["rows"][0]["cost"] == 1.5


def test_nothing_is_said_in_words_and_a_wrong_day_names_the_option(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, found())
    assert "Nothing ran from 2026-03-01 to 2026-03-30 (UTC)." in run("usage").stderr
    result = run("usage", "--last", "yesterday")
    assert (result.exit_code, "last is wrong" in result.stderr) == (2, True)


def test_the_function_asks_the_same(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Asia/Tokyo")
    server.answer("GET", PATH, found(row(member="mia"), by=("member",)))
    assert ropewalk.usage(by="member", last=date(2026, 3, 30)).rows[0].member == "mia"
    asked = server.requests[-1].url.params
    assert (asked["by"], asked["last"], asked["zone"]) == ("member", "2026-03-30", "Asia/Tokyo")
    with pytest.raises(InputError, match="by is wrong") as caught:
        ropewalk.usage(by="moon")
    assert caught.value.field == "by"
    monkeypatch.setenv("TZ", "")
    assert local_zone()
