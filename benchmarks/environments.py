"""Images of software environments, beside ``docker build`` with pip, on a container engine of our own.

Both sides make an image of the same packages upon the same base image, and put it into a registry on this machine.
Both have their downloads: ours in uv's cache, theirs as wheels in a folder that is mounted, so that pip asks no index
at all. Nothing else is warm: each of our runs begins with no layers but the base's, each of theirs with ``--no-cache``.
Starting the engine and the registry is not counted.
"""

from __future__ import annotations

import asyncio
import gzip
import importlib.metadata
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import httpx
from tests.images.conftest import MANIFEST, OnePlace, Said, put_image
from tests.support import engine, node_image, packages, registry
from tests.support.registry import Proxy

from benchmarks.measure import Result, alternate
from ropewalk.schemas.environments import EnvironmentSpec, LocalWheel
from ropewalk.server.environments import uv
from ropewalk.server.environments.builder import BuildRequest, BuildResult, Target
from ropewalk.server.environments.oci import base as bases
from ropewalk.server.environments.oci.blobs import Blobs
from ropewalk.server.environments.oci.layers import Entry, pack
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.sources import Registries

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
PACKAGES = tuple(f"{name}=={importlib.metadata.version(name)}" for name in ("dask", "distributed", "pandas"))
"""What a user of data frames has; numpy and others come with them."""
PIP = "pip"
"""The newest, as a plain Dockerfile has it."""
TARGET = Target("bench", "bench", "bench", "linux/amd64")
BUILD_LIMIT, SIZE_LIMIT, UNCHANGED_SECONDS = 0.5, 1.0, 1.0
DOCKERFILE = """FROM {base}
RUN --mount=type=bind,source=wheels,target=/wheels python -m pip install --root-user-action=ignore \\
    --disable-pip-version-check --no-cache-dir --no-index --find-links /wheels {packages}
"""
BUILD_SECONDS = 300.0
BASE_LAYERS = 2


@dataclass(frozen=True)
class World:
    """What both sides work with."""

    engine: engine.Engine
    host: str
    """Of the registry."""
    proxy: Proxy
    """Before the registry, which counts bytes. What is timed goes to the registry itself."""
    folder: Path

    @property
    def base(self) -> str:
        return f"{self.host}/base/python:{PYTHON}"

    @property
    def template(self) -> Path:
        """What a server has that has pulled the base, and nothing else."""
        return self.folder / "template"

    def builder(self, folder: Path, repository: str, host: str | None = None) -> ImageBuilder:
        return ImageBuilder(
            folder=folder,
            cache=lambda _: self.folder / "uv",
            places=OnePlace(host or self.host, repository),
            registries=Registries(),
            base=self.base,
        )

    def docker(self, *arguments: str) -> None:
        command = ["docker", "--host", f"unix://{self.engine.socket}", *arguments]
        environ = {"PATH": "/usr/bin:/bin:/usr/local/bin", "HOME": str(self.folder), "DOCKER_BUILDKIT": "1"}
        subprocess.run(command, check=True, capture_output=True, env=environ, timeout=BUILD_SECONDS)  # noqa: S603 - a fixed program

    def compressed(self, repository: str, tag: str) -> int:
        """Return the bytes of an image's layers without those of the base."""
        url = f"http://{self.host}/v2/{repository}/manifests/{tag}"
        kinds = f"{MANIFEST}, application/vnd.docker.distribution.manifest.v2+json"
        layers = httpx.get(url, headers={"Accept": kinds}).raise_for_status().json()["layers"]
        return sum(int(each["size"]) for each in layers[BASE_LAYERS:])


def run(runs: int) -> list[Result]:
    """Measure all of it."""
    with _world() as world:
        numbers = iter(range(runs + 1))
        sizes: dict[str, int] = {}

        def ours() -> Sequence[float]:
            number = next(numbers)
            folder = world.folder / f"ours-{number}"
            shutil.copytree(world.template, folder)
            begun = time.monotonic()
            result = _build(world.builder(folder, f"ours/{number}"), _request())
            taken = time.monotonic() - begun
            sizes["ours"] = world.compressed(f"ours/{number}", str(result.details["digest"]))
            shutil.rmtree(folder)
            return (taken, taken)

        def theirs() -> Sequence[float]:
            image = f"{world.host}/theirs/{time.monotonic_ns()}:1"
            begun = time.monotonic()
            world.docker("build", "--no-cache", "--network", "none", "--tag", image, str(world.folder / "context"))
            built = time.monotonic() - begun
            world.docker("push", image)
            pushed = time.monotonic() - begun
            repository, _, tag = image.partition("/")[2].rpartition(":")
            sizes["theirs"] = world.compressed(repository, tag)
            return (pushed, built)

        theirs()  # the context is sent once, and is then known to the engine
        whole, built = alternate(ours, theirs, runs)
        ratio = sizes["ours"] / sizes["theirs"]
        return [
            whole.ratio("build_vs_docker", BUILD_LIMIT),
            built.ratio("build_and_push_vs_docker_build_alone", None),
            Result("size_vs_docker", "1", SIZE_LIMIT, {side: [size] for side, size in sizes.items()}, ratio=ratio),
            *_unchanged(world, runs),
        ]


def _unchanged(world: World, runs: int) -> list[Result]:
    """Build the same again, and with one local package changed."""
    builder = world.builder(world.template, "again", world.proxy.host)
    one, two = (packages.make_wheel(world.folder / str(n), "ours", files={"ours.py": f"x = {n}\n"}) for n in (1, 2))
    request = _request(one)
    first = _build(builder, request)
    request = replace(request, lock=first.lock)
    seconds, before = [], world.proxy.sent
    for _ in range(runs):
        begun = time.monotonic()
        _build(builder, request)
        seconds.append(time.monotonic() - begun)
    sent = world.proxy.sent - before
    changed = _build(builder, _request(two))
    layers = [blob for blob in changed.details["sent_blobs"] if blob != _config(world, changed)]
    middle = sorted(seconds)[len(seconds) // 2]
    return [
        Result("bytes_unchanged", "bytes", 0, [sent], value=float(sent)),
        Result("unchanged", "s", UNCHANGED_SECONDS, seconds, value=middle),
        Result("layers_sent_for_one_changed_package", "layers", 1, [len(layers)], value=float(len(layers))),
    ]


def _config(world: World, result: BuildResult) -> str:
    url = f"http://{world.host}/v2/again/manifests/{result.details['digest']}"
    return str(httpx.get(url, headers={"Accept": MANIFEST}).raise_for_status().json()["config"]["digest"])


def _request(*wheels: Path) -> BuildRequest:
    own = {sha256(each.read_bytes()).hexdigest(): each for each in wheels}
    listed = [LocalWheel(filename=p.name, sha256=h, size=p.stat().st_size) for h, p in own.items()]
    spec = EnvironmentSpec(python=PYTHON, pip=list(PACKAGES), wheels=listed)
    return BuildRequest("bench", spec, TARGET, wheels=own)


def _build(builder: ImageBuilder, request: BuildRequest) -> BuildResult:
    return asyncio.run(builder.build(request, Said()))


@contextmanager
def _world() -> Iterator[World]:
    """Start the engine and the registry, and make what both sides begin with."""
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as name:
        folder = Path(name)
        with (
            registry.running(folder / "registry") as store,
            registry.proxied(store) as proxy,
            engine.running() as docker,
        ):
            world = World(docker, store.host, proxy, folder)
            _furnish(world)
            yield world


def _furnish(world: World) -> None:
    """Make the base image, with pip, and let both sides have it and all downloads."""
    pip, wheels = world.folder / "pip", world.folder / "context" / "wheels"
    wheels.mkdir(parents=True)
    _call([uv.find(), "pip", "install", "--quiet", "--python", sys.executable, "--target", str(pip), PIP])
    _call([sys.executable, str(pip / "pip"), "download", "--quiet", "--dest", str(wheels), *PACKAGES])
    (wheels.parent / "Dockerfile").write_text(DOCKERFILE.format(base=world.base, packages=" ".join(PACKAGES)))
    site = f"usr/local/lib/python{PYTHON}/site-packages"
    blobs = Blobs(world.folder / "base")
    files = [Entry(f"{site}/{each.relative_to(pip).as_posix()}", each) for each in pip.rglob("*") if each.is_file()]
    base = [gzip.compress(node_image.build(()).read_bytes(), 1), blobs.read(pack("pip", files, blobs).digest)]
    put_image(world.host, f"base/python:{PYTHON}", base, config={"Env": ["PATH=/usr/local/bin:/bin"]})
    world.docker("pull", world.base)
    _build(world.builder(world.folder / "warm", "warm"), _request())
    asyncio.run(_pull(world))


async def _pull(world: World) -> None:
    async with Registries().open(Reference.parse(world.base)) as repository:
        await bases.pull(repository, Platform.parse(TARGET.platform), Blobs(world.template / "blobs"), Said())


def _call(command: Sequence[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=BUILD_SECONDS)  # noqa: S603 - fixed programs
