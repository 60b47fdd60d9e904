"""Asks for a pod's events where its status does not say why it waits or went away."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.reasons import (
    DELETED,
    Look,
    look,
    parse_time,
    why_from_events,
    why_gone_from_events,
)
from ropewalk.backends.kubernetes.watch import Pod
from ropewalk.errors import BackendError

PATIENCE = 10.0
"""Seconds that a pod may wait before anybody asks why: images are usually there, and machines have room."""
ASK_AGAIN = 30.0
END_WAITS = (0.0, 0.3, 1.2)
"""Before each look for the event that tells why a pod went away: it is written just after the pod is deleted."""
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
        """Why pods wait."""
        self._ends: OrderedDict[str, str | None] = OrderedDict()
        """Why pods went away; None: nobody says."""
        self._asking: set[str] = set()
        self._ending: set[str] = set()

    def explain(self, pod: Pod, seen: Look) -> str | None:
        """Return why a pod waits or is gone, as far as that is known now."""
        uid = pod["metadata"]["uid"]
        if seen.waits:
            if uid not in self._asking and len(self._asking) < ASKED:
                self._asking.add(uid)
                self._spawn(self._look(pod))
            return self._found.get(uid) or seen.reason
        return self._ends.get(uid) or seen.reason

    def settled(self, pod: Pod, seen: Look) -> bool:
        """Return whether no more will be known of why a pod is gone; if not, ask, and call *changed* when it is."""
        uid = pod["metadata"]["uid"]
        if not seen.gone or seen.reason != DELETED or uid in self._ends:
            return True
        if uid not in self._ending:
            if len(self._ending) >= ASKED:
                return True
            self._ending.add(uid)
            self._spawn(self._look_back(pod))
        return False

    async def _look_back(self, pod: Pod) -> None:
        why = None
        uid = pod["metadata"]["uid"]
        try:
            for wait in END_WAITS:
                await asyncio.sleep(wait)
                why = why_gone_from_events(await self._events(pod))
                if why is not None:
                    break
        finally:
            self._ending.discard(uid)
            self._remember(self._ends, uid, why)
        self._changed()

    async def _look(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        try:
            made = parse_time(pod["metadata"].get("creationTimestamp")) or datetime.now(UTC)
            await asyncio.sleep(max(0.0, PATIENCE - (datetime.now(UTC) - made).total_seconds()))
            while self._still_waits(pod):
                why = why_from_events(await self._events(pod))
                if why is not None and self._found.get(uid) != why:
                    self._remember(self._found, uid, why)
                    self._changed()
                await asyncio.sleep(ASK_AGAIN)
        finally:
            self._asking.discard(uid)

    def _still_waits(self, pod: Pod) -> bool:
        current = self._current(pod["metadata"]["name"])
        return current is not None and look(current).waits

    async def _events(self, pod: Pod) -> Sequence[Mapping[str, Any]]:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        query = {"fieldSelector": f"involvedObject.name={name},involvedObject.uid={uid}"}
        with contextlib.suppress(BackendError):  # events only say more; without them there is no error
            return (await self._api.call("list", "events", query=query)).get("items") or []
        return []

    @staticmethod
    def _remember(where: OrderedDict[str, Any], uid: str, what: object) -> None:
        where[uid] = what
        if len(where) > REMEMBERED:
            where.popitem(last=False)
