"""Credentials that are lent reach the workers of a real cluster, those that join later, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from distributed import Client

import ropewalk
from tests.client.conftest import LiveServer
from tests.support.waiting import PATIENCE, wait_until


def _looking() -> Callable[[], str | None]:
    # Inside a function, so that it is sent whole: nodes do not have this module.
    def look() -> str | None:
        import os  # noqa: PLC0415 - on the worker

        return os.environ.get("AWS_SESSION_TOKEN")

    return look


def _seen(client: Client, workers: int) -> list[str | None]:
    """Look in a task of each worker. What is not a task may run before a worker that joins has all that tasks have."""
    addresses = list(client.has_what())
    assert len(addresses) == workers
    return [client.submit(_looking(), workers=[each], pure=False).result(PATIENCE) for each in addresses]


def _contents(folder: Path) -> dict[Path, bytes]:
    """Return what is in all files; a server's come and go."""
    found = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # gone meanwhile, or no file
                found[Path(parent, name)] = Path(parent, name).read_bytes()
    return found


def test_workers_have_the_token_and_the_server_has_not(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret-1f6d")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token-93ab")
    with (
        ropewalk.Cluster(n_workers=1, wait_for_workers=True, credentials="local") as cluster,
        Client(cluster) as client,
    ):
        assert _seen(client, 1) == ["canary-token-93ab"]
        cluster.scale(2)
        wait_until(lambda: len(client.has_what()) == 2)
        assert _seen(client, 2) == ["canary-token-93ab"] * 2
        logs = cluster.get_logs()
    assert "canary" not in str(logs)
    kept = _contents(server.data)
    assert kept
    assert not [path for path, content in kept.items() if b"canary-" in content]


def test_without_being_asked_nothing_is_lent(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert server.url
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token-93ab")
    with (
        ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster,
        Client(cluster) as client,
    ):
        assert _seen(client, 1) == [None]
    assert os.environ["AWS_SESSION_TOKEN"]
