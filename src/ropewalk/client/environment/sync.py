"""Package sync: a cluster whose nodes have the packages of whoever asks for it.

Costs nothing where nodes run from the very files that this program runs from: the request carries a fingerprint, and
the server knows its own. Only when it says that packages would differ are they read.
"""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from ropewalk.client import calls, config
from ropewalk.client.environment.bringing import bring
from ropewalk.client.environment.conda import conda_packages
from ropewalk.client.environment.making import Say, built, make
from ropewalk.client.environment.modules import Modules, digest, local_modules
from ropewalk.client.environment.snapshot import Snapshot, snapshot
from ropewalk.client.http import AsyncApi
from ropewalk.client.versions import VersionMismatchWarning
from ropewalk.errors import ConflictError, VersionMismatchError
from ropewalk.schemas.clusters import ClusterCreate
from ropewalk.schemas.environments import Difference, EnvironmentCreate, covers
from ropewalk.schemas.fingerprints import fingerprint

if TYPE_CHECKING:
    from distributed.core import rpc

__all__ = ["Software"]

T = TypeVar("T")


class Software:
    """Sees to it that the packages of a cluster's nodes are there before the cluster is.

    Args:
        api: The server.
        sync: Whether nodes get this program's packages, where nothing else is named.
        versions: What to do about differences: ``warn``, ``error`` or ``ignore``.
        step: Told what is waited for.
        say: Gets the log of a build.
        patient: Told when packages begin to be waited for, and when that is over: it takes as long as it takes.

    Attributes:
        asking: Whether the server is being asked for the cluster at this moment, and may be making one.
    """

    def __init__(
        self,
        api: AsyncApi,
        *,
        sync: bool,
        versions: str,
        step: Callable[[str], None],
        say: Say,
        patient: Callable[[bool], None] = lambda _waits: None,
    ) -> None:
        self.asking = False
        self._reading: Future[tuple[Modules, bytes]] | None = None
        self._api = api
        self._patient = patient
        self._sync = sync
        self._versions = versions
        self._step = step
        self._say = say

    async def ready(self, account: str, request: ClusterCreate, ask: Callable[[ClusterCreate], Awaitable[T]]) -> T:
        """Return what *ask* does with *request*, once the environment that it needs is there.

        Raises:
            FixItError: The environment could not be built; the resolver's own explanation.
            VersionMismatchError: Packages would differ, and that is to be an error.
        """
        if self._covers(request):
            request = request.model_copy(update={"fingerprint": fingerprint()})
        while True:
            self.asking = True
            try:
                return await ask(request)
            except ConflictError as refused:
                self.asking = False
                match refused.details.get("environment"):
                    case "building":
                        with self._waiting():
                            await self._wait(account, str(refused.details["build"]), request.software or "")
                    case "needed":
                        with self._waiting():
                            name = await self._synchronise(account, refused.details)
                        request = request.model_copy(update={"software": name, "fingerprint": None})
                    case _:
                        raise

    def _covers(self, request: ClusterCreate) -> bool:
        return self._sync and request.software is None and request.container is None

    def read_modules(self, request: ClusterCreate) -> None:
        """Begin to read the user's own modules where packages are synchronised, while the cluster starts."""
        if self._covers(request) and config.get("sync_modules"):
            self._reading = Future()
            # No task of the loop: nobody has to wait for it where the start fails.
            threading.Thread(target=_packed, args=(self._reading,), name="ropewalk-modules", daemon=True).start()

    async def bring(self, scheduler: rpc) -> Callable[[], None]:
        """Bring what was read to the nodes of the cluster, which runs by now; returns what tells how that went.

        Later, because it fails, too, where the cluster did, which is then what the user has to know.
        """
        if self._reading is None:
            return lambda: None
        try:
            mine, archive = await asyncio.wrap_future(self._reading)
            if archive:
                await bring(scheduler, archive, digest(archive))
        except Exception as exc:  # noqa: BLE001 - the cluster is good without them, and many need none
            why = f"They could not be brought along: {exc}"
            return lambda: self._tell([Difference(name="modules", level="warning", why=why)])
        return lambda: self._tell_brought(mine)

    def _tell_brought(self, mine: Modules) -> None:
        for line in mine.told():
            self._say(line)
        self._tell(mine.differences)

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        self._patient(True)
        try:
            yield
        finally:
            self._patient(False)

    async def _wait(self, account: str, build: str, name: str) -> None:
        self._step(f"Waiting for the software environment {name}")
        self._tell((await self._api.drive(built(account, build, self._say))).differences)

    async def _synchronise(self, account: str, place: Mapping[str, Any]) -> str:
        """Return the name of an environment with this program's packages, for *place* as the server described it."""
        platform = place.get("platform")
        self._step("Reading your packages")
        mine = await asyncio.to_thread(_read, place)
        # Before anything is built of what will not do.
        self._tell([each for each in mine.differences if each.level == "error"])
        mine = await self._with_credentials(account, mine)
        conda = [] if mine.spec.conda is None else mine.spec.conda.dependencies
        count = len(conda) + len(mine.spec.pip) + len(mine.spec.wheels)
        self._step(f"Making an environment with your {count} packages")
        wish = EnvironmentCreate(name=mine.name, spec=mine.spec, managed=True, platform=platform)
        detail = await self._api.drive(make(account, wish, mine.wheels, self._say))
        version = detail.versions[0]
        own = [each for each in version.builds if (each.target, each.platform) == (place.get("target"), platform)]
        self._tell([*mine.differences, *(each for build in own[:1] for each in build.differences)])
        return f"{mine.name}:{version.number}"

    async def _with_credentials(self, account: str, mine: Snapshot) -> Snapshot:
        """Name the stored credentials that open channels of *mine*."""
        conda = mine.spec.conda
        channels = [each for each in (conda.channels if conda else ()) if "://" in each]
        if not channels:
            return mine
        known = await self._api(calls.list_index_credentials(account))
        names = [each.name for each in known if any(covers(each.url, channel) for channel in channels)]
        return replace(mine, spec=mine.spec.model_copy(update={"credentials": names})) if names else mine

    def _tell(self, differences: list[Difference]) -> None:
        """Say what could not be taken along, before there is a cluster."""
        if not differences or self._versions == "ignore":
            return
        rows = [f"  {' '.join(filter(None, (each.name, each.here)))}: {each.why}" for each in differences]
        start = "ignore" if any(each.level == "error" for each in differences) else "warn"
        message = "Not all of your packages could be brought to the nodes as they are:\n" + "\n".join(rows)
        if self._versions == "error" or any(each.level == "error" for each in differences):
            raise VersionMismatchError(
                message,
                advice=f"Remove them here, or name a software environment. To start all the same: versions={start!r}.",
                details={each.name: {"client": each.here, "cluster": each.there} for each in differences},
            )
        warnings.warn(message, VersionMismatchWarning, stacklevel=2)


def _packed(found: Future[tuple[Modules, bytes]]) -> None:
    """Set *found* to the user's modules and an archive of them, which is empty if there are none."""
    if not found.set_running_or_notify_cancel():  # from now on a start that is given up leaves it alone
        return
    try:
        mine = local_modules()
        found.set_result((mine, mine.archive() if mine.files else b""))
    except Exception as exc:  # noqa: BLE001 - whatever it was, the start waits for an answer
        found.set_exception(exc)


def _read(place: Mapping[str, Any]) -> Snapshot:
    return snapshot(
        conda=conda_packages(), platform=place.get("platform") or "linux/amd64", reached=bool(place.get("conda"))
    )
