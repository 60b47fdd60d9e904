"""A check's report, ordered as people go through it: what stands in the way first, by when it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ropewalk.schemas.aws_permissions import Phase
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus

__all__ = ["Group", "groups"]

_PHASES = {
    Phase.SETUP: "To check and to prepare",
    Phase.RUN: "To run clusters",
    Phase.IMAGES: "To keep images",
    Phase.LOGS: "To read logs",
    Phase.TEARDOWN: "To remove what was made",
}
"""What a phase is called, in the order in which people come to them."""
_GENERAL = "The cloud account itself"


@dataclass(frozen=True, slots=True)
class Group:
    """Items that are needed at the same time."""

    id: str
    title: str
    wanting: Sequence[CheckItem]
    """Failed ones first, then warnings, then what nobody knows."""
    fine: Sequence[CheckItem]


_ORDER = {CheckStatus.FAILED: 0, CheckStatus.WARNING: 1, CheckStatus.UNKNOWN: 2}


def groups(report: CheckReport) -> list[Group]:
    """Return the report's items by phase; each once, where it is needed first. What has no phase is general."""
    by_phase: dict[str, list[CheckItem]] = {}
    for item in report.items:
        phases = item.details.get("phases") or [""]
        by_phase.setdefault(str(phases[0]), []).append(item)
    titles = {"": _GENERAL, **{phase.value: title for phase, title in _PHASES.items()}}
    return [_group(phase or "general", title, by_phase[phase]) for phase, title in titles.items() if phase in by_phase]


def _group(name: str, title: str, items: Sequence[CheckItem]) -> Group:
    fine = [item for item in items if item.status is CheckStatus.OK]
    wanting = [item for item in items if item.status is not CheckStatus.OK]
    return Group(name, title, sorted(wanting, key=lambda item: _ORDER[item.status]), fine)
