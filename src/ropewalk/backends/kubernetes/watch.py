"""What pods there are: one list, then one watch, for all clusters of a cloud account.

The client's own watch never lists again after an expired version; this one does, resumes where it can, and says when
what it knows may be out of date.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.errors import BackendError, TryAgainError

PAGE = 500
"""Pods in one answer to a list, as kubectl asks for."""
WATCH_SECONDS = (300, 600)
"""An API server ends a watch after a time in between; all at once would come back all at once."""
SILENCE_SECONDS = 150.0
"""Without a word for so long a watch counts as broken: bookmarks come about every minute."""
FIRST_RETRY, LAST_RETRY = 0.5, 30.0
REMEMBERED = 20_000
"""Pods whose deletion is remembered."""

Pod = dict[str, Any]


class ExpiredError(Exception):
    """The API server does not remember what happened since; list again."""


class PodWatch:
    """The pods that a label selector finds, kept up to date.

    Args:
        api: Where they are.
        selector: Which they are.
        changed: Called after each change.
    """

    def __init__(self, api: Api, selector: str, changed: Callable[[Pod | None], None]) -> None:
        self.pods: dict[str, Pod] = {}  # one object for good: others hold its methods
        self.error: BackendError | None = None
        """Why nothing is heard; None: what is known is current."""
        self._api = api
        self._selector = selector
        self._changed = changed
        self._synced = asyncio.Event()
        self._failed = asyncio.Event()
        self._retry_now = asyncio.Event()
        self._version = ""
        self._task: asyncio.Task[None] | None = None
        self._deleted: OrderedDict[str, Pod] = OrderedDict()

    async def ready(self) -> None:
        """Return when what is known is current.

        Raises:
            BackendError: it cannot be.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="kubernetes-watch")
        if self.error is not None:
            self._failed.clear()
            self._retry_now.set()
        if not self._synced.is_set():
            waits = [asyncio.ensure_future(event.wait()) for event in (self._synced, self._failed)]
            try:
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for wait in waits:
                    wait.cancel()
        if self.error is not None:
            raise self.error

    async def close(self) -> None:
        """Stop watching."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def note(self, pod: Pod) -> None:
        """Take a pod that an answer to another request told of, unless something newer is known."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        known = self.pods.get(name)
        if uid in self._deleted or (known is not None and not _newer(pod, known)):
            return
        self._take(pod)

    def deleted(self, name: str) -> Pod | None:
        """Return the last of a pod that was seen to be deleted; None: no such pod is remembered."""
        return next((pod for pod in reversed(self._deleted.values()) if pod["metadata"]["name"] == name), None)

    def _take(self, pod: Pod) -> None:
        pod["metadata"].pop("managedFields", None)  # half of a pod's size, and nobody here reads it
        self.pods[pod["metadata"]["name"]] = pod
        self._changed(pod)

    def _drop(self, pod: Pod) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        self._deleted[uid] = pod
        if len(self._deleted) > REMEMBERED:
            self._deleted.popitem(last=False)
        known = self.pods.get(name)
        if known is not None and known["metadata"]["uid"] == uid:
            del self.pods[name]
        self._changed(pod)

    async def _run(self) -> None:
        delay = FIRST_RETRY
        while True:
            began = time.monotonic()
            try:
                if not self._version:
                    await self._list()
                await self._follow()
                delay = FIRST_RETRY
                continue
            except ExpiredError:
                self._version = ""
                delay = FIRST_RETRY if time.monotonic() - began > 1 else delay
            except BackendError as exc:
                if status_of(exc) == 410:
                    self._version = ""
                elif self._fails(exc):
                    delay = max(delay, exc.delay) if isinstance(exc, TryAgainError) else delay
            await self._pause(delay)
            delay = min(delay * 2, LAST_RETRY)

    def _fails(self, error: BackendError) -> bool:
        self.error = error
        self._synced.clear()
        self._failed.set()
        self._changed(None)
        return True

    async def _pause(self, delay: float) -> None:
        self._retry_now.clear()
        try:
            async with asyncio.timeout(delay * random.uniform(0.8, 1.2)):  # noqa: S311 - spreads load, no secret
                await self._retry_now.wait()
        except TimeoutError:
            return
        await asyncio.sleep(FIRST_RETRY)  # whoever asks often must not make this ask often

    async def _list(self) -> None:
        found: dict[str, Pod] = {}
        query: dict[str, Any] = {"labelSelector": self._selector, "limit": PAGE}
        while True:
            page = await self._api.call("list", "pods", query=query)
            for pod in page.get("items") or []:
                pod["metadata"].pop("managedFields", None)
                found[pod["metadata"]["name"]] = pod
            more = (page.get("metadata") or {}).get("continue")
            if not more:
                break
            query["continue"] = more
        version = page["metadata"]["resourceVersion"]
        for pod in [pod for name, pod in self.pods.items() if _left(pod, found.get(name), version)]:
            self._drop(pod)
        for name, pod in found.items():
            if name not in self.pods or _newer(pod, self.pods[name]):
                self._take(pod)
        self._version = version
        self._heard()

    def _heard(self) -> None:
        was, self.error = self.error, None
        self._failed.clear()
        self._synced.set()
        if was is not None:
            self._changed(None)

    async def _follow(self) -> None:
        query = {
            "labelSelector": self._selector,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": random.randint(*WATCH_SECONDS),  # noqa: S311 - spreads load, no secret
        }
        async with self._api.stream("watch", "pods", None, query, silence=SILENCE_SECONDS) as stream:
            self._heard()
            async for event in _events(stream):
                self._apply(event)

    def _apply(self, event: Mapping[str, Any]) -> None:
        thing = event.get("object") or {}
        match event.get("type"):
            case "ADDED" | "MODIFIED":
                self.note(thing)
            case "DELETED":
                self._drop(thing)
            case "ERROR":
                if thing.get("code") == 410 or thing.get("reason") in ("Expired", "Gone"):
                    raise ExpiredError
                message = str(thing.get("message"))[:200]
                raise TryAgainError(f"The API server ended the watch of pods: {message}.", delay=1.0)
        version = (thing.get("metadata") or {}).get("resourceVersion")
        if version:
            self._version = version


async def _events(stream: Any) -> AsyncIterator[Mapping[str, Any]]:
    while line := await stream.readline():
        if not line.endswith(b"\n"):
            return  # cut off in the middle; what it said comes again
        yield json.loads(line)


def _newer(pod: Pod, known: Pod) -> bool:
    return _number(pod["metadata"].get("resourceVersion")) > _number(known["metadata"].get("resourceVersion"))


def _left(pod: Pod, found: Pod | None, version: str) -> bool:
    """Whether a pod that was known has gone: it is not in a list that is newer than it."""
    if found is not None:
        return bool(found["metadata"]["uid"] != pod["metadata"]["uid"])
    return _number(pod["metadata"].get("resourceVersion")) <= _number(version)


def _number(version: object) -> int:
    # Versions grow within one resource type; Kubernetes 1.35 made comparing them part of the API.
    text = str(version)
    return int(text) if text.isascii() and text.isdigit() else 0
