"""What a pod's status says: whether it runs, why it waits, why it ended, and what to do about it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ropewalk.node import exits

Pod = Mapping[str, Any]

_PULL = frozenset({"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"})
_TOLD = frozenset({"FailedMount", "FailedAttachVolume", "FailedCreatePodSandBox", "NetworkNotReady", "Failed"})
"""Reasons of events that say why containers are not made."""
MAX_QUOTED = 300
"""Characters that are quoted of Kubernetes' own messages."""


@dataclass(frozen=True, slots=True)
class Look:
    """What a pod's status says."""

    gone: bool
    exit_code: int | None = None
    reason: str | None = None
    waits: bool = False
    """It does not run yet, and its status does not say why: events may."""


def look(pod: Pod, *, deleted: bool = False, role: str = "worker") -> Look:
    """Return what a pod's last status says; *deleted*: the pod has been seen to be deleted."""
    status = pod.get("status") or {}
    container = container_of(pod)
    state = container.get("state") or {}
    terminated = state.get("terminated") or (container.get("lastState") or {}).get("terminated")
    # Containers that others added, such as a service mesh's, run on and keep the pod's phase as it was.
    if deleted or status.get("phase") in ("Succeeded", "Failed") or state.get("terminated"):
        code = exit_code(terminated)
        return Look(True, code, _why_gone(pod, status, terminated, code, role, deleted=deleted))
    if state.get("running") is not None or terminated:
        return Look(False, None, DELETED if pod.get("metadata", {}).get("deletionTimestamp") else None)
    why = _why_waiting(status, state.get("waiting") or {})
    return Look(False, None, why, waits=why is None)


def exit_code(terminated: Mapping[str, Any] | None) -> int | None:
    """Return the exit status of a container, or minus the signal that ended it; None: nobody saw it."""
    if terminated is None or terminated.get("exitCode") is None:
        return None
    code = int(terminated["exitCode"])
    if terminated.get("reason") == "ContainerStatusUnknown":
        return None
    # A runtime reports 128 + N for signal N, as shells do; statuses of Ropewalk's own are below that.
    return 128 - code if 128 < code <= 128 + 64 else code


def own_exit(seen: Look, *, asked: bool) -> int | None:
    """Return the exit status, unless it only says that the node did as it was told when others deleted its pod."""
    return None if seen.exit_code == 0 and seen.reason == DELETED and not asked else seen.exit_code


def container_of(pod: Pod) -> Mapping[str, Any]:
    """Return the status of our container; others may have added some of theirs, and kubelets sort them by name."""
    found: Sequence[Mapping[str, Any]] = (pod.get("status") or {}).get("containerStatuses") or []
    return next((each for each in found if each.get("name") in _NAMES), found[0] if found else {})


_NAMES = frozenset({"scheduler", "worker", "probe"})


def _why_gone(
    pod: Pod,
    status: Mapping[str, Any],
    terminated: Mapping[str, Any] | None,
    code: int | None,
    role: str,
    *,
    deleted: bool,
) -> str | None:
    cause = _disruption(status) or str(status.get("reason") or "")
    message = _quoted(status.get("message"))
    if (terminated or {}).get("reason") == "OOMKilled":
        return (
            "It used more memory than it may and was killed (OOMKilled). "
            f"Ask for more {role}_memory, or make the pieces of work smaller."
        )
    if cause in _CAUSES:
        return _CAUSES[cause] + (f" Kubernetes says: {message}" if message else "")
    if pod.get("metadata", {}).get("deletionTimestamp") or deleted:
        return DELETED
    if code is not None:
        return None if code in _OURS else _by_code(terminated or {}, code)
    return f"Its pod failed: {cause or 'nobody said why'}." + (f" {message}" if message else "")


DELETED = "Its pod was deleted in Kubernetes, by hand or by something that Ropewalk does not know."
"""What is said of a pod whose end nobody explained."""

_OURS = frozenset(value for name, value in vars(exits).items() if name.startswith("EXIT_") and isinstance(value, int))
"""Statuses that the node program chose: the control plane's own sentences say more."""

_CAUSES = {
    "Evicted": "Its machine ran short of memory or disk and evicted it. Ask for machines with more room, or smaller "
    "nodes; what a pod writes to its own disk counts, too.",
    "TerminationByKubelet": "Its machine ran short of memory or disk, or was shut down, and ended it.",
    "Preempted": "It had to make room for a pod of higher priority. Use backend_options={'priority_class': …}, or "
    "another time.",
    "PreemptionByScheduler": "It had to make room for a pod of higher priority. Use "
    "backend_options={'priority_class': …}, or another time.",
    "NodeLost": "Its machine stopped answering. Nothing is to be done: workers are replaced.",
    "DeletionByTaintManager": "Its machine stopped answering or was taken away. Nothing is to be done: workers are "
    "replaced.",
    "TaintManagerEviction": "Its machine stopped answering or was taken away. Nothing is to be done: workers are "
    "replaced.",
    "EvictionByEvictionAPI": "Its machine is being emptied (drained), for example for an upgrade.",
    "DeletionByPodGC": "Its machine is gone. Nothing is to be done: workers are replaced.",
    "Terminated": "Its machine was shut down.",
    "NodeShutdown": "Its machine was shut down.",
    "Shutdown": "Its machine was shut down.",
    "DeadlineExceeded": "It reached the time limit of its pod.",
    "UnexpectedAdmissionError": "Its machine refused it when it arrived.",
    "OutOfcpu": "Its machine had no room left when it arrived: another pod was quicker.",
    "OutOfmemory": "Its machine had no room left when it arrived: another pod was quicker.",
    "OutOfpods": "Its machine had no room left when it arrived: another pod was quicker.",
    "NodeAffinity": "Its machine's labels changed, so that it may not run there any more.",
}


def _disruption(status: Mapping[str, Any]) -> str | None:
    for condition in status.get("conditions") or []:
        if condition.get("type") == "DisruptionTarget" and condition.get("status") == "True":
            return str(condition.get("reason"))
    return None


def _by_code(terminated: Mapping[str, Any], code: int) -> str:
    if terminated.get("reason") in {"ContainerCannotRun", "StartError"} or code in {126, 127}:
        message = _quoted(terminated.get("message"))
        return f"Its image cannot run it: is there a `python` with distributed in it? {message}".rstrip()
    if code < 0:
        return f"Its process was ended by signal {-code}, by hand or by its machine. Read its log with: {_LOGS}"
    return f"Its process ended with status {code}. Read its log with: {_LOGS}"


_LOGS = "ropewalk cluster logs."


def _why_waiting(status: Mapping[str, Any], waiting: Mapping[str, Any]) -> str | None:
    reason, message = str(waiting.get("reason") or ""), _quoted(waiting.get("message"))
    if reason in _PULL:
        return (
            f"Its image cannot be pulled ({reason}): {message or 'Kubernetes does not say why.'} "
            "Check the image's name, and image_pull_secrets if its registry asks for a password."
        )
    if reason == "CreateContainerConfigError":
        return f"Its container cannot be made: {message} A Secret or key that it names may be missing."
    if reason in ("CreateContainerError", "RunContainerError"):
        return f"Its container cannot be started ({reason}): {message}"
    for condition in status.get("conditions") or []:
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return (
                f"No machine has room for it: {_quoted(condition.get('message')) or 'Kubernetes does not say why.'} "
                "Ask for smaller nodes or other node selectors, or let the Kubernetes cluster grow."
            )
    return None


def why_from_events(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what a pod's events say about why it waits, the newest first."""
    for event in sorted(events, key=_when, reverse=True):
        if event.get("reason") in _TOLD and event.get("type") == "Warning":
            return f"It cannot be started ({event['reason']}): {_quoted(event.get('message'))}"
    return None


def why_gone_from_events(events: Sequence[Mapping[str, Any]]) -> str | None:
    """Return what a pod's events say about why it went away, the newest first."""
    for event in sorted(events, key=_when, reverse=True):
        cause, message = _CAUSES.get(str(event.get("reason"))), _quoted(event.get("message"))
        if cause is not None:
            return cause + (f" Kubernetes says: {message}" if message else "")
    return None


def _when(event: Mapping[str, Any]) -> str:
    metadata = event.get("metadata") or {}
    return str(event.get("lastTimestamp") or event.get("eventTime") or metadata.get("creationTimestamp") or "")


def _quoted(message: object) -> str:
    text = " ".join(str(message or "").split())
    if not text:
        return ""
    text = text if len(text) <= MAX_QUOTED else text[:MAX_QUOTED] + "…"
    return text if text.endswith((".", "…", "!")) else f"{text}."


def parse_time(text: object) -> datetime | None:
    """Return a time as the API writes it."""
    return datetime.fromisoformat(text) if isinstance(text, str) and text else None


def ended_at(pod: Pod) -> datetime | None:
    """Return when a pod's container ended; None: nobody saw it."""
    state = container_of(pod).get("state") or {}
    return parse_time((state.get("terminated") or {}).get("finishedAt"))
