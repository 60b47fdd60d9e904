"""Ends pods without losing their logs, and removes what is left of clusters that have ended.

A pod that is deleted takes its log with it, so the log is followed from before the deletion to the container's end;
where somebody else deletes it, from the moment that this is seen. A pod that ended by itself stays until its log was
read and whoever looks at nodes had time to see how it ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.kubernetes import logs
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.archive import Archive, Record
from ropewalk.backends.kubernetes.objects import GRACE_SECONDS, handle_of, service_name
from ropewalk.backends.kubernetes.reasons import DELETED, container_of, ended_at, look, own_exit, parse_time
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.kubernetes.watch import REMEMBERED, Pod, PodWatch
from ropewalk.errors import BackendError
from ropewalk.schemas.clusters import NodeRole

logger = logging.getLogger(__name__)

REAP_SECONDS = 30.0
"""How long pods that ended by themselves stay: a server that starts again within that sees how they ended."""
RETRY_SECONDS = 10.0
FOLLOW_SECONDS = GRACE_SECONDS + 10.0
FOLLOWED = 64
"""Logs that are followed at a time; each is an open request."""
FORCE_SECONDS = 30.0
"""A pod that should have been gone for so long is on a machine that is lost, and is removed by force."""


class Keeper:
    """What is done with pods of one cloud account after they ended, or to end them.

    Args:
        api: Where they are.
        watch: What is known of them.
        archive: Where records and logs are kept.
    """

    def __init__(self, api: Api, watch: PodWatch, archive: Archive) -> None:
        self._api = api
        self._watch = watch
        self._archive = archive
        self._tails: dict[str, logs.Tail] = {}
        self._ending: set[str] = set()
        """Uids of pods that were asked to end, or are being put away."""
        self._leaving: set[str] = set()
        """Uids of pods that are being deleted, by whomever."""
        self._asked: OrderedDict[str, None] = OrderedDict()
        """Uids of pods that were deleted by us, the last ones."""
        self._stopped: set[str] = set()
        """Clusters whose scheduler was asked to stop: nothing of them is to stay."""
        self._gone: dict[str, asyncio.Event] = {}
        """Set when a pod is gone, for those whose end is waited for."""
        self._alive: dict[str, set[str]] = {}
        """Uids of the pods that exist, by cluster."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(FOLLOWED)

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run something beside everything else, until :meth:`close`."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Let go of everything; what was not put away yet is seen to by the next one."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def tail(self, name: str) -> logs.Tail | None:
        """Return the log of a pod that is being ended, as far as it has come."""
        return self._tails.get(name)

    def asked(self, uid: str) -> bool:
        """Return whether a pod's end was asked for here."""
        return uid in self._asked

    # Ending.

    async def end(self, pods: Iterable[Pod]) -> None:
        """Ask pods to end, their logs being followed; returns once all were asked.

        Raises:
            BackendError: some could not be asked.
        """
        chosen = list(pods)
        for pod in chosen:
            handle = handle_of(pod)
            if handle is not None and handle.role is NodeRole.SCHEDULER:
                self._stopped.add(handle.cluster)
        results = await asyncio.gather(*(self._end(pod) for pod in chosen), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _end(self, pod: Pod) -> None:
        uid = pod["metadata"]["uid"]
        if uid in self._ending:
            return
        self._ending.add(uid)
        opened = asyncio.Event()
        following = self.spawn(self._follow(pod, logs.Tail(), opened))
        try:
            await opened.wait()
            await self._delete(pod)
        except BaseException:
            # It runs on, so its log is not to be put away.
            following.cancel()
            self._ending.discard(uid)
            raise

    async def _follow(self, pod: Pod, tail: logs.Tail, opened: asyncio.Event) -> None:
        name = pod["metadata"]["name"]
        self._tails[name] = tail
        try:
            async with self._slots:
                if _has_log(pod):
                    running = not look(pod).gone
                    source = logs.Source(self._api, name, str(container_of(pod)["name"]))
                    await logs.follow(source, tail, opened, until_end=running, seconds=FOLLOW_SECONDS)
            opened.set()
            await self._record(pod, tail)
        finally:
            opened.set()
            self._tails.pop(name, None)

    async def _record(self, pod: Pod, tail: logs.Tail) -> None:
        """Write down how a pod ended, with what it said last."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        gone = self._gone.setdefault(uid, asyncio.Event())
        try:
            if self._is_there(name, uid):
                await gone.wait()
        finally:
            self._gone.pop(uid, None)
        await self._keep_if_possible(self._watch.deleted(name) or pod, tail)

    async def _keep_if_possible(self, pod: Pod, tail: logs.Tail | None) -> None:
        """Write down how a pod ended that is gone; there will be no second chance, and nobody to tell."""
        try:
            await self._keep(pod, tail, deleted=True)
        except OSError as exc:
            name = pod["metadata"]["name"]
            logger.warning("How %s ended could not be written down: %s", name, exc.strerror or type(exc).__name__)

    async def _keep(self, pod: Pod, tail: logs.Tail | None, *, deleted: bool) -> None:
        handle = handle_of(pod)
        if handle is None:
            return
        seen = look(pod, deleted=deleted, role=handle.role.value)
        start = tail.start if tail is not None else 0
        asked = self.asked(pod["metadata"]["uid"])
        reason = None if asked and seen.reason == DELETED else seen.reason
        record = Record(handle.cloud_id, own_exit(seen, asked=asked), reason, log_start=start)
        content = bytes(tail.content) if tail is not None else None
        await asyncio.to_thread(self._archive.keep, handle.cluster, handle.name, record, content)

    def _is_there(self, name: str, uid: str) -> bool:
        pod = self._watch.pods.get(name)
        return pod is not None and bool(pod["metadata"]["uid"] == uid)

    async def _delete(self, pod: Pod, *, force: bool = False) -> None:
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if not force:
            self._asked[uid] = None
            if len(self._asked) > REMEMBERED:
                self._asked.popitem(last=False)
        options: dict[str, Any] = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            # By id: a pod of the same name that somebody made since is another one.
            "preconditions": {"uid": uid},
        }
        if force:
            options["gracePeriodSeconds"] = 0
        try:
            await self._api.call("delete", "pods", name, body=options)
        except BackendError as exc:
            if status_of(exc) not in (404, 409):
                raise

    # Putting away what has ended.

    def saw(self, pod: Pod) -> None:
        """Take a pod that has changed: see to it once it has ended, or should have."""
        handle = handle_of(pod)
        if handle is None:
            return
        uid = pod["metadata"]["uid"]
        there = self._is_there(handle.name, uid)
        pods = self._alive.setdefault(handle.cluster, set())
        if not there:
            pods.discard(uid)
            if uid in self._gone:
                self._gone[uid].set()
            self._ending.discard(uid)
            self._leaving.discard(uid)
            if handle.name not in self._tails:
                self.spawn(self._keep_if_possible(pod, None))
            if not pods:
                del self._alive[handle.cluster]
                self.spawn(self._remove_cluster(handle.cluster))
            return
        pods.add(uid)
        if pod["metadata"].get("deletionTimestamp"):
            self._leaves(pod)
        elif look(pod).gone and uid not in self._ending:
            self._ending.add(uid)
            self.spawn(self._put_away(pod))

    def _leaves(self, pod: Pod) -> None:
        """See to a pod that is being deleted, once."""
        uid = pod["metadata"]["uid"]
        if uid in self._leaving:
            return
        self._leaving.add(uid)
        self.spawn(self._force(pod))
        if uid not in self._ending:
            # Somebody else deletes it: its last words are as good as any.
            self._ending.add(uid)
            self.spawn(self._follow(pod, logs.Tail(), asyncio.Event()))

    async def _put_away(self, pod: Pod) -> None:
        """Read the log of a pod that ended by itself, then remove it."""
        handle = handle_of(pod)
        assert handle is not None  # noqa: S101 - saw() looked
        ended = ended_at(pod) or datetime.now(UTC)
        if handle.cluster not in self._stopped:
            await asyncio.sleep(max(0.0, REAP_SECONDS - (datetime.now(UTC) - ended).total_seconds()))
        while self._is_there(handle.name, pod["metadata"]["uid"]):
            async with self._slots:
                tail, opened = logs.Tail(), asyncio.Event()
                source = logs.Source(self._api, handle.name, handle.role.value)
                await logs.follow(source, tail, opened, until_end=False, seconds=logs.READ_SECONDS)
            try:
                await self._keep(pod, tail, deleted=False)
                await self._delete(pod)
            except (BackendError, OSError):
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    async def _force(self, pod: Pod) -> None:
        """Remove a pod that was deleted and does not go: the machine that should say that it is gone is lost."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        due = parse_time(pod["metadata"]["deletionTimestamp"]) or datetime.now(UTC)
        await asyncio.sleep(max(0.0, (due - datetime.now(UTC)).total_seconds() + FORCE_SECONDS))
        while self._is_there(name, uid):
            try:
                await self._delete(pod, force=True)
            except BackendError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return

    # Clusters.

    async def _remove_cluster(self, cluster: str) -> None:
        """Remove what is left of a cluster whose pods are all gone."""
        if cluster not in self._stopped:
            # Nobody asked: a server may just be about to launch the next nodes of it.
            await asyncio.sleep(REAP_SECONDS)
            if cluster in self._alive:
                return
        await self.remove_service(cluster)

    async def remove_service(self, cluster: str) -> None:
        """Delete the Service of a cluster and with it all that it owns; tried until it is done."""
        while True:
            try:
                await self._api.call("delete", "services", service_name(cluster), body=_BACKGROUND)
            except BackendError as exc:
                if status_of(exc) != 404:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
            self._stopped.discard(cluster)
            return


_BACKGROUND = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"}


def _has_log(pod: Pod) -> bool:
    """Return whether a pod's container was ever made."""
    return any(key in (container_of(pod).get("state") or {}) for key in ("running", "terminated"))
