"""How far preparing or tearing down is, from what is planned, what exists and what happened. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.schemas.cloud_accounts import CloudAccount, CloudResource, PreparePlan
from ropewalk.schemas.common import Event
from ropewalk.server.events import EventCode

__all__ = ["Progress", "Step", "progress"]

_BEGINNINGS = frozenset({EventCode.CLOUD_ACCOUNT_PREPARING, EventCode.CLOUD_ACCOUNT_TEARING_DOWN})


@dataclass(frozen=True, slots=True)
class Step:
    """One kind of things that are made."""

    kind: str
    what: str
    made: tuple[CloudResource, ...]
    """Those that exist."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a work is."""

    done: int
    total: int
    steps: tuple[Step, ...]
    """Of preparing: what is planned, and after that what else exists. Of tearing down: none."""
    gone: tuple[str, ...] = ()
    """Of tearing down: what was removed, newest first, as sentences."""


def progress(cloud: CloudAccount, plan: PreparePlan | None, events: Sequence[Event]) -> Progress | None:
    """Return how far the work on *cloud* is; None: nobody asked for any.

    Args:
        cloud: As it is.
        plan: What preparing makes; None: that is not known.
        events: Its events, the newest first.
    """
    if cloud.work == "prepare":
        return _preparing(cloud, plan)
    return _tearing_down(cloud, events) if cloud.work == "teardown" else None


def _preparing(cloud: CloudAccount, plan: PreparePlan | None) -> Progress:
    texts: dict[str, list[str]] = {}
    for item in plan.resources if plan is not None else ():
        texts.setdefault(item.kind, []).append(item.what)
    planned = len(texts)
    for resource in cloud.resources:
        texts.setdefault(resource.kind, [])
    steps = tuple(
        Step(kind, " ".join(what), tuple(item for item in cloud.resources if item.kind == kind))
        for kind, what in texts.items()
    )
    return Progress(sum(bool(step.made) for step in steps[:planned]), planned, steps)


def _tearing_down(cloud: CloudAccount, events: Sequence[Event]) -> Progress:
    gone: list[str] = []
    for event in events:
        if event.code in _BEGINNINGS:
            break
        if event.code == EventCode.CLOUD_ACCOUNT_RESOURCE_REMOVED:
            gone.append(event.message)
    left = sum(bool(item.details.get("owned", True)) for item in cloud.resources)
    return Progress(len(gone), len(gone) + left, (), tuple(gone))
