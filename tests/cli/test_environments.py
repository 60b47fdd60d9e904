"""``ropewalk env``: what a terminal shows of software environments."""

from __future__ import annotations

import pytest

from ropewalk.schemas.environments import Environment
from tests.cli.conftest import NOW, FakeServer, Run


@pytest.mark.parametrize(
    ("version", "latest", "state", "shown"),
    [
        (1, 1, "ready", ["1", "ready"]),
        (1, 2, "failed", ["1", "version", "2", "failed"]),
        (None, 1, "failed", ["-", "failed"]),
    ],
)
def test_the_list_says_which_version_clusters_get_and_how_the_newest_is(
    run: Run, server: FakeServer, version: int | None, latest: int, state: str, shown: list[str]
) -> None:
    known = {"id": "e-1", "name": "etl", "account": "ada", "private": False, "managed": False, "creator": "ada"}
    times = {"reason": None, "created_at": NOW, "updated_at": NOW}
    found = Environment.model_validate({**known, **times, "version": version, "latest": latest, "state": state})
    server.answer("GET", "/accounts/ada/environments", [found])
    line = run("env", "list").stdout.splitlines()[1].split()
    assert line[: 1 + len(shown)] == ["etl", *shown]
    assert line[1 + len(shown)] == "ada"
