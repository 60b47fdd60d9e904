"""Why nodes and clusters end, as sentences that a person can act on."""

from __future__ import annotations

import signal
from dataclasses import dataclass

from ropewalk.node import exits


@dataclass(frozen=True, slots=True)
class Ending:
    """Why a cluster ends: a stable code, a sentence, and whether that is a failure."""

    code: str
    reason: str
    failed: bool = False

    @classmethod
    def stored(cls, code: str, reason: str) -> Ending:
        """Return an ending that was written down before."""
        return cls(code, reason, failed=code in _FAILURES)

    @classmethod
    def user(cls) -> Ending:
        return cls("stop_requested", "It was asked to stop.")

    @classmethod
    def silent_lifetime(cls) -> Ending:
        """Return the ending that the server writes when the scheduler should have, and cannot be heard."""
        return cls(
            "cluster_timeout_silent",
            "It reached the age of its cluster_timeout, and its scheduler did not answer: the server ended it.",
        )

    @classmethod
    def silent_idle(cls) -> Ending:
        """Return the ending that the server writes when nothing was heard for the time of the idle limit."""
        return cls(
            "idle_timeout_silent",
            "Its scheduler runs but was not heard for longer than its idle_timeout and a time of grace: "
            "the server ended it.",
        )

    @classmethod
    def ignored_lifetime(cls) -> Ending:
        """Return the ending of a cluster whose scheduler talks on long after it should have ended."""
        return cls(
            "cluster_timeout_ignored",
            "It is far beyond the age of its cluster_timeout, which its scheduler ignored: the server ended it.",
        )

    @classmethod
    def start_failed(cls, reason: str) -> Ending:
        return cls("start_failed", reason, failed=True)


_FAILURES = frozenset({"start_failed", "scheduler_failed"})

_CLOSING = {
    "idle_timeout": Ending("idle_timeout", "It had no tasks for its idle_timeout."),
    "no_client_timeout": Ending("no_client_timeout", "It had no client for its no_client_timeout."),
    "cluster_timeout": Ending("cluster_timeout", "It reached the age of its cluster_timeout."),
    "client": Ending("client_closed", "A client closed it, for example with Client.shutdown()."),
}

_BY_EXIT = {
    exits.EXIT_IDLE: _CLOSING["idle_timeout"],
    exits.EXIT_NO_CLIENT: _CLOSING["no_client_timeout"],
    exits.EXIT_LIFETIME: _CLOSING["cluster_timeout"],
    exits.EXIT_CLIENT: _CLOSING["client"],
}

_SEE_LOG = "Read its log with: ropewalk cluster logs."

_EXITS = {
    exits.EXIT_NO_SCHEDULER: f"it did not find its scheduler. {_SEE_LOG}",
    exits.EXIT_CRASH: f"it failed with an exception. {_SEE_LOG}",
    exits.EXIT_CANNOT_LISTEN: "its address is in use or not of that machine. Create the cluster again.",
    exits.EXIT_CONFIG: "its options are not usable there: check worker_class, worker_options and scheduler_options. "
    f"{_SEE_LOG}",
}

_PERMANENT_EXITS = frozenset({exits.EXIT_CONFIG})


def ending_of_signal(closing: str, reason: str | None) -> Ending:
    """Return the ending that a scheduler announced while it could still speak; *reason*: what its backend knows."""
    return _CLOSING.get(closing) or _stopped_outside(reason)


def _stopped_outside(reason: str | None) -> Ending:
    sentence = "Its scheduler was told to stop, not by Ropewalk."
    return Ending("stopped_outside", f"{sentence} {reason}" if reason else sentence)


def ending_of_exit(code: int | None, reason: str | None, *, started: bool) -> Ending:
    """Return the ending that the exit of the scheduler's process stands for."""
    if code in _BY_EXIT:
        return _BY_EXIT[code]
    if code == exits.EXIT_OK:
        return _stopped_outside(reason)
    sentence = f"The scheduler ended {'' if started else 'before it was ready'}: {_why(code, reason)}".replace(
        " :", ":"
    )
    return Ending("scheduler_failed" if started else "start_failed", sentence, failed=True)


def worker_end_reason(code: int | None, reason: str | None, *, started: bool) -> tuple[str, bool]:
    """Return why a worker ended unasked, and whether another try would end the same way."""
    when = "It ended unexpectedly" if started else "It ended before it joined its cluster"
    return f"{when}: {_why(code, reason)}", code in _PERMANENT_EXITS


def _why(code: int | None, reason: str | None) -> str:
    if code in _EXITS:
        return _EXITS[code]  # ours: says more than any cloud can
    if reason:
        return _continued(reason)
    if code is None:
        return f"nobody saw why. {_SEE_LOG}"
    return _by_signal(-code) if code < 0 else f"its process ended with status {code}. {_SEE_LOG}"


def _continued(sentence: str) -> str:
    """Return a sentence as the second half of another; names in capitals keep them."""
    return sentence[:1].lower() + sentence[1:] if sentence[1:2].islower() else sentence


def _by_signal(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    if number == signal.SIGKILL:
        return (
            "its process was killed (SIGKILL), by hand or because the machine ran out of memory. "
            "If that was memory, ask for more worker_memory or scheduler_memory."
        )
    return f"its process was ended by {name}. {_SEE_LOG}"
