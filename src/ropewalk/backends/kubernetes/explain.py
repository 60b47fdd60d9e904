"""Asks for a pod's events where its status does not say why it waits or went away."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.reasons import DELETED, Look, look, parse_time, why_from_events
from ropewalk.backends.kubernetes.watch import Pod
from ropewalk.errors import BackendError

PATIENCE = 10.0
"""Seconds that a pod may wait before anybody asks why: images are usually there, and machines have room."""
ASK_AGAIN = 30.0
REMEMBERED = 5000
ASKED = 20
"""Pods at the most for which events are asked at a time; what holds for them holds for the rest."""


class Explainer:
    """Reasons from events, found in the background; :meth:`explain` never waits."""

    def __init__(
        self,
        api: Api,
        current: Callable[[str], Pod | None],
        changed: Callable[[], None],
        spawn: Callable[[Any], object],
    ) -> None:
        self._api = api
        self._current = current
        self._changed = changed
        self._spawn = spawn
        self._found: OrderedDict[str, str] = OrderedDict()
        self._asking: set[str] = set()
        self._done: OrderedDict[str, None] = OrderedDict()

    def explain(self, pod: Pod, seen: Look) -> str | None:
        """Return why a pod waits or is gone, as far as that is known now."""
        uid = pod["metadata"]["uid"]
        if seen.waits:
            self._ask(pod, patience=PATIENCE)
            return self._found.get(uid) or seen.reason
        if seen.gone and seen.reason == DELETED:
            self._ask(pod, patience=0.0)
            return self._found.get(uid) or seen.reason
        return seen.reason

    def _ask(self, pod: Pod, patience: float) -> None:
        uid = pod["metadata"]["uid"]
        if uid not in self._asking and uid not in self._done and len(self._asking) < ASKED:
            self._asking.add(uid)
            self._spawn(self._look(pod, patience))

    async def _look(self, pod: Pod, patience: float) -> None:
        uid = pod["metadata"]["uid"]
        try:
            if patience:
                made = parse_time(pod["metadata"].get("creationTimestamp")) or datetime.now(UTC)
                await asyncio.sleep(max(0.0, patience - (datetime.now(UTC) - made).total_seconds()))
            while not patience or self._still_waits(pod):
                await self._read(pod)
                if not patience:
                    self._remember(self._done, uid, None)
                    return
                await asyncio.sleep(ASK_AGAIN)
        finally:
            self._asking.discard(uid)

    def _still_waits(self, pod: Pod) -> bool:
        current = self._current(pod["metadata"]["name"])
        return current is not None and look(current).waits

    async def _read(self, pod: Pod) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        query = {"fieldSelector": f"involvedObject.name={name},involvedObject.uid={uid}"}
        with contextlib.suppress(BackendError):  # events only say more; without them there is no error
            events = (await self._api.call("list", "events", query=query)).get("items") or []
            why = why_from_events(events)
            if why is not None and self._found.get(uid) != why:
                self._remember(self._found, uid, why)
                self._changed()

    @staticmethod
    def _remember(where: OrderedDict[str, Any], uid: str, what: object) -> None:
        where[uid] = what
        if len(where) > REMEMBERED:
            where.popitem(last=False)
