"""Modules of the user's own: which come along, and what nodes do with them."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, cast

import dask
import pytest
from distributed.protocol.pickle import dumps, loads

from ropewalk.client.environment import modules, sync
from ropewalk.client.environment.bringing import _plugins, _putting
from ropewalk.client.environment.modules import digest, local_modules
from ropewalk.client.http import AsyncApi
from ropewalk.client.versions import VersionMismatchWarning
from ropewalk.schemas.clusters import ClusterCreate

if TYPE_CHECKING:
    from distributed.core import rpc


def write(folder: Path, **files: str) -> Path:
    """Write files; ``__`` in a name stands for a folder's ``/``, and ``_py`` at its end for ``.py``."""
    for name, content in files.items():
        path = folder / name.replace("_in_", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder as people have it: modules, a package with data, a script, notes, a folder that is no package."""
    return write(
        tmp_path / "work",
        helpers_dot_py="X = 1",
        script_dot_py="import helpers",
        setup_dot_py="",
        random_dot_py="",
        models_in___init___dot_py="",
        models_in_data_dot_json="{}",
        models_in___pycache___in_x_dot_pyc="",
        models_in_key_dot_pem="secret",
        data_in_big_dot_csv="1,2",
        **{"not-a-name_dot_py": "", "notes_dot_txt": ""},
    )


def test_what_python_imports_from_there_comes_along_and_nothing_else(work: Path) -> None:
    found = local_modules([str(work)], main=str(work / "script.py"))
    assert sorted(found.files) == ["helpers.py", "models/__init__.py", "models/data.json"]
    assert dict(found.names) == {work: ["helpers", "models"]}
    assert found.told() == [f"Your modules come along: helpers, models (from {work})"]
    assert found.differences == []
    again = local_modules([str(work)], main=str(work / "script.py"))
    assert again.archive() == found.archive(), "the same files make the same archive"
    (work / "helpers.py").write_text("X = 2")
    assert digest(local_modules([str(work)]).archive()) != digest(found.archive())


def test_what_is_installed_stays_where_it_is(work: Path) -> None:
    everything = [*sys.path, str(Path(sys.prefix) / "bin"), "/"]
    names = [name for each in local_modules(everything).names.values() for name in each]
    assert not {"ropewalk", "dask", "distributed", "pytest"} & set(names), (
        "of Python's folders and of editable projects"
    )
    first, second = write(work / "first", helpers_dot_py="X = 3"), work
    found = local_modules([str(first), str(second)])
    assert found.files["helpers.py"] == first / "helpers.py", "as Python would have it"
    assert found.names[second] == ["models", "script"]


def test_what_git_and_the_ignore_file_leave_out_stays_here(work: Path) -> None:
    subprocess.run(["git", "init", "-q", str(work)], check=True)
    (work / ".gitignore").write_text("helpers.py\n")
    (work / ".ropewalkignore").write_text("*.json\n")
    main = str(work / "script.py")
    assert sorted(local_modules([str(work)], main=main).files) == ["models/__init__.py"]
    (work / ".gitignore").write_text("*.py\n")
    assert not local_modules([str(work)], main=main).files, "all that could come along is ignored"
    (work / ".gitignore").write_text("scratch/\n")
    scratch = write(work / "scratch", mine_dot_py="")
    assert sorted(local_modules([str(scratch)]).files) == ["mine.py"], "a folder of its own in what git leaves out"


def test_what_is_too_large_is_told_and_the_rest_comes_along(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "MAX_BYTES", 2**20)
    (work / "models" / "data.json").write_bytes(b"x" * 2**21)
    found = local_modules([str(work)], main=str(work / "script.py"))
    assert sorted(found.files) == ["helpers.py"]
    (told,) = found.differences
    assert (told.name, told.level) == ("models", "warning")
    assert "With 2.0 MiB" in told.why
    assert ".ropewalkignore" in told.why


def test_what_may_not_be_read_is_told_and_the_rest_comes_along(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    access = os.access
    monkeypatch.setattr(os, "access", lambda file, mode: file != work / "models/data.json" and access(file, mode))
    found = local_modules([str(work)], main=str(work / "script.py"))
    assert sorted(found.files) == ["helpers.py"]
    (difference,) = found.differences
    assert (difference.name, difference.level) == ("models", "warning")
    assert str(work / "models/data.json") in difference.why


async def test_where_reading_fails_the_cluster_starts_without_them_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails() -> modules.Modules:
        raise PermissionError(13, "Permission denied", "helpers.py")

    monkeypatch.setattr(sync, "local_modules", fails)
    async with AsyncApi("http://127.0.0.1:1", "token") as api:
        software = sync.Software(api, sync=True, versions="warn", step=print, say=print)
        with dask.config.set({"ropewalk.sync_modules": True}):
            software.read_modules(ClusterCreate())
        tell = await software.bring(cast("rpc", None))  # of which nothing is asked
        with pytest.warns(
            VersionMismatchWarning, match=r"modules: They could not be .*Permission denied: 'helpers\.py'"
        ):
            tell()


def test_a_start_that_was_given_up_before_its_modules_are_read_leaves_no_error() -> None:
    given_up: Future[tuple[modules.Modules, bytes]] = Future()
    given_up.cancel()
    sync._packed(given_up)
    assert given_up.cancelled()


def test_a_node_imports_what_was_brought_last(work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    (work / "only_for_this_test.py").write_text("X = 1")

    def bring() -> types.ModuleType:
        archive = local_modules([str(work)]).archive()
        _putting(digest(archive))(str(tmp_path / "node"), archive)
        return importlib.import_module("only_for_this_test")

    assert bring().X == 1
    (work / "only_for_this_test.py").write_text("X = 2")
    assert bring().X == 2
    assert len([each for each in sys.path if "ropewalk-modules-" in each]) == 1
    (work / "only_for_this_test.py").write_text("X = 1")
    assert bring().X == 1, "back to what is there already"
    del sys.modules["only_for_this_test"]


def test_nodes_need_no_ropewalk_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    pickled = [dumps(each) for each in _plugins(b"an archive", "0")]  # type: ignore[no-untyped-call] # distributed's
    for name in [each for each in sys.modules if each.partition(".")[0] == "ropewalk"]:
        monkeypatch.setitem(sys.modules, name, None)  # as where it is not installed
    for each in pickled:
        assert each.count(b"an archive") == 1
        plugin = loads(each)  # type: ignore[no-untyped-call] # as above
        assert type(plugin).__name__ in ("ForScheduler", "ForWorkers")
