"""Whether nodes can run as users of their own here, found out by trying; and the way to their directories."""

from __future__ import annotations

import os
import stat
import subprocess
import threading
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ropewalk.backends.local.confinement import Confinement
from ropewalk.backends.local.filesystem import SCARCE
from ropewalk.backends.local.processes import LINUX
from ropewalk.backends.local.uids import Uids
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import HostedSettings, Isolate

PROBE_SECONDS = 60.0
"""Importing distributed takes 0.5 s, and some 10 s from a cold network disk."""

_PROBE = "import os, sys, distributed; os.stat(os.path.join(sys.argv[1], '.')); open(sys.argv[2]).close()"

_REMEDY = (
    "Install Python, the virtual environment and the data directory where other users may enter and read, for example "
    "/opt/ropewalk and /var/lib/ropewalk; nothing below /root."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether each account's nodes have a user of their own; if not, why, and what to do about it."""

    isolated: bool
    reason: str = ""
    advice: str | None = None


class Isolation:
    """Decides once, at the first question, and gives out users.

    Args:
        root: Directory of all nodes.
        settings: What the operator decided.
        program: The node program.
        interpreter: The Python that runs it.
    """

    def __init__(self, root: Path, settings: HostedSettings, program: Path, interpreter: str) -> None:
        self.uids = Uids(root, settings.uid_base, settings.uid_count)
        self._root = root
        self._mode = settings.isolation
        self._program = program
        self._interpreter = interpreter
        self._lock = threading.Lock()
        self._verdict: Verdict | None = None

    @property
    def may_change_users(self) -> bool:
        """Whether the system lets this process run programs as others."""
        return LINUX and os.geteuid() == 0

    def verdict(self) -> Verdict:
        """Say whether nodes are isolated. Blocks for about a second at the first time.

        Raises:
            TryAgainError: The machine is too busy to find out. Taken for a "no", that would let every user's nodes run
                as the server for as long as it runs.
        """
        with self._lock:
            if self._verdict is None:
                self._verdict = self._decide()
            return self._verdict

    def uid(self, account: str) -> int | None:
        """Return the user id for the account's nodes; None: the server's own.

        Raises:
            FixItError: isolation is required, and impossible; or there are no ids left.
            TryAgainError: it cannot be found out now.
            OSError: the id cannot be recorded, or the directories cannot be prepared.
        """
        verdict = self.verdict()
        if not verdict.isolated:
            if self._mode is Isolate.REQUIRED:
                raise FixItError(
                    f"Nodes must run as users of their own, but cannot: {verdict.reason}.",
                    field="isolation",
                    advice=verdict.advice,
                )
            return None
        self._open_way()
        return self.uids.of(account)

    def _decide(self) -> Verdict:
        if self._mode is Isolate.OFF:
            return Verdict(False, "it is switched off", "Set isolation of the hosted cloud account to auto.")
        if not self.may_change_users:
            return Verdict(
                False,
                "the server does not run as root, so it cannot change users",
                "Let only people you trust use hosted clusters, or run the server as root to isolate accounts.",
            )
        conflict = self.uids.conflict()
        if conflict is not None:
            return Verdict(
                False, f"the range of user ids is not free: {conflict}", "Change uid_base of the hosted cloud account."
            )
        # This directory and its parent are ours to open; those above belong to others.
        above = next(path for path in self._root.parent.parents if path.exists())
        reason = next(
            (f"{closed} is closed to other users" for path in (Path(self._interpreter), self._program, above)
             if (closed := _closed(path)) is not None),
            None,
        ) or _probe(self._interpreter, str(self._program), str(above), self.uids.probe)  # fmt: skip
        return Verdict(True) if reason is None else Verdict(False, reason, _REMEDY)

    def _open_way(self) -> None:
        """Let other users pass through to directories whose names they know, which list and show nothing."""
        # Where others may pass already, it may be a directory of the system, whose mode is none of our business.
        if not self._root.parent.stat().st_mode & stat.S_IXOTH:
            _let_pass(self._root.parent, keep_closed=True)
        for path in (self._root, self._root / "clusters"):
            path.mkdir(mode=0o711, exist_ok=True)
            _let_pass(path, keep_closed=False)


def _closed(path: Path) -> Path | None:
    """Return the first directory on the way to *path*, links followed, that other users may not enter."""
    for way in (path, path.resolve()):
        for directory in (*reversed(way.parents), way):
            if directory.is_dir() and not directory.stat().st_mode & stat.S_IXOTH:
                return directory
    return None


@lru_cache(maxsize=16)
def _probe(interpreter: str, program: str, above: str, uid: int) -> str | None:
    """Do as a node would, as a user without rights; returns what is in the way.

    Raises:
        TryAgainError: It could not be tried now.
    """
    command = [interpreter, "-P", "-c", _PROBE, above, program]
    try:
        done = subprocess.run(  # noqa: S603 - our own command
            command,
            cwd="/",
            env={"HOME": "/nonexistent", "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_SECONDS,
            check=False,
            preexec_fn=Confinement(uid).apply,  # made to run after a fork
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        raise _unsure(f"the trial took longer than {PROBE_SECONDS:.0f} seconds") from None
    except (OSError, subprocess.SubprocessError) as exc:
        if isinstance(exc, OSError) and exc.errno in SCARCE:
            raise _unsure(f"no process could be started ({exc.strerror})") from exc
        return f"a process of the user id {uid} could not be started: {exc}"
    if done.returncode == 0:
        return None
    last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
    return f"the user id {uid} cannot run nodes with {interpreter}: {last[:300] or f'exit status {done.returncode}'}"


def _unsure(why: str) -> TryAgainError:
    message = f"Whether nodes can run as users of their own could not be found out: {why}."
    return TryAgainError(message, advice="This machine is too busy. It is tried again.", delay=5.0)


def _let_pass(path: Path, *, keep_closed: bool) -> None:
    """Add the right to pass through *path*; what only its mode protected until now is closed first."""
    mode = stat.S_IMODE(path.stat().st_mode)
    if keep_closed and not mode & stat.S_IXOTH:
        for entry in path.iterdir():
            if not entry.is_symlink():
                entry.chmod(stat.S_IMODE(entry.stat().st_mode) & ~stat.S_IRWXO)
    wanted = (mode | stat.S_IXOTH) & ~(stat.S_IROTH | stat.S_IWOTH)
    if mode != wanted:
        path.chmod(wanted)
