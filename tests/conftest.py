"""What every test gets: an environment without settings of the person who runs it, and a home of its own."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import dask.config
import pytest

from tests.support import kube_plane
from tests.support.aws_fixtures import aws, aws_double, aws_tasks, container_double, container_engine
from tests.support.kube_plane import Plane

__all__ = ["aws", "aws_double", "aws_tasks", "container_double", "container_engine"]


# The tests themselves are in the working directory; where modules are to come along, the test says so.
dask.config.set({"ropewalk.sync_modules": False})


def pytest_collection_finish() -> None:
    """Leave what is there for good out of each search for garbage: that took an eighth of the server's tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hide settings of the machine, and keep tests out of the home directory; return the test's own home."""
    for name in list(os.environ):
        if name.startswith(("ROPEWALK_", "DASK_")):
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


@pytest.fixture(scope="session")
def plane() -> Iterator[Plane]:
    """A real Kubernetes control plane, one for all tests of this process."""
    with kube_plane.plane() as made:
        yield made
