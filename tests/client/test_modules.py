"""Modules beside a script: imported by nodes of a real cluster, and anew when they were edited."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask.config
import pytest

import ropewalk
from tests.client.conftest import SMALL, LiveServer


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a program runs in, as Python puts it on its path."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "__init__.py").write_text("")
    (tmp_path / "beside" / "factor.txt").write_text("2")
    (tmp_path / "helping.py").write_text(
        "from pathlib import Path\n\nimport beside\n\n\ndef scaled(x):\n"
        "    return x * int((Path(beside.__file__).parent / 'factor.txt').read_text())\n"
    )
    installed = [each for each in sys.path if "site-packages" in each or "/lib/python3" in each]
    monkeypatch.setattr(sys, "path", [str(tmp_path), *installed])
    yield tmp_path
    for name in ("beside", "helping"):
        sys.modules.pop(name, None)


def test_modules_beside_a_script_are_imported_by_every_node_and_anew_when_they_were_edited(
    server: LiveServer, work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answers(client: Any, scaled: Any) -> set[int]:
        return {client.submit(scaled, 21, workers=[each], pure=False).result(60) for each in client.has_what()}

    helping = importlib.import_module("helping")
    with (
        dask.config.set({"ropewalk.sync_modules": True}),
        caplog.at_level("DEBUG", logger="ropewalk"),
        ropewalk.Cluster(1, name="with-modules", **SMALL) as cluster,  # type: ignore[arg-type] # sizes
        cluster.get_client() as client,
    ):
        assert f"Your modules come along: beside, helping (from {work})" in caplog.text
        assert answers(client, helping.scaled) == {42}
        cluster.scale(2)
        client.wait_for_workers(2, timeout=60)
        assert answers(client, helping.scaled) == {42}, "those that join later have them, too"
        (work / "helping.py").write_text("def scaled(x):\n    return -x\n")
        with ropewalk.Cluster(name="with-modules"):
            assert answers(client, helping.scaled) == {-21}
        assert importlib.import_module("dask").delayed(helping.scaled)(1).compute() == -1
