"""The node program's own decisions: limits, adaptive target, configuration."""

from __future__ import annotations

import importlib.metadata
import io
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ropewalk.node import exits, main
from ropewalk.node.main import ConfigError, Limits, Target, read_config, versions

CONFIG = {"v": 1, "node": "n", "role": "worker", "listen": "tls://127.0.0.1:0", "tls": {}, "directory": "."}


def test_exit_statuses_are_the_same_for_those_who_cannot_import_the_program() -> None:
    names = [name for name in vars(exits) if name.startswith("EXIT_")]
    assert {name: getattr(main, name) for name in names} == {name: getattr(exits, name) for name in names}
    assert names == [name for name in vars(main) if name.startswith("EXIT_")]


def test_a_node_leaves_its_exit_status_where_it_is_found_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ended(_config: object) -> int:
        return exits.EXIT_IDLE

    monkeypatch.setattr(main, "run_worker", ended)
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(CONFIG | {"directory": str(tmp_path)}))
    assert main.main(["main.py", str(path)], {}) == exits.EXIT_IDLE
    assert (tmp_path / exits.EXIT_FILE).read_text() == str(exits.EXIT_IDLE)


def test_an_exit_status_that_cannot_be_left_hurts_nobody(tmp_path: Path) -> None:
    main.note_exit(str(tmp_path / "gone"), 0)


def test_an_idle_cluster_ends_after_its_timeout_and_not_before() -> None:
    limits = Limits({"idle_timeout": 60}, now=0)
    assert limits.exceeded(59, idle=True, clients=1) is None
    assert limits.exceeded(60, idle=True, clients=1) == ("idle_timeout", exits.EXIT_IDLE)


def test_work_starts_the_idle_time_anew() -> None:
    limits = Limits({"idle_timeout": 60}, now=0)
    limits.exceeded(59, idle=False, clients=1)
    assert limits.exceeded(118, idle=True, clients=1) is None
    assert limits.exceeded(119, idle=True, clients=1) is not None


def test_a_cluster_without_clients_ends_even_when_it_works() -> None:
    limits = Limits({"no_client_timeout": 60}, now=0)
    limits.exceeded(30, idle=False, clients=1)
    assert limits.exceeded(89, idle=False, clients=0) is None
    assert limits.exceeded(90, idle=False, clients=0) == ("no_client_timeout", exits.EXIT_NO_CLIENT)


def test_a_cluster_ends_at_its_age_whatever_it_does() -> None:
    limits = Limits({"cluster_timeout": 60, "idle_timeout": 60}, now=0)
    assert limits.exceeded(60, idle=False, clients=5) == ("cluster_timeout", exits.EXIT_LIFETIME)


def test_without_limits_a_cluster_lives_on() -> None:
    limits = Limits({"idle_timeout": None}, now=0)
    assert limits.exceeded(1e9, idle=True, clients=0) is None


def test_a_target_rises_at_once_and_falls_slowly() -> None:
    target = Target({"minimum": 1, "maximum": 5})
    assert target.update(0)
    assert target.value == 1
    assert target.update(9)
    assert target.value == 5
    assert [target.update(2) for _ in range(main.SHRINK_TICKS)] == [False, False, True]
    assert target.value == 2


def test_a_target_grows_by_doubling_and_shrinks_by_halving() -> None:
    target = Target({"minimum": 0, "maximum": 1000})
    grown = []
    while target.value != 1000:
        target.update(5000)
        grown.append(target.value)
    assert grown == [10, 20, 40, 80, 160, 320, 640, 1000]
    shrunk = [target.value for _ in range(3 * main.SHRINK_TICKS) if target.update(0)]
    assert shrunk == [500, 250, 125]


def test_new_bounds_hold_at_once() -> None:
    target = Target({"minimum": 0, "maximum": 10})
    target.update(10)
    target.bounds = {"minimum": 0, "maximum": 4}
    assert target.update(10)
    assert target.value == 4


def test_a_short_dip_does_not_lower_a_target() -> None:
    target = Target({"minimum": 0, "maximum": 5})
    target.update(4)
    for wanted in (1, 1, 4, 1, 1, 4):
        assert not target.update(wanted)
    assert target.value == 4


def test_without_bounds_there_is_no_target() -> None:
    target = Target(None)
    assert not target.update(3)
    assert target.value is None
    target.bounds = {"minimum": 2, "maximum": 2}
    assert target.update(0)
    target.bounds = None
    assert target.update(0)
    assert target.value is None


def test_the_configuration_is_read_from_a_file_standard_input_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(CONFIG)
    path = tmp_path / "config.json"
    path.write_text(text)
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert read_config(["main.py", str(path)], {}) == CONFIG
    assert read_config(["main.py", "-"], {}) == CONFIG
    assert read_config(["main.py"], {"ROPEWALK_NODE_CONFIG": text}) == CONFIG


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", json.dumps({**CONFIG, "v": 2}), json.dumps({**CONFIG, "role": "boss"})],
)
def test_an_unusable_configuration_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError) as refused:
        read_config(["main.py"], {"ROPEWALK_NODE_CONFIG": text})
    assert "boss" not in str(refused.value)


def test_an_unusable_configuration_ends_the_program_with_its_own_status(caplog: pytest.LogCaptureFixture) -> None:
    assert main.main(["main.py"], {}) == exits.EXIT_CONFIG
    assert "ROPEWALK_NODE_CONFIG" in caplog.text


def test_a_package_that_is_imported_says_its_version_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dask", SimpleNamespace(__version__="of what runs"))
    monkeypatch.setitem(sys.modules, "distributed", SimpleNamespace())
    found = versions(["dask", "distributed"])
    assert found["dask"] == "of what runs"
    assert found["distributed"] == importlib.metadata.version("distributed")


def test_versions_are_found_without_importing_and_without_what_is_not_there() -> None:
    found = versions(["dask", "surely-not-installed"])
    assert set(found) == {"python", "dask"}
