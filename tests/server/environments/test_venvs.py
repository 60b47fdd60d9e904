"""Virtual environments made by the real uv, from a package index of our own that asks for a password."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import threading
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.environments import EnvironmentSpec, Lock
from ropewalk.server.environments.builder import BuildRequest, BuildResult, Credential, Target
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.venvs import VenvBuilder

PASSWORD = "canary-of-an-index"
TARGET = Target("local", "ca-1", "a-1", "linux/amd64")


class Index:
    """Serves tiny wheels called as Dask's packages are, to whoever knows the password."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[str, bytes] = {}
        for name in ("dask", "distributed"):
            self.add(name, "1.0")
        handler = type("Handler", (_Handler,), {"index": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/simple"

    def add(self, name: str, version: str, **more: str) -> None:
        file = f"{name}-{version}-py3-none-any.whl"
        about = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(self.folder / file, "w") as archive:
            archive.writestr(f"{name}/__init__.py", f"VERSION = {version!r}\n")
            archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            for path, text in more.items():
                archive.writestr(path, text)
            archive.writestr(f"{about}/RECORD", "".join(f"{each},,\n" for each in archive.namelist()))
        self.files[file] = (self.folder / file).read_bytes()

    def page(self, name: str) -> str:
        links = [
            f'<a href="/files/{file}#sha256={hashlib.sha256(content).hexdigest()}">{file}</a>'
            for file, content in self.files.items()
            if file.startswith(f"{name}-")
        ]
        return f"<!DOCTYPE html><html><body>{''.join(links)}</body></html>"


class _Handler(BaseHTTPRequestHandler):
    index: Index

    def do_GET(self) -> None:
        expected = "Basic " + base64.b64encode(f"reader:{PASSWORD}".encode()).decode()
        if self.headers.get("Authorization") != expected:
            self._answer(401, b"", {"WWW-Authenticate": "Basic"})
            return
        kind, _, name = self.path.strip("/").partition("/")
        content = self.index.files.get(name) if kind == "files" else self.index.page(name.strip("/")).encode()
        found = content is not None and (kind == "files" or b"<a" in content)
        self._answer(200 if found else 404, content or b"", {"Content-Type": "text/html"} if kind == "simple" else {})

    do_HEAD = do_GET  # noqa: N815 - the name that http.server looks for

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_arguments: Any) -> None:
        """Say nothing: a request that fails is what some tests are about."""


class Told:
    """What a builder said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def log(self, line: str) -> None:
        self.lines.append(line)

    async def event(self, message: str, **details: Any) -> None:
        self.lines.append(message)


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    folder = tmp_path / "index"
    folder.mkdir()
    made = Index(folder)
    thread = threading.Thread(target=made.server.serve_forever)
    thread.start()
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


class Workshop:
    """Builds with uv in a folder of its own."""

    def __init__(self, root: Path, index: Index) -> None:
        self.files = Files(root)
        self.index = index
        self.told = Told()

    async def build(
        self, *pip: str, password: str = PASSWORD, lock: Lock | None = None, isolated: bool = False, **more: Any
    ) -> BuildResult:
        fields = {"pip": ["dask", "distributed", *pip], "python": "3.11", "index_url": self.index.url, **more}
        known = [Credential("ours", self.index.url, "reader", password)]
        request = BuildRequest("eb-1", EnvironmentSpec(**fields), TARGET, known, lock=lock)
        return await VenvBuilder(self.files, isolated=isolated).build(request, self.told)


@pytest.fixture
def workshop(tmp_path: Path, index: Index) -> Workshop:
    return Workshop(tmp_path / "environments", index)


def everything(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def look_at(venv: Path) -> None:
    packages = next(venv.glob("lib/python3*/site-packages"))
    assert list(packages.glob("dask/__pycache__/*.pyc")), "nodes may not write there: compiled for them"
    assert not venv.stat().st_mode & 0o022
    assert packages.stat().st_mode & 0o005 == 0o005, "nodes with users of their own read it"
    assert PASSWORD.encode() not in everything(venv)


async def test_a_private_index_is_used_and_its_password_is_nowhere(workshop: Workshop, tmp_path: Path) -> None:
    result = await workshop.build()
    assert [(each.name, each.version) for each in result.lock.packages] == [("dask", "1.0"), ("distributed", "1.0")]
    assert result.path is not None
    venv = Path(result.path)
    await asyncio.to_thread(look_at, venv)
    assert PASSWORD not in "\n".join(workshop.told.lines) + result.lock.model_dump_json()
    assert [each.name for each in workshop.files.venvs.iterdir()] == [venv.name], "nothing half made is left"

    # The same is found; and from its lock the very same is made, although there is something newer.
    workshop.index.add("dask", "2.0")
    again = await workshop.build(lock=result.lock)
    assert (again.reused, again.path) == (True, result.path)
    newer = await workshop.build("dask>=2")
    assert newer.path != result.path

    # Elsewhere, where nothing is cached: what has disappeared is named, and what was changed is refused.
    elsewhere = Workshop(tmp_path / "elsewhere", workshop.index)
    workshop.index.add("dask", "1.0", **{"dask/extra.py": "changed = True\n"})
    with pytest.raises(FixItError, match=r"(?s)could not be installed.*dask"):
        await elsewhere.build(lock=result.lock)
    del workshop.index.files["dask-1.0-py3-none-any.whl"]
    with pytest.raises(FixItError, match=r"no version of dask==1\.0"):
        await elsewhere.build(lock=result.lock)
    assert not list(elsewhere.files.venvs.iterdir())


async def test_a_wrong_password_says_so_and_is_not_shown(workshop: Workshop) -> None:
    with pytest.raises(BackendError) as caught:
        await workshop.build(password="canary-that-is-wrong")
    assert (caught.value.field, type(caught.value)) == ("credentials", FixItError)
    assert "canary" not in str(caught.value) + "\n".join(workshop.told.lines)


async def test_commands_run_after_the_build_where_users_are_trusted(workshop: Workshop) -> None:
    run = [
        "python -c 'import sys; print(sys.prefix)'",
        'python -c "import dask; print(dask.VERSION)" > "$VIRTUAL_ENV/v"',
    ]
    result = await workshop.build(post_build=run)
    assert result.path is not None
    assert (Path(result.path) / "v").read_text() == "1.0\n"
    with pytest.raises(FixItError, match=r"status 3: sorry") as caught:
        await workshop.build(post_build=["echo sorry; exit 3"])
    assert caught.value.field == "post_build"
    with pytest.raises(FixItError, match="with the server's rights"):
        await workshop.build(post_build=run, isolated=True)
    with pytest.raises(FixItError, match=r"no Python 3\.99") as caught:
        await workshop.build(python="3.99")
    assert caught.value.field == "python"


async def test_a_wheel_with_paths_that_escape_writes_nothing_outside(workshop: Workshop, tmp_path: Path) -> None:
    workshop.index.add("evil", "1.0", **{"../../../../../../escaped.txt": "x", "/absolute-escaped.txt": "x"})
    with suppress(FixItError):
        await workshop.build("evil")
    assert not await asyncio.to_thread(lambda: list(tmp_path.rglob("escaped.txt")))
    assert not await asyncio.to_thread(Path("/absolute-escaped.txt").exists)
