from __future__ import annotations

import io
import json
import logging
import warnings
from typing import Any

import pytest
import structlog

from ropewalk.server.logs import HIDDEN, configure_logs, redact_text

PEM = "-----BEGIN PRIVATE KEY-----\nMIGHAgEAMBMG\n-----END PRIVATE KEY-----"


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_logger_event_and_facts(logs: io.StringIO) -> None:
    structlog.get_logger("ropewalk.test").info("node.launched", node="w-1", count=2)
    (entry,) = entries(logs)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {"event": "node.launched", "level": "info", "logger": "ropewalk.test", "node": "w-1", "count": 2}


def test_the_standard_librarys_loggers_come_out_the_same_way(logs: io.StringIO) -> None:
    logging.getLogger("ropewalk.other").warning("token of %s: %s", "ada", "rwt_abcdefgh")
    (entry,) = entries(logs)
    assert entry["event"] == f"token of ada: rwt_{HIDDEN}"
    assert (entry["level"], entry["logger"]) == ("warning", "ropewalk.other")


def test_what_is_bound_to_the_request_is_in_every_line(logs: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(request_id="r-1", cluster="c-1"):
        structlog.get_logger().info("one")
        logging.getLogger("x").warning("two")
    assert [(e["request_id"], e["cluster"]) for e in entries(logs)] == [("r-1", "c-1")] * 2


def test_lines_below_the_level_are_left_out(logs: io.StringIO) -> None:
    structlog.get_logger("ropewalk").debug("quiet")
    logging.getLogger("uvicorn.error").info("Started server process")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    assert [e["event"] for e in entries(logs)] == ["Invalid HTTP request received."]


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "new_password",
        "token",
        "metrics_token",
        "Authorization",
        "cookie",
        "credentials",
        "secret",
        "encryption_key",
        "private_key",
        "setup_code",
        "device_code",
        "user_code",
        "environ",
    ],
)
def test_secrets_are_hidden_by_the_name_of_the_field(logs: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x", **{name: "canary", "nested": {name: ["canary"]}, "list": [{name: "canary"}]})
    assert "canary" not in logs.getvalue()
    assert entries(logs)[0][name] == HIDDEN


@pytest.mark.parametrize("name", ["exit_code", "status_code", "code", "token_id", "token_name", "tokens_made"])
def test_what_only_sounds_like_a_secret_is_shown(logs: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x", **{name: 70})
    assert entries(logs)[0][name] == 70


@pytest.mark.parametrize(
    ("text", "canary"),
    [
        ("got rwt_Ab-c_123456789 from ada", "Ab-c_123456789"),
        ("GET /join/rwi_Ab-c_123456789", "Ab-c_123456789"),
        ("Authorization: Bearer abcdefghijkl.mnop", "abcdefghijkl"),
        ("Authorization: Basic YWRhOmh1bnRlcjI=", "YWRhOmh1bnRlcjI"),
        ("connect to postgresql://ropewalk:hunter2@db/x failed", "hunter2"),
        (f"key {PEM} loaded", "MIGHAgEAMBMG"),
        (f"key {PEM[:50]}", "MIGHAgEAMBMG"),
    ],
)
def test_secrets_are_hidden_by_what_they_look_like(logs: io.StringIO, text: str, canary: str) -> None:
    structlog.get_logger().info(text, fact=text, nested={"a": [text]})
    assert canary not in logs.getvalue()
    assert HIDDEN in redact_text(text)


def test_a_traceback_is_logged_without_secrets(logs: io.StringIO) -> None:
    def refuse() -> None:
        raise RuntimeError("refused rwt_canarycanary")

    try:
        refuse()
    except RuntimeError:
        structlog.get_logger().exception("request.defect")
        logging.getLogger("x").exception("again")
    for entry in entries(logs):
        assert "RuntimeError: refused" in entry["exception"]
    assert "canary" not in logs.getvalue()


def test_bytes_and_odd_objects_do_not_break_a_line(logs: io.StringIO) -> None:
    structlog.get_logger().info("x", data=b"canary", thing=object(), number=float("nan"), names={"a"})
    (entry,) = entries(logs)
    assert entry["data"] == "6 bytes"
    assert entry["names"] == ["a"]


def test_warnings_of_libraries_become_lines(logs: io.StringIO) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # pytest records warnings by itself; logging is asked for the way that the interpreter does.
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old way", DeprecationWarning, stacklevel=1)
    assert any("old way" in entry["event"] for entry in entries(logs))


def test_text_is_one_line_without_colours_where_nobody_watches() -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    try:
        configure_logs("debug", "text", stream)
        structlog.get_logger("ropewalk").info("server.ready", url="http://127.0.0.1:8780", token="canary")
    finally:
        logging.captureWarnings(False)
        structlog.reset_defaults()
        root.handlers[:], root.level = handlers, level
    (line,) = stream.getvalue().splitlines()
    assert "server.ready" in line
    assert "url=http://127.0.0.1:8780" in line
    assert "canary" not in line
    assert "\x1b" not in line
