"""A real server, real clusters, and Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from ropewalk.client import calls
from ropewalk.schemas.clusters import ClusterCreate, ClusterDetail
from tests.client.conftest import LiveServer
from tests.support.waiting import PATIENCE, wait_until

__all__ = ["LiveServer"]

ARTEFACTS = Path(__file__).parents[2] / "artefacts" / "browser"
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser for one module: Playwright keeps an event loop running, with which no test of coroutines could run."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("Chromium is not installed; to have it: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, headless=True, args=list(FLAGS), timeout=2 * PATIENCE * 1000
        )
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """A browser that nobody has used."""
    made = new_context(chromium, viewport={"width": 1280, "height": 900})
    yield made
    made.close()


def new_context(chromium: Browser, **options: Any) -> BrowserContext:
    """Return a browser that nobody has used, with patience for a busy machine."""
    made = chromium.new_context(**options)
    made.set_default_timeout(PATIENCE * 1000)
    return made


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    made = LiveServer(tmp_path_factory.mktemp("server"))
    try:
        made.start()
        made.set_up()
        yield made
        made.stop_clusters()
    finally:
        made.kill_everything()


@pytest.fixture(scope="module")
def clusters(server: LiveServer) -> tuple[ClusterDetail, ClusterDetail]:
    """Two clusters with a worker each."""
    return _cluster(server, "one"), _cluster(server, "two")


def _cluster(server: LiveServer, name: str) -> ClusterDetail:
    size = {"worker_cpu": 1, "worker_memory": "1 GiB", "scheduler_memory": "1 GiB"}
    wish = ClusterCreate.model_validate({"name": name, "n_workers": 1, **size})
    with server.api() as api:
        api(calls.create_cluster("ada", wish, reattach=False))

        def ready() -> ClusterDetail | None:
            found = api(calls.get_cluster("ada", name))
            return found if found.dashboard_link and found.workers_ready else None

        return wait_until(ready, within=2 * PATIENCE)  # type: ignore[return-value] # it waits until it is not None


def link(server: LiveServer, name: str) -> str:
    """Return a link with a ticket."""
    with server.api() as api:
        return api(calls.open_dashboard("ada", name)).url
