"""The builder of images: from a specification to an image in the registry of a cloud account, without a daemon.

Everything that was made or pulled is kept by its digest, and a manifest is put last, so asking again after a crash does
the rest only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.environments import EnvironmentSpec, Lock
from ropewalk.server.environments import resolve
from ropewalk.server.environments.builder import BuildRequest, BuildResult, BuildStep, Report, Target
from ropewalk.server.environments.oci import base as bases
from ropewalk.server.environments.oci import locking, wheels
from ropewalk.server.environments.oci.assemble import Assembly
from ropewalk.server.environments.oci.base import Base
from ropewalk.server.environments.oci.blobs import Blobs, digest_of, in_words
from ropewalk.server.environments.oci.channels import Channels
from ropewalk.server.environments.oci.image import Descriptor, Made, compose
from ropewalk.server.environments.oci.layers import Layer, pack
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.push import Early, Pushed, Store, push
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Repository
from ropewalk.server.environments.oci.sandbox import run_commands
from ropewalk.server.environments.oci.sources import Registries
from ropewalk.server.environments.oci.together import one_error
from ropewalk.server.environments.oci.usable import look

__all__ = ["Destination", "ImageBuilder", "Places"]

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Of images that say nothing, as container runtimes have it."""


@dataclass(frozen=True, slots=True)
class Destination:
    """The registry of a cloud account."""

    store: Store
    reference: Reference
    """The repository."""
    has: Callable[[str], Awaitable[bool]]
    """Whether it has an image with a digest. Raises BackendError when it cannot be told."""
    repository: Repository | None = None
    """The same, where blobs can be taken over from other repositories of the registry."""


class Places(Protocol):
    """Where images are pushed to."""

    def open(self, target: Target) -> AbstractAsyncContextManager[Destination]:
        """Open the registry of a cloud account. Raises FixItError: it has none."""
        ...


@dataclass(frozen=True, slots=True)
class ImageBuilder:
    """Implements :class:`~ropewalk.server.environments.builder.Builder` for cloud accounts with a registry."""

    folder: Path
    """For blobs and scratch files; on the disk of uv's cache, so that files can be linked."""
    cache: Callable[[str | None], Path]
    """uv's cache: of public indexes (None), or of an account's private ones."""
    places: Places
    registries: Registries
    base: str
    """Reference of the image that packages are put upon; ``{python}`` stands for the version."""
    network: bool = False
    """Whether commands of ``post_build`` have the server's network."""

    def validate(self, spec: EnvironmentSpec, target: Target) -> None:
        """Refuse what cannot be made here whatever the packages are."""
        platform = Platform.parse(target.platform)
        if spec.container is not None:
            Reference.parse(spec.container, "container")
        if spec.post_build and not platform.is_host:
            raise FixItError(
                f"The commands of post_build cannot be run: they are for {platform}, and the server is not.",
                advice="Run them yourself when you build an image, and use that as container=.",
                field="post_build",
            )

    async def build(self, request: BuildRequest, report: Report) -> BuildResult:
        platform = Platform.parse(request.target.platform)
        if request.spec.as_it_is:
            return await self._as_it_is(request, platform, report)
        async with asyncio.TaskGroup() as group:
            locking = group.create_task(_caught(self._lock(request, report)))
            pulling = group.create_task(_caught(self._base(request, platform, report)))
        lock, base = _value(locking.result()), _value(pulling.result())
        with one_error():
            async with self.places.open(request.target) as place:
                made, early = await self._make_sending(place, request, lock, base, platform, report)
                reused = await place.has(made.digest)
                pushed = None if reused else await self._push(place, made, base, report)
        reference = str(place.reference.at(made.digest))
        if not reused:
            await report.event(f"The image {reference} was pushed.", digest=made.digest)
        blobs = [*early, *(pushed.blobs if pushed else ())]
        sent = {"sent_bytes": sum(early.values()) + (pushed.sent if pushed else 0), "sent_blobs": blobs}
        size = sum(layer.size for layer in made.layers)
        details = {**sent, "digest": made.digest, "size": size}
        return BuildResult(lock, image=reference, reused=reused, details=details)

    async def present(self, request: BuildRequest, result: BuildResult) -> bool:
        """Whether the registry has the image; when it does not answer, it has."""
        if result.image is None or request.spec.as_it_is:
            return True
        digest = Reference.parse(result.image).digest
        try:
            async with self.places.open(request.target) as place:
                return digest is None or await place.has(digest)
        except BackendError:
            return True

    # The parts of a build.

    async def _as_it_is(self, request: BuildRequest, platform: Platform, report: Report) -> BuildResult:
        reference = Reference.parse(str(request.spec.container), "container")
        async with self.registries.open(reference, request.credentials) as repository:
            seen = await look(repository, platform, self._blobs, report)
        lock = Lock(
            python=seen.python or str(request.spec.python),
            platform=request.target.platform,
            packages=seen.packages,
            differences=seen.differences,
        )
        return BuildResult(lock, image=str(seen.reference), reused=True, details={"sent_bytes": 0, "sent_blobs": []})

    async def _lock(self, request: BuildRequest, report: Report) -> Lock:
        lock = request.lock
        if lock is None:
            how = resolve.Resolving(cache=self._cache(request), scratch=self._scratch, build=False)
            lock = await locking.lock(request, how, self._channels(request), report)
            await report.event(f"Resolved to {len(lock.packages)} packages.", step=BuildStep.RESOLVED)
        resolve.check_usable(lock)
        return lock

    async def _base(self, request: BuildRequest, platform: Platform, report: Report) -> Base:
        name = request.spec.container or self.base.format(python=request.spec.python)
        reference = Reference.parse(name, "container")
        async with self.registries.open(reference, request.credentials) as repository:
            base = await bases.pull(repository, platform, self._blobs, report)
        if base.contents.is_musl:
            raise FixItError(
                f"The image {reference} has another C library (musl) than packages are made for.",
                advice="Choose one with glibc, such as those on Debian.",
                field="container",
            )
        return base

    async def _make_sending(
        self, place: Destination, request: BuildRequest, lock: Lock, base: Base, platform: Platform, report: Report
    ) -> tuple[Made, dict[str, int]]:
        """Make the image; return it, and the bytes of each layer that was sent meanwhile."""
        async with asyncio.TaskGroup() as group:
            told: Callable[[Layer], None] = lambda layer: report.log(f"Sent {layer.title}: {in_words(layer.size)}")  # noqa: E731 - as the parameter is called
            early = Early(place.store, self._blobs, group, told)
            made = await self._make(request, lock, base, platform, report, early.add)
        return made, early.sent

    async def _make(
        self,
        request: BuildRequest,
        lock: Lock,
        base: Base,
        platform: Platform,
        report: Report,
        told: Callable[[Layer], None],
    ) -> Made:
        """Return the image; its layers are in the cache afterwards. *told* hears of each that is new."""
        python = _minor(lock.python)
        own = any(each.manager == "conda" and each.name == "python" for each in lock.packages)
        frame = [] if own else [await self._frame(base, python)]
        assembly = Assembly(
            request=request,
            python=python,
            platform=platform,
            blobs=self._blobs,
            scratch=self._scratch,
            cache=self._cache(request),
            channels=self._channels(request),
            report=report,
            made=told,
        )
        layers = [*frame, *await assembly.layers(lock.packages)]
        environ = _environ(base)
        if request.spec.post_build:
            layers.append(await self._post_build(request, base, layers, environ, platform, report))
        return await asyncio.to_thread(
            compose, base.config, base.layers, layers, self._blobs, platform=platform, environ=environ
        )

    async def _post_build(
        self,
        request: BuildRequest,
        base: Base,
        layers: Sequence[Layer],
        environ: Mapping[str, str],
        platform: Platform,
        report: Report,
    ) -> Layer:
        """Return the layer that the commands of the specification leave; the same as before, if nothing was changed."""
        below = [*(each.digest for each in base.layers), *(each.digest for each in layers)]
        facts = json.dumps([below, request.spec.post_build, request.spec.environ, self.network])
        key = f"post_build {digest_of(facts.encode())}"
        known = self._blobs.fact(key)
        if isinstance(known, dict) and self._blobs.has(known["digest"]):
            return Layer(**known)
        await report.event("Running the commands of post_build.")
        layer = await run_commands(
            request.spec.post_build,
            below,
            self._blobs,
            self._scratch,
            environ={**_variables(base), **environ, **request.spec.environ},
            platform=platform,
            network=self.network,
            say=report.log,
        )
        self._blobs.note(key, asdict(layer))
        return layer

    async def _frame(self, base: Base, python: str) -> Layer:
        """Return the layer that makes a virtual environment of the Python of the base."""
        found = base.contents.python()
        if found is None or found.version != python:
            has = f"Python {found.version}" if found else "no Python on its PATH"
            raise FixItError(
                f"The image {base.reference} has {has}, and the environment is for Python {python}.",
                advice="Give python= the version of the image, or choose another image.",
                field="python",
            )
        home = found.executable.rpartition("/")[0]
        entries = wheels.skeleton(home, found.executable, python)
        return await asyncio.to_thread(pack, "virtual environment", entries, self._blobs)

    async def _push(self, place: Destination, made: Made, base: Base, report: Report) -> Pushed:
        below = {layer.digest for layer in base.layers}
        repository = place.repository

        async def mount(digest: str) -> bool:
            return repository is not None and digest in below and await repository.mount(digest, base.reference)

        tag = f"env-{made.digest.removeprefix('sha256:')[:12]}"
        return await push(
            place.store,
            made,
            self._blobs,
            tag,
            mount=mount,
            told=lambda blob: report.log(f"Sent {_kind(blob, made)}: {in_words(blob.size)}"),
        )

    @property
    def _blobs(self) -> Blobs:
        return Blobs(self.folder / "blobs")

    @property
    def _scratch(self) -> Path:
        path = self.folder / "scratch"
        path.mkdir(parents=True, exist_ok=True)
        return path

    def _channels(self, request: BuildRequest) -> Channels:
        path = self.folder / "conda"
        if request.credentials:
            path = self.folder / "conda-private" / request.target.account_id
        path.mkdir(parents=True, exist_ok=True)
        return Channels(path, request.credentials)

    def _cache(self, request: BuildRequest) -> Path:
        return self.cache(request.target.account_id if request.credentials else None)


def _kind(blob: Descriptor, made: Made) -> str:
    """Return what a blob is, for people."""
    if blob == made.config:
        return "the configuration"
    return f"layer {made.layers.index(blob) + 1} of {len(made.layers)}"


def _variables(base: Base) -> dict[str, str]:
    inner = base.config.get("config") or {}
    return dict(str(each).partition("=")[::2] for each in inner.get("Env") or ())


def _environ(base: Base) -> dict[str, str]:
    """Return what containers get beside the variables of the base."""
    path = _variables(base).get("PATH") or _PATH
    return {"PATH": f"/{wheels.PREFIX}/bin:{path}", "VIRTUAL_ENV": f"/{wheels.PREFIX}"}


_T = TypeVar("_T")


async def _caught(work: Awaitable[_T]) -> _T | BackendError:
    try:
        return await work
    except BackendError as error:
        return error


def _value(found: _T | BackendError) -> _T:
    if isinstance(found, BackendError):
        raise found
    return found


def _minor(python: str) -> str:
    return ".".join(python.split(".")[:2])
