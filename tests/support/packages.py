"""Small wheels, made for a test, and indexes and channels that serve them over HTTP."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

_INFO = "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n"


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes | str] | None = None,
    requires: Sequence[str] = (),
    tag: str = "py3-none-any",
    scripts: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel; without *files* it holds one module. Names of files are not checked: they may be evil."""
    contents = {k: v.encode() if isinstance(v, str) else v for k, v in (files or {}).items()}
    contents = contents or {f"{name}/__init__.py": f"__version__ = '{version}'\n".encode()}
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    contents[f"{info}/METADATA"] = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}".encode()
    contents[f"{info}/WHEEL"] = _INFO.format(tag=tag).encode()
    if scripts:
        lines = "".join(f"{script} = {where}\n" for script, where in scripts.items())
        contents[f"{info}/entry_points.txt"] = f"[console_scripts]\n{lines}".encode()
    record = [f"{key},sha256={_hash(data)},{len(data)}" for key, data in contents.items()]
    contents[f"{info}/RECORD"] = "\n".join([*record, f"{info}/RECORD,,", ""]).encode()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for key, data in contents.items():
            archive.writestr(zipfile.ZipInfo(key), data)
    return path


def _hash(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()


def make_conda_package(
    channel: Path,
    name: str,
    version: str = "1.0",
    files: Mapping[str, bytes | str] | None = None,
    *,
    subdir: str = "noarch",
    noarch: str | None = "python",
    depends: Sequence[str] = (),
    placeholders: Mapping[str, tuple[str, str]] | None = None,
    entry_points: Sequence[str] = (),
    build: str = "0",
) -> Path:
    """Add a package to a channel. Of *files*, text is where a link leads; *placeholders*: file → mode, prefix."""
    contents = dict(files or {})
    index: dict[str, object] = {"name": name, "version": version, "build": build, "build_number": 0}
    index |= {
        "depends": list(depends),
        "subdir": subdir,
        **({"noarch": noarch} if noarch and subdir == "noarch" else {}),
    }
    paths = []
    for key, data in contents.items():
        raw = data if isinstance(data, bytes) else b""
        fact: dict[str, object] = {"_path": key, "path_type": "hardlink" if isinstance(data, bytes) else "softlink"}
        fact |= {"sha256": hashlib.sha256(raw).hexdigest(), "size_in_bytes": len(raw)}
        if placeholders and key in placeholders:
            fact["file_mode"], fact["prefix_placeholder"] = placeholders[key]
        paths.append(fact)
    contents["info/index.json"] = json.dumps(index).encode()
    contents["info/paths.json"] = json.dumps({"paths": paths, "paths_version": 1}).encode()
    link = {"noarch": {"type": "python", "entry_points": list(entry_points)}, "package_metadata_version": 1}
    contents["info/link.json"] = json.dumps(link).encode()
    path = channel / subdir / f"{name}-{version}-{build}.tar.bz2"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:bz2") as archive:
        for key, data in contents.items():
            member = tarfile.TarInfo(key)
            if isinstance(data, str):
                member.type, member.linkname = tarfile.SYMTYPE, data
                archive.addfile(member)
            else:
                member.size, member.mode = len(data), 0o755 if "bin/" in key else 0o644
                archive.addfile(member, io.BytesIO(data))
    _list(channel, subdir, path, index)
    return path


def _list(channel: Path, subdir: str, path: Path, index: Mapping[str, object]) -> None:
    for each in {subdir, "noarch", "linux-64", "linux-aarch64"}:
        listing = channel / each / "repodata.json"
        listing.parent.mkdir(parents=True, exist_ok=True)
        empty: dict[str, Any] = {"info": {"subdir": each}, "packages": {}, "packages.conda": {}, "repodata_version": 1}
        value = json.loads(listing.read_text()) if listing.exists() else empty
        if each == subdir:
            data = path.read_bytes()
            hashes = {"sha256": hashlib.sha256(data).hexdigest(), "md5": hashlib.md5(data).hexdigest()}
            value["packages"][path.name] = {**index, **hashes, "size": len(data)}
        listing.write_text(json.dumps(value))


class Site:
    """A folder that is served over HTTP: ``/simple/`` as an index of the wheels in it, all else as it is."""

    def __init__(self, root: Path, login: tuple[str, str] | None = None) -> None:
        self.root = root
        self.login = login
        self.requests: list[str] = []
        self.url = ""

    def answer(self, path: str, authorization: str | None) -> tuple[int, bytes]:
        """Return status and body for a path."""
        self.requests.append(path)
        if self.login is not None:
            wanted = base64.b64encode(":".join(self.login).encode()).decode()
            if authorization != f"Basic {wanted}":
                return 401, b"log in"
        if path.startswith("/simple/"):
            return self._listing(path.removeprefix("/simple/").strip("/"))
        found = (self.root / path.lstrip("/")).resolve()
        if not found.is_relative_to(self.root.resolve()) or not found.is_file():
            return 404, b""
        return 200, found.read_bytes()

    def _listing(self, name: str) -> tuple[int, bytes]:
        found = sorted(
            each for each in self.root.glob("*.whl") if each.name.split("-")[0].lower() == name.replace("-", "_")
        )
        if not found:
            return 404, b""
        links = "".join(
            f'<a href="/{each.name}#sha256={hashlib.sha256(each.read_bytes()).hexdigest()}">{each.name}</a>\n'
            for each in found
        )
        return 200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode()


@contextlib.contextmanager
def served(root: Path, login: tuple[str, str] | None = None) -> Iterator[Site]:
    """Serve a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = False
    site = Site(root, login)
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    server.site = site  # type: ignore[attr-defined] # for its handlers
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        site: Site = self.server.site  # type: ignore[attr-defined] # set by served()
        status, data = site.answer(self.path.partition("?")[0], self.headers.get("Authorization"))
        self.send_response(status)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="tests"')
        kind = "text/html" if self.path.startswith("/simple/") else "application/octet-stream"
        self.send_header("Content-Type", kind)
        if status == 200 and kind != "text/html":
            self.send_header("Cache-Control", "max-age=3600")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            with contextlib.suppress(ConnectionError):  # uv breaks off when it knows enough
                self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815 - the name of http.server

    def log_message(self, *_: object) -> None: ...
