"""A registry with a base image, and a builder that pushes to it."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from ropewalk.server.environments.builder import Target
from ropewalk.server.environments.oci.access import Access
from ropewalk.server.environments.oci.blobs import Blobs
from ropewalk.server.environments.oci.http import RegistryHttp
from ropewalk.server.environments.oci.maker import Destination
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Repository
from ropewalk.server.environments.oci.sources import Registries
from tests.support import registry as registries
from tests.support.registry import Proxy, Registry
from tests.support.waiting import PATIENCE


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry that asks for nothing, one for all tests of this process."""
    with registries.running(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def proxy(registry: Registry) -> Iterator[Proxy]:
    with registries.proxied(registry) as proxy:
        yield proxy


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


async def no_sleep(_: float) -> None:
    """Wait for nothing, in place of patience."""


@pytest.fixture
async def repository(proxy: Proxy) -> AsyncIterator[Repository]:
    """A repository behind the proxy, whose client loses no time."""
    found = opened(proxy.host, "team/images")
    yield found
    await found.aclose()


def opened(host: str, name: str, access: Access | None = None) -> Repository:
    http = RegistryHttp(host, access or Access(), no_sleep)
    return Repository(http, Reference(host, name))


@dataclass
class Said:
    """A report that remembers."""

    lines: list[str] = field(default_factory=list)
    events: list[str] = field(default_factory=list)

    def log(self, line: str) -> None:
        self.lines.append(line)

    async def event(self, message: str, **_: Any) -> None:
        self.events.append(message)


@pytest.fixture
def said() -> Said:
    return Said()


@dataclass(frozen=True)
class OnePlace:
    """All images go to one repository of a registry."""

    host: str
    name: str = "team/images"

    @contextlib.asynccontextmanager
    async def open(self, target: Target) -> AsyncIterator[Destination]:
        async with Registries(sleep=no_sleep).open(Reference(self.host, self.name)) as repository:
            yield Destination(repository, repository.reference, repository.has, repository)


def layer(files: Sequence[tuple[str, bytes | str]]) -> bytes:
    """Return a layer of files; text is where a link leads."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files:
            info = tarfile.TarInfo(name)
            info.mode = 0o755
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), 1, mtime=0)


def put_image(
    host: str, name: str, layers: Sequence[bytes], architecture: str = "amd64", config: dict[str, Any] | None = None
) -> str:
    """Push an image in the plainest way; return its digest."""
    described = {
        "os": "linux",
        "architecture": architecture,
        "config": config or {},
        "rootfs": {"type": "layers", "diff_ids": [_digest(gzip.decompress(data)) for data in layers]},
    }
    repository, _, tag = name.partition(":")
    with httpx.Client(base_url=f"http://{host}/v2/{repository}/", timeout=PATIENCE) as client:
        blobs = [_put(client, data) for data in (json.dumps(described).encode(), *layers)]
        kinds = [
            "application/vnd.oci.image.config.v1+json",
            *["application/vnd.oci.image.layer.v1.tar+gzip"] * len(layers),
        ]
        parts = [{"mediaType": kind, **blob} for kind, blob in zip(kinds, blobs, strict=True)]
        manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": parts[1:]}
        data = json.dumps(manifest).encode()
        client.put(f"manifests/{tag}", content=data, headers={"Content-Type": MANIFEST}).raise_for_status()
    return _digest(data)


MANIFEST = "application/vnd.oci.image.manifest.v1+json"


def _put(client: httpx.Client, data: bytes) -> dict[str, Any]:
    place = client.post("blobs/uploads/").raise_for_status().headers["Location"]
    url = httpx.URL(place).copy_merge_params({"digest": _digest(data)})
    client.put(url, content=data).raise_for_status()
    return {"digest": _digest(data), "size": len(data)}


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def put_index(host: str, name: str, images: dict[str, str]) -> None:
    """Push an index of images of one repository, by architecture."""
    repository, _, tag = name.partition(":")
    with httpx.Client(base_url=f"http://{host}/v2/{repository}/", timeout=PATIENCE) as client:
        entries = []
        for architecture, digest in images.items():
            size = len(client.get(f"manifests/{digest}", headers={"Accept": MANIFEST}).content)
            where = {"os": "linux", "architecture": architecture}
            entries.append({"mediaType": MANIFEST, "digest": digest, "size": size, "platform": where})
        kind = "application/vnd.oci.image.index.v1+json"
        value = {"schemaVersion": 2, "mediaType": kind, "manifests": entries}
        headers = {"Content-Type": kind}
        client.put(f"manifests/{tag}", content=json.dumps(value).encode(), headers=headers).raise_for_status()
