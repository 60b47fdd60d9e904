"""Credentials that are lent reach the workers of a real cluster, those that join later, too."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from distributed import Client

import ropewalk
from tests.client.conftest import LiveServer
from tests.support.waiting import wait_until


def _looking() -> Callable[[], str | None]:
    # Inside a function, so that it is sent whole: nodes do not have this module.
    def look() -> str | None:
        import os  # noqa: PLC0415 - on the worker

        return os.environ.get("AWS_SESSION_TOKEN")

    return look


def test_workers_have_the_token_and_the_server_has_not(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-1f6d")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token-93ab")
    with (
        ropewalk.Cluster(n_workers=1, wait_for_workers=True, credentials="local") as cluster,
        Client(cluster) as client,
    ):
        assert set(client.run(_looking()).values()) == {"canary-token-93ab"}
        cluster.scale(2)
        wait_until(lambda: len(cluster.observed) == 2)
        assert set(client.run(_looking()).values()) == {"canary-token-93ab"}
        logs = cluster.get_logs()
    assert "canary" not in str(logs)
    kept = [path for path in server.data.rglob("*") if path.is_file()]
    assert kept
    assert not [path for path in kept if b"canary-" in path.read_bytes()]


def test_without_being_asked_nothing_is_lent(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.url
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token-93ab")
    with (
        ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster,
        Client(cluster) as client,
    ):
        assert set(client.run(_looking()).values()) == {None}
    assert os.environ["AWS_SESSION_TOKEN"]
