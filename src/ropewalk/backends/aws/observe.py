"""Looking at tasks: often at what changes, seldom at what runs, a hundred in one call for all clusters together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from ropewalk.backends.aws import reasons
from ropewalk.backends.aws.addresses import Addresses
from ropewalk.backends.aws.connect import join
from ropewalk.backends.aws.search import Search
from ropewalk.backends.aws.tasks import PAGE, Task
from ropewalk.backends.port import SCHEDULER_PORT, Answer, NodeHandle, Observation, Sighting
from ropewalk.schemas.clusters import NodeRole

__all__ = ["GRACE", "Lookout"]

GRACE = 60.0
"""Seconds for which a task that ECS does not show counts as unknown: a new one may not be visible at once ("eventual
consistency", ECS API reference)."""
FASTEST, FAST, SLOW = 1.0, 5.0, 20.0
"""Seconds between two looks: just after a change, while something still changes, and while all just runs."""
MEMORY = 300.0
"""Seconds for which is remembered what nobody asks about."""
LEAST_AGE = 0.5
"""Seconds for which what was seen of a task is not asked again, however often somebody wants to know."""
SPOT_PATIENCE = 120.0
"""Seconds after which a task that Fargate Spot has not found a place for is said to have none: in times of high demand
they are "delayed" ("Amazon ECS clusters for Fargate", ECS developer guide). A place usually takes some ten seconds."""
SLOWING = 0.25
"""Looks become rarer with the time since the last change: it is noticed late by a quarter of that at the most."""

_PENDING = {
    "PROVISIONING": "Its network interface is being made.",
    "PENDING": "Its image is being pulled.",
    "ACTIVATING": "It is being started.",
    "DEACTIVATING": "It is stopping.",
    "STOPPING": "It is stopping.",
    "DEPROVISIONING": "Its network interface is being removed.",
}


@dataclass(slots=True)
class _Seen:
    """What was seen of one task, and when (monotonic); None: ECS does not show it, since then."""

    task: Task | None
    at: float
    missing_since: float | None
    settled: bool
    asked_at: float
    """When somebody last wanted to know about it."""
    waits_since: float | None
    """Since when it has waited for a place; None: it has one, or is over."""


class Lookout:
    """Answers what became of nodes, and says when it is worth asking again.

    Args:
        search: Asks ECS.
        addresses: Knows public addresses.
        never_ran: Says of a name whether no task can exist for it.
        no_spot: Is told when a task for Fargate Spot finds no capacity.
        grace: Seconds for which what ECS does not show is unknown.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        search: Search,
        addresses: Addresses,
        never_ran: Callable[[str], bool],
        no_spot: Callable[[], None],
        *,
        grace: float = GRACE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._search = search
        self._addresses = addresses
        self._never_ran = never_ran
        self._no_spot = no_spot
        self._grace = grace
        self._clock = clock
        self._seen: dict[str, _Seen] = {}
        self._sought: dict[str, tuple[float, float]] = {}
        self._looking = asyncio.Lock()
        self._restless = False
        self._looked = self._changed = clock()
        self._stirred = asyncio.Event()

    def stir(self, arns: Collection[str] = ()) -> None:
        """Look soon: something was asked for that changes *arns*, or makes new tasks."""
        for arn in arns:
            if arn in self._seen:
                self._seen[arn].settled = False
                self._seen[arn].at -= LEAST_AGE
        self._changed = self._clock()
        self._restless = True
        self._stirred.set()

    def last(self, arn: str) -> Task | None:
        """Return what was last seen of a task, if anything was."""
        seen = self._seen.get(arn)
        return seen.task if seen else None

    def no_task_of(self, node: NodeHandle) -> bool:
        """Say of a node of which ECS shows no task whether there surely is none."""
        return self._unseen(node).answer is Answer.GONE

    async def observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        """Answer for every node, asking only about those of which too little is known."""
        async with self._looking:
            return await self._observe(nodes)

    async def _observe(self, nodes: Sequence[NodeHandle]) -> Observation:
        self._looked = self._clock()
        nameless = await self._by_name([node for node in nodes if node.cloud_id is None], nodes)
        arns = {node.name: node.cloud_id or nameless.get(node.name) for node in nodes}
        self._forget()
        await self._look([arn for arn in arns.values() if arn is not None])
        await self._find_addresses(nodes, arns)
        found = {node.name: self._sighting(node, arns[node.name]) for node in nodes}
        self._restless = any(seen.answer is Answer.UNKNOWN for seen in found.values()) or not all(
            self._seen[arn].settled for arn in arns.values() if arn in self._seen and not self._is_over(arn)
        )
        return Observation(found)

    async def changed(self) -> None:
        """Return when it is time to look again."""
        while (wait := self._due() - self._clock()) > 0:
            self._stirred.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._stirred.wait()
            except TimeoutError:
                return

    def _due(self) -> float:
        if not self._restless:
            return self._looked + SLOW
        return self._looked + min(FAST, max(FASTEST, (self._looked - self._changed) * SLOWING))

    def _is_over(self, arn: str | None) -> bool:
        seen = self._seen.get(arn or "")
        return seen is not None and seen.task is not None and seen.task.stopped

    def _forget(self) -> None:
        """Forget what nobody has asked about for long."""
        before = self._looked - MEMORY
        self._seen = {arn: seen for arn, seen in self._seen.items() if seen.asked_at >= before}
        self._sought = {name: times for name, times in self._sought.items() if times[1] >= before}

    async def _by_name(self, nameless: Sequence[NodeHandle], nodes: Sequence[NodeHandle]) -> Mapping[str, str]:
        """Return the ARNs of nodes whose launch was never answered."""
        wanted = [node for node in nameless if not self._never_ran(node.name)]
        found: dict[str, str] = {}
        for cluster in {node.cluster for node in wanted}:
            claimed = [node.cloud_id for node in nodes if node.cluster == cluster and node.cloud_id]
            tasks = await self._search.by_name(cluster, claimed)
            found |= {name: task.arn for name, task in tasks.items()}
            for task in tasks.values():
                self._note(task.arn, task)
        return found

    async def _look(self, arns: Sequence[str]) -> None:
        """Ask about tasks that change, and those not seen for long; fill the last page with the longest unseen."""
        now = self._clock()
        for arn in arns:
            if arn in self._seen:
                self._seen[arn].asked_at = now
        due = [arn for arn in dict.fromkeys(arns) if self._wanted(arn, now)]
        if not due:
            return
        rest = sorted((arn for arn in set(arns) - set(due) if not self._is_over(arn)), key=lambda a: self._seen[a].at)
        asked = due + rest[: -len(due) % PAGE]
        tasks = await self._search.describe(asked)
        for arn in asked:
            self._note(arn, tasks.get(arn))

    def _wanted(self, arn: str, now: float) -> bool:
        seen = self._seen.get(arn)
        if seen is None:
            return True
        if self._is_over(arn):
            return False
        # A little early, so that all that runs is asked about together.
        return now - seen.at >= (SLOW * 0.9 if seen.settled else LEAST_AGE)

    def _note(self, arn: str, task: Task | None) -> None:
        before = self._seen.get(arn)
        now = self._clock()
        if before is None or before.task != task:
            self._changed = now
        missing = None
        if task is None:
            missing = now if before is None or before.missing_since is None else before.missing_since
        settled = task is not None and task.settled
        self._seen[arn] = _Seen(task, now, missing, settled, asked_at=now, waits_since=_waits_since(task, before, now))

    async def _find_addresses(self, nodes: Sequence[NodeHandle], arns: Mapping[str, str | None]) -> None:
        """Learn the public addresses of schedulers; until they are known, look often."""
        tasks = {node.name: self.last(arns[node.name] or "") for node in nodes if node.role is NodeRole.SCHEDULER}
        living = [task for task in tasks.values() if task is not None and not task.stopped]
        await self._addresses.find(living)
        for task in living:
            if self._addresses.contact(task) is None:
                self._seen[task.arn].settled = False

    def _sighting(self, node: NodeHandle, arn: str | None) -> Sighting:
        if arn is None:
            return self._unseen(node)
        seen = self._seen[arn]
        task = seen.task
        if task is None:
            return self._missing(node, arn, seen)
        self._sought.pop(node.name, None)
        if task.stopped:
            return self._ended(node, task)
        reason = _PENDING.get("STOPPING" if task.wanted == "STOPPED" else task.status)
        if node.role is NodeRole.WORKER:
            return self._worker(node, task, reason, seen.waits_since)
        host = task.private_address
        internal = join(host, SCHEDULER_PORT) if host else None
        contact = self._addresses.contact(task)
        if contact is None and self._addresses.fault is not None:
            reason = f"Its public address is not known: {self._addresses.fault}"
        return Sighting(node.name, Answer.RUNNING, arn, contact, reason=reason, internal=internal)

    def _ended(self, node: NodeHandle, task: Task) -> Sighting:
        no_spot = reasons.found_no_spot(task)
        if no_spot:
            self._no_spot()
        code, reason = reasons.exit_code(task), reasons.why_stopped(task)
        return Sighting(node.name, Answer.GONE, task.arn, exit_code=code, reason=reason, no_spot=no_spot)

    def _worker(self, node: NodeHandle, task: Task, reason: str | None, waits_since: float | None) -> Sighting:
        no_spot = task.spot and waits_since is not None and self._clock() - waits_since >= SPOT_PATIENCE
        if no_spot:
            self._no_spot()
            reason = f"Fargate Spot has not found a place for it within {SPOT_PATIENCE / 60:.0f} minutes."
        return Sighting(node.name, Answer.RUNNING, task.arn, reason=reason, no_spot=no_spot)

    def _missing(self, node: NodeHandle, arn: str, seen: _Seen) -> Sighting:
        """Answer for a task that ECS does not show: a new one may come up yet, an old one was over long ago."""
        if seen.missing_since is not None and self._clock() - seen.missing_since < self._grace:
            return Sighting(node.name, Answer.UNKNOWN, arn, reason="ECS does not show it at the moment.")
        reason = "ECS does not know it any more: it ended more than an hour ago, or its ECS cluster was deleted."
        return Sighting(node.name, Answer.GONE, arn, reason=reason)

    def _unseen(self, node: NodeHandle) -> Sighting:
        """Answer for a name that has no task."""
        if self._never_ran(node.name):
            return Sighting(node.name, Answer.GONE, reason="AWS refused to start it.")
        now = self._clock()
        since, _ = self._sought.get(node.name, (now, now))
        self._sought[node.name] = since, now
        if now - since < self._grace:
            return Sighting(node.name, Answer.UNKNOWN, reason="ECS shows no task of it; a new one may appear yet.")
        return Sighting(node.name, Answer.GONE, reason="ECS has no task of it.")


def _waits_since(task: Task | None, before: _Seen | None, now: float) -> float | None:
    """Return since when a task has been waiting for a place, as far as was seen."""
    if task is None or task.status != "PROVISIONING" or task.wanted == "STOPPED":
        return None
    return now if before is None or before.waits_since is None else before.waits_since
