from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import spawners
from tests.support.installation import Installation, copied, made, python_path


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A data directory to copy, and its user's token."""
    return made(tmp_path_factory.mktemp("template") / "data")


@pytest.fixture
def installation(template: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Installation]:
    monkeypatch.setenv("PYTHONPATH", python_path())
    with copied(template, tmp_path / "data") as found:
        yield found


@pytest.fixture(scope="package", autouse=True)
def no_warm_parent_left() -> Iterator[None]:
    yield
    spawners.close_all()
