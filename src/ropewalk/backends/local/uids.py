"""One user id per account, out of a range that nobody else uses, remembered for ever."""

from __future__ import annotations

import fcntl
import json
import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ropewalk.errors import FixItError

_NAMED_AT_MOST = 0x7FFFFFFF
"""Ids from 2**31 on are negative to some programs."""


@dataclass(frozen=True, slots=True)
class Uids:
    """The ids of all accounts, in the file ``uids.json`` of *root*.

    An id is never given to a second account, so what an account left anywhere on the machine is never another's.

    Args:
        root: Directory of all nodes.
        base: First id of the range.
        count: Ids in the range. The last one is for the probe.
    """

    root: Path
    base: int
    count: int

    @property
    def probe(self) -> int:
        """The id that tries whether such users can run nodes at all; no account gets it."""
        return self.base + self.count - 1

    def of(self, account: str) -> int:
        """Return the account's id, recorded on disk before it is ever used.

        Raises:
            FixItError: all ids of the range are given away.
            OSError: it cannot be recorded.
        """
        known = self.known()
        if account in known:
            return known[account]
        with self._locked():
            known = self.known()
            if account not in known:
                known[account] = self._next(known)
                self._store(known)
            return known[account]

    def known(self) -> dict[str, int]:
        """Return the ids of all accounts that have one.

        Raises:
            FixItError: the record is damaged.
        """
        try:
            content = json.loads((self.root / "uids.json").read_bytes())
            return {str(account): int(uid) for account, uid in content.items()}
        except FileNotFoundError:
            return {}
        except (ValueError, AttributeError, TypeError):
            raise FixItError(
                f"{self.root / 'uids.json'} is damaged, so it is not known which user an account's nodes run as.",
                advice="Restore it from a backup: account names and their user ids, as a JSON object.",
            ) from None

    def conflict(self) -> str | None:
        """Say who else uses ids of the range: users, groups, and the subordinate ids of users' containers."""
        for file, kind in (("/etc/passwd", "user"), ("/etc/group", "group")):
            for name, uid, _ in _numbers(Path(file), 2, None):
                if self._overlaps(uid, 1):
                    return f"the {kind} {name} has the id {uid}"
        for file in ("/etc/subuid", "/etc/subgid"):
            for name, start, count in _numbers(Path(file), 1, 2):
                if self._overlaps(start, count):
                    return f"{file} gives ids from {start} on to {name}"
        if self.base + self.count - 1 > _NAMED_AT_MOST:
            return f"it reaches beyond {_NAMED_AT_MOST}"
        return None

    def _overlaps(self, start: int, count: int) -> bool:
        return start < self.base + self.count and self.base < start + count

    def _next(self, known: dict[str, int]) -> int:
        taken = set(known.values())
        for uid in range(max([self.base, *(uid + 1 for uid in taken if self._overlaps(uid, 1))]), self.probe):
            if not _named(uid):
                return uid
        raise FixItError(
            f"All {self.count} user ids from {self.base} on are given to accounts.",
            field="uid_count",
            advice="Make the range larger: uid_base and uid_count of the hosted cloud account.",
        )

    def _store(self, known: dict[str, int]) -> None:
        """Write through to the disk: after a power failure no account may get another's id."""
        new = self.root / "uids.json.new"
        descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor, for its mode
            json.dump(known, file, indent=1)
            file.flush()
            os.fsync(descriptor)
        new.replace(self.root / "uids.json")
        directory = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self.root / "uids.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _named(uid: int) -> bool:
    """Whether the id has a name meanwhile, also in a directory service that cannot be listed."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _numbers(file: Path, start: int, count: int | None) -> Iterator[tuple[str, int, int]]:
    """Yield name, first id and number of ids of each line of a colon-separated file."""
    try:
        lines = file.read_text(errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        parts = line.split(":")
        try:
            yield parts[0], int(parts[start]), 1 if count is None else int(parts[count])
        except (IndexError, ValueError):
            continue
