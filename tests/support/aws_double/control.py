"""What tests set and read: settings, faults to inject, counts. ``/_double/…`` over HTTP, JSON in and out.

==========================  ===========================================================================================
``POST /_double/reset``     forget everything: resources, faults, counts; settings as at the start. What a call waits
                            for is over: it takes no effect any more. Calls that are under way are waited for and not
                            counted: nobody waits for their answers any more
``POST /_double/settings``  change some of :data:`DEFAULTS`; answers all
``POST /_double/faults``    inject: see :class:`Fault`; answers ``{"id": …}``
``GET /_double/faults``     how often each was used
``DELETE /_double/faults``  inject no more
``GET /_double/calls``      ``{"count": {"ecs:RunTask": 3}, "log": [[seconds, action, outcome, key id], …]}``
``DELETE /_double/calls``   count anew
``POST /_double/tasks``     end a task from outside: ``task``, ``stopCode``, ``stoppedReason``, ``exitCode``
==========================  ===========================================================================================
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import fnmatch
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

DEFAULTS: Mapping[str, Any] = {
    "throttle": True,  # enforce the documented rate limits
    "refill": 1.0,  # how fast tokens of the rate limits come back, as a factor; 0: never
    "latency": 0.0,  # seconds that every call takes
    "network_visible_after": 0.0,  # seconds until a new VPC, subnet… is known to other calls
    "key_visible_after": 0.0,  # seconds until a new access key is accepted
    "role_visible_after": 0.0,  # seconds until a new role may be passed (AWS: up to half a minute)
    "task_visible_after": 0.0,  # seconds until a new task is listed and described
    "vpc_quota": 5,  # VPCs in a region, with the default one (AWS's default quota)
    "nat_available_after": 0.2,  # seconds that a NAT gateway is pending (AWS: a minute or two)
    "task_attached_after": 0.0,  # seconds until a task has its network interface (AWS: about 10)
    "task_running_after": 0.0,  # seconds until a task runs (AWS: 20 to 60); only where tasks are not containers
    "task_stopped_after": 0.0,  # seconds from StopTask to the end; only where tasks are not containers
    "capacity": None,  # tasks that may run at a time; more are failures[] with Fargate's capacity reason
    "vcpu_quota": None,  # vCPUs that may run at a time; more are refused as Fargate's quota does
    "spot": "plenty",  # of Fargate Spot; "refused": none, RunTask says so; "stops": tasks end for want of it; "waits"
    "quotas": {"L-3032A538": 6.0, "L-36FBB829": 6.0},  # what Service Quotas says of Fargate's vCPUs (new accounts: 6)
    "root_keys": [],  # ids of access keys that are those of the AWS account's root user
    "service_linked_role": True,  # False: ECS works only once the role AWSServiceRoleForECS exists
}


@dataclass
class Fault:
    """Something to go wrong in calls of ``action`` (``ecs:RunTask``, ``ec2:*``), ``times`` times after ``skip`` calls.

    ``kind``: ``error`` (refused, without effect), ``error_after`` (the same answer, but it took effect), ``lost`` (took
    effect, the connection breaks without an answer), ``broken`` (no effect and no answer), ``delay`` (the answer comes
    ``seconds`` later), ``hang`` (took effect, the answer never comes).
    """

    id: int
    action: str
    kind: str
    code: str = "InternalError"
    status: int = 500
    message: str = "injected by a test"
    seconds: float = 0.0
    skip: int = 0
    times: int | None = 1
    key: str | None = None
    used: int = 0

    def applies(self, action: str, key: str) -> bool:
        """Tell whether this call is hit; counts it."""
        if not fnmatch.fnmatchcase(action, self.action) or self.key not in {None, key}:
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.used >= self.times:
            return False
        self.used += 1
        return True


class OverError(Exception):
    """The double was reset while a call was under way: its test is over."""


_over: contextvars.ContextVar[asyncio.Event] = contextvars.ContextVar("over")
"""Of a call: :attr:`Control.over` as it was when the call came."""


@dataclass
class Control:
    """The state of the double, one for the process."""

    settings: dict[str, Any] = field(default_factory=lambda: dict(DEFAULTS))
    faults: list[Fault] = field(default_factory=list)
    count: Counter[str] = field(default_factory=Counter)
    log: list[tuple[float, str, str, str]] = field(default_factory=list)
    born: dict[str, float] = field(default_factory=dict)
    """When what is not visible at once was made: id or ARN to monotonic seconds."""
    answered: dict[tuple[str, str], Any] = field(default_factory=dict)
    """Answers of EC2 by action and client token: asked again with the same token, it repeats its answer."""
    over: asyncio.Event = field(default_factory=asyncio.Event)
    """Set at the next reset, and replaced by a new one."""
    under_way: set[asyncio.Event] = field(default_factory=set)
    """For each call that is being answered, what is set when it was."""

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """Answer a call: a reset waits until that is done."""
        answered = asyncio.Event()
        _over.set(self.over)
        self.under_way.add(answered)
        try:
            yield
        finally:
            self.under_way.discard(answered)
            answered.set()

    async def end_calls(self) -> None:
        """Return when all calls that are under way are over: what they change is there to be forgotten."""
        self.over.set()
        self.over = asyncio.Event()
        for answered in tuple(self.under_way):
            await answered.wait()

    def reset(self) -> None:
        """As at the start."""
        self.settings = dict(DEFAULTS)
        self.faults = []
        self.count = Counter()
        self.log = []
        self.born = {}
        self.answered = {}

    def change(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Change settings; unknown ones are a mistake of the test."""
        unknown = set(settings) - set(DEFAULTS)
        if unknown:
            raise ValueError(f"no such settings: {', '.join(sorted(unknown))}")
        self.settings.update(settings)
        return self.settings

    def inject(self, wanted: Mapping[str, Any]) -> Fault:
        """Add a fault."""
        fault = Fault(id=len(self.faults), **wanted)
        self.faults.append(fault)
        return fault

    def fault(self, action: str, key: str) -> Fault | None:
        """Return the fault that hits this call, if one does."""
        return next((fault for fault in self.faults if fault.applies(action, key)), None)

    async def wait(self, seconds: float) -> None:
        """Let a call wait.

        Raises:
            OverError: The double was reset.
        """
        try:
            await asyncio.wait_for(_over.get().wait(), seconds)
        except TimeoutError:
            return
        raise OverError

    def note(self, action: str, outcome: str, key: str) -> None:
        """Count a call and what became of it: ``ok``, ``throttled``, an error code, or the kind of a fault.

        Raises:
            OverError: The double was reset since the call came.
        """
        if _over.get().is_set():
            raise OverError
        self.count[action] += 1
        self.log.append((time.monotonic(), action, outcome, key))

    @staticmethod
    def now() -> float:
        """Return the time that :attr:`born` is kept in."""
        return time.monotonic()

    def visible(self, name: str, setting: str) -> bool:
        """Tell whether something is old enough to be seen."""
        born = self.born.get(name)
        return born is None or time.monotonic() - born >= float(self.settings[setting])


control = Control()
