"""Find out whether clusters can run in an AWS account; nothing is changed.

Each action of the table of permissions is tried (:mod:`probes`) and, where the key may ask, simulated by IAM
(:mod:`simulate`). What a request proves counts more than a simulation; where neither knows, the report says *unknown*.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.credentials import identity_of
from ropewalk.backends.aws.facts import facts
from ropewalk.backends.aws.probes import PROBES, Probe, Verdict, verdict
from ropewalk.backends.aws.simulate import simulated
from ropewalk.errors import BackendError, TryAgainError
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.aws_permissions import PERMISSIONS, Feature, Permission
from ropewalk.schemas.aws_policy import partition, policy_of
from ropewalk.schemas.aws_scopes import OWNED, PARENTS
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, CloudIdentity

__all__ = ["PATIENCE", "check_account"]

PATIENCE = 45.0  # seconds for all: some 3 s are usual, a busy machine takes ten times that; the server waits for 60
TOGETHER = 8  # requests to one service at once: with 0.2 s for each, the 50 to EC2 take 1.3 s
SEVERAL = 5  # actions without an answer that are told by name; more are told as a number
REPEATS = 2  # of a probe without an answer; all are harmless

_T = TypeVar("_T")
_L = TypeVar("_L")
_Said = tuple[str, str | None]
"""A verdict, and why."""
_LATE: _Said = (Verdict.UNKNOWN, "AWS did not answer in time")


@dataclass(frozen=True, slots=True)
class _Finding:
    permission: Permission
    verdict: str
    why: str | None = None
    late: bool = False
    """AWS did not answer in time."""


async def check_account(aws: Aws, settings: AwsSettings, *, patience: float = PATIENCE) -> CheckReport:
    """Check a key and its rights, the region, ECS's service-linked role and Fargate's quotas.

    What AWS has not answered after *patience* seconds in all is unknown, and told in one item if that is much. Never
    raises: what fails is in the report.
    """
    now = datetime.now(UTC)
    until = asyncio.get_running_loop().time() + patience
    try:
        who = await identity_of(aws)
    except BackendError as error:
        item = CheckItem(
            name="credentials",
            status=CheckStatus.FAILED,
            message=error.message,
            advice=error.advice,
            details=error.details,
        )
        return CheckReport(checked_at=now, items=[item])
    # The few questions first, before many go out together.
    others, findings = await asyncio.gather(facts(aws, until), _permissions(aws, settings, who, until))
    items = [_identity(who), *others, *_summary(findings, _features(settings), patience)]
    few = sum(finding.late for finding in findings) <= SEVERAL
    items += [_item(finding, _features(settings)) for finding in findings if few or not finding.late]
    return CheckReport(checked_at=now, items=items, policy=_missing(findings))


def _identity(who: CloudIdentity) -> CheckItem:
    return CheckItem(
        name="credentials",
        status=CheckStatus.WARNING if who.warning else CheckStatus.OK,
        message=f"The key is that of {who.name} in the AWS account {who.owner}.",
        advice=who.warning,
        details={"account_id": who.owner, "arn": who.name},
    )


def _features(settings: AwsSettings) -> frozenset[Feature]:
    wanted = {Feature.PRIVATE: settings.private_subnets, Feature.PEERING: bool(settings.peering)}
    return frozenset(feature for feature, asked in wanted.items() if asked)


async def _permissions(aws: Aws, settings: AwsSettings, who: CloudIdentity, until: float) -> list[_Finding]:
    names = {"partition": partition(aws.region), "region": aws.region, "account": who.owner}
    root = who.name.endswith(":root")  # IAM simulates users, groups and roles only
    roles = [role for role in (settings.execution_role_arn, settings.task_role_arn) if role]
    principal = settings.role_arn or who.name
    # Each service has its own, so that one that hangs takes no place from the others.
    rooms = {probe.service: asyncio.Semaphore(TOGETHER) for probe in PROBES.values()}
    asking = _nothing() if root else _in_time(simulated(aws, principal, names, roles), until, None)
    tries = [
        _in_time(_try(aws, probe, action, names, rooms[probe.service]), until, _LATE)
        for action, probe in PROBES.items()
    ]
    said, tried = await asyncio.gather(asking, asyncio.gather(*tries))
    return _judged(dict(zip(PROBES, tried, strict=True)), said)


async def _nothing() -> None:
    return None


async def _in_time(work: Awaitable[_T], until: float, late: _L) -> _T | _L:
    try:
        async with asyncio.timeout_at(until):
            return await work
    except TimeoutError:
        return late


async def _try(aws: Aws, probe: Probe, action: str, names: Mapping[str, str], room: asyncio.Semaphore) -> _Said:
    """Return a verdict, and AWS's words where there is none."""
    async with room:
        error = await _sent(aws, probe, probe.filled(names))
        found = verdict(error, action)
        tagged = probe.with_tag(names)
        if found == Verdict.DENIED and tagged is not None:
            error = await _sent(aws, probe, tagged)
            found = verdict(error, action)
    return found, error.message if error is not None and found == Verdict.UNKNOWN else None


async def _sent(aws: Aws, probe: Probe, parameters: dict[str, Any]) -> BackendError | None:
    error: BackendError | None = None
    for _ in range(1 + REPEATS):
        try:
            await aws.call(probe.service, probe.operation, **parameters)
        except TryAgainError as passing:
            error = passing
        except BackendError as final:
            return final
        else:
            return None
    return error


def _judged(tried: Mapping[str, _Said | None], simulation: Mapping[str, _Said] | BackendError | None) -> list[_Finding]:
    said = simulation if isinstance(simulation, Mapping) else {}
    by_tag = {item.action for item in PERMISSIONS if {OWNED, PARENTS} & set(item.scopes)}
    # What cannot exist has no tags. If no right that depends on tags shows, the policy may be one that asks for them.
    only_tags = not said and not any((tried.get(action) or ("",))[0] == Verdict.ALLOWED for action in by_tag)
    known = {"sts:GetCallerIdentity": (Verdict.ALLOWED, None), "iam:SimulatePrincipalPolicy": _simulates(simulation)}
    findings = []
    for item in PERMISSIONS:
        found = known.get(item.action) or _merged(tried.get(item.action), said.get(item.action), item.action in by_tag)
        if only_tags and item.action in by_tag and found[0] == Verdict.DENIED:
            found = (
                Verdict.UNKNOWN,
                "AWS denies it for what has no tag of Ropewalk, and there is nothing yet that has",
            )
        findings.append(_Finding(item, *found, late=found == _LATE))
    return findings


def _simulates(simulation: Mapping[str, _Said] | BackendError | None) -> _Said:
    if isinstance(simulation, Mapping):
        return Verdict.ALLOWED, None
    if isinstance(simulation, BackendError):
        found = verdict(simulation, "iam:SimulatePrincipalPolicy")
        return found, None if found == Verdict.DENIED else simulation.message
    return Verdict.UNKNOWN, "IAM was not asked, or did not answer in time"


def _unanswered(findings: Sequence[_Finding], patience: float) -> list[CheckItem]:
    """Return one item for all that AWS did not answer in time, if that is much."""
    late = [finding.permission.action for finding in findings if finding.late]
    if len(late) <= SEVERAL:
        return []
    text = f"AWS did not answer about {len(late)} of {len(findings)} actions within {patience:g} seconds: unknown."
    advice = "Run the check again. If it stays so, this server or its way to AWS is too slow."
    details = {"unanswered": sorted(late)}
    return [CheckItem(name="answers", status=CheckStatus.UNKNOWN, message=text, advice=advice, details=details)]


def _merged(tried: _Said | None, said: _Said | None, by_tag: bool) -> _Said:
    """Return what a request and the simulation say together."""
    if tried is not None and tried[0] == Verdict.ALLOWED:
        return tried
    if tried is not None and tried[0] == Verdict.DENIED:
        if said is None:
            return tried
        if said[0] == Verdict.DENIED or by_tag:
            return said
        return (
            Verdict.DENIED,
            "AWS refuses it although the key's policies allow it: a policy of the organization does not",
        )
    if said is not None:
        return said
    reason = tried[1] if tried is not None else None
    return Verdict.UNKNOWN, reason or "no request can tell, and IAM could not be asked (iam:SimulatePrincipalPolicy)"


def _item(finding: _Finding, features: frozenset[Feature]) -> CheckItem:
    item, why = finding.permission, f" ({finding.why})" if finding.why else ""
    needed = item.needed(features)
    statuses = {Verdict.ALLOWED: CheckStatus.OK, Verdict.UNKNOWN: CheckStatus.UNKNOWN}
    texts = {
        Verdict.ALLOWED: f"Allowed; used to {item.use}.",
        Verdict.UNKNOWN: f"Unknown{why}. Without it: {item.breaks}.",
        Verdict.DENIED: f"Denied{why}. Without it: {item.breaks}.",
    }
    return CheckItem(
        name=item.action,
        status=statuses.get(finding.verdict, CheckStatus.FAILED if needed else CheckStatus.WARNING),
        message=texts[finding.verdict],
        details={"verdict": finding.verdict, "phases": [str(phase) for phase in item.phases], "needed": needed},
    )


def _summary(findings: Sequence[_Finding], features: frozenset[Feature], patience: float) -> list[CheckItem]:
    return [_counts(findings, features), *_unanswered(findings, patience)]


def _counts(findings: Sequence[_Finding], features: frozenset[Feature]) -> CheckItem:
    denied = [item for item in findings if item.verdict == Verdict.DENIED]
    unknown = sum(item.verdict == Verdict.UNKNOWN for item in findings)
    needed = [item.permission.action for item in denied if item.permission.needed(features)]
    counts = f"{len(findings) - len(denied) - unknown} of {len(findings)} actions are allowed"
    counts += f", {unknown} {_are(unknown)} unknown" if unknown else ""
    if not denied:
        status = CheckStatus.UNKNOWN if 2 * unknown > len(findings) else CheckStatus.OK
        return CheckItem(name="permissions", status=status, message=f"{counts}, none is denied.")
    text = f"{counts}, {len(denied)} {_are(len(denied))} denied; {_meaning(len(denied), len(needed))}."
    status = CheckStatus.FAILED if needed else CheckStatus.WARNING
    advice = (
        "Add the policy at the end of this report to the key's user; `ropewalk cloud-account policy aws` prints all."
    )
    return CheckItem(name="permissions", status=status, message=text, advice=advice, details={"needed": needed})


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _meaning(denied: int, needed: int) -> str:
    if denied == 1:
        return "clusters cannot run without it" if needed else "clusters can run without it"
    return f"clusters cannot run without {needed} of these" if needed else "clusters can run without them"


def _missing(findings: Sequence[_Finding]) -> dict[str, Any] | None:
    """Return a policy of just what is denied."""
    denied = [finding.permission for finding in findings if finding.verdict == Verdict.DENIED]
    return policy_of(denied) if denied else None
