"""A whole server that may change users, and software environments: who may read them, and as whom their code runs."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.config
import httpx
import pytest
from distributed import Client

import ropewalk
from tests.support import isolated, packages
from tests.support.isolated_server import PASSWORD, server, token
from tests.support.packages import Site, make_wheel
from tests.support.server_process import ServerProcess
from tests.support.waiting import PATIENCE

__all__ = ["server"]
"""A fixture."""

pytestmark = pytest.mark.timeout(400)  # machines may be busy


@pytest.fixture
def seen() -> Path:
    """A folder in which code of a package notes as whom it runs."""
    folder = isolated.public_folder()
    folder.chmod(0o777)
    return folder


@pytest.fixture
def index(tmp_path: Path, seen: Path) -> Iterator[Site]:
    """An index whose dask and distributed are this machine's, with code that runs whenever their Python starts."""
    spying = f"import os; os.close(os.open({str(seen)!r} + '/%d' % os.geteuid(), os.O_CREAT, 0o666))\n"
    make_wheel(tmp_path / "index", "dask", files={"a_dask.pth": spying})
    make_wheel(tmp_path / "index", "distributed", files={"a_distributed.pth": f"{sysconfig.get_path('purelib')}\n"})
    with packages.served(tmp_path / "index") as site:
        yield site


def looking() -> Callable[[str | None], dict[str, str]]:
    """Return a function that is sent with all it is: nodes do not have this module."""

    def look(others: str | None) -> dict[str, str]:
        """Find out, in a task, what may be done with the own environment and with another one."""

        def attempt(action: Callable[[], Any]) -> str:
            try:
                return str(action())
            except Exception as exc:  # noqa: BLE001 - whatever it is, the test wants to know
                return type(exc).__name__

        own = sys.prefix
        found = {
            "user": str(os.getuid()),
            "prefix": own,
            "own code": attempt(lambda: __import__("ours").SECRET),
            "change a file": attempt(lambda: open(f"{own}/pyvenv.cfg", "a")),  # noqa: SIM115, PTH123 - it must fail
            "add a file": attempt(lambda: os.mkdir(f"{own}/lib/evil")),  # noqa: PTH102 - as above
            "rename it": attempt(lambda: os.rename(own, f"{own}-2")),  # noqa: PTH104 - as above
            "list all": attempt(lambda: os.listdir(os.path.dirname(own))),  # noqa: PTH120, PTH208 - a task has few imports
        }
        for name in ("pyvenv.cfg", "bin/python", "lib"):
            found[f"theirs/{name}"] = attempt(lambda path=f"{others}/{name}": os.stat(path))  # type: ignore[misc] # noqa: PTH116 - a default binds it now
        return found

    return look


@pytest.mark.filterwarnings("ignore::distributed.versions.VersionMismatchWarning")
def test_an_environment_is_read_by_its_account_written_by_nobody_and_never_run_by_root(
    server: ServerProcess, index: Site, seen: Path, tmp_path: Path
) -> None:
    def found_by(key: str, others: str | None = None, **software: Any) -> dict[str, str]:
        settings = {"ropewalk.server": server.url, "ropewalk.token": key, "ropewalk.versions": "ignore"}
        with dask.config.set(settings):
            ropewalk.create_software_environment(
                "env", pip=["dask", "distributed"], index_url=f"{index.url}/simple/", log_output=None, **software
            )
            with (
                ropewalk.Cluster(
                    n_workers=1, worker_memory="1 GiB", scheduler_memory="1 GiB", software="env"
                ) as cluster,
                Client(cluster) as client,
            ):
                found: dict[str, str] = client.submit(looking(), others).result()
                return found

    ada = token(server)
    own = make_wheel(tmp_path / "own", "ours", files={"ours.py": "SECRET = 'of-ada'\n"})
    hers = found_by(ada, wheels=[own])
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {ada}"}, timeout=PATIENCE) as root:
        wish = {"username": "bob", "password": PASSWORD}
        root.post("/api/v1/users", json=wish).raise_for_status()
    wish = {"username": "bob", "password": PASSWORD}
    login = httpx.post(f"{server.url}/api/v1/login", json=wish, timeout=PATIENCE)
    his = found_by(str(login.json()["token"]), hers["prefix"])

    assert hers["own code"] == "of-ada"
    assert his["own code"] == "ModuleNotFoundError"
    assert hers["prefix"] != his["prefix"]
    assert hers["user"] != his["user"]
    for found in (hers, his):
        refused = {what: found[what] for what in ("change a file", "add a file", "rename it", "list all")}
        assert set(refused.values()) == {"PermissionError"}, refused
    theirs = {what: how for what, how in his.items() if what.startswith("theirs/")}
    assert set(theirs.values()) == {"PermissionError"}, theirs
    ran_as = {path.name for path in seen.iterdir()}
    assert ran_as == {hers["user"], his["user"]}, "code of packages runs as its account's user, never as the server's"
