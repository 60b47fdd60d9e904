"""What an installation has on this machine, looked for from outside: nothing here asks the server or its backend.

Everything is found by the installation's directory or id, so that other programs of the machine play no part.
"""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
SHARED = tuple(map(Path, ("/dev/shm", "/tmp", "/var/tmp")))
RECORDS = re.compile(r"clusters/[^/]+(/[^/]+(/(lock|stop|about\.json|process\.json|ended\.json|log(\.\d+)?))?)?")
"""What may stay of a node that has ended, below the directory of all nodes, as long as logs are kept."""


@dataclass(frozen=True)
class NodeProcess:
    """A process that carries a node's tag; *main* leads its session, as the one that was started as the node does."""

    process: psutil.Process
    name: str
    role: str
    main: bool


@dataclass(frozen=True)
class Installed:
    """Where an installation is, and how it is recognised.

    Args:
        directory: Of everything: the data directory is in it, and the temporary files of its server are.
        data_dir: The server's.
        installation: Its id.
        uids: Users of its nodes, where it has some of its own.
    """

    directory: Path
    data_dir: Path
    installation: str
    uids: range = field(default=range(0))

    def node_processes(self) -> list[NodeProcess]:
        """Return all processes of nodes."""
        found = []
        for pid in psutil.pids():
            with contextlib.suppress(OSError, psutil.Error):
                process = psutil.Process(pid)
                parts = _tag(pid).split("/")
                if len(parts) == 4 and parts[0] == self.installation:
                    found.append(NodeProcess(process, parts[3], parts[2], os.getsid(pid) == pid))
        return found

    def main_processes(self) -> Counter[str]:
        """Count the main processes of each node."""
        return Counter(node.name for node in self.node_processes() if node.main)

    def processes(self) -> Iterator[str]:
        """Tell of each process that has anything to do with it: by tag, command, directory, environment or user."""
        here = os.fsencode(self.directory)
        for pid in psutil.pids():
            if pid == os.getpid():
                continue
            with contextlib.suppress(OSError, psutil.Error):
                proc = Path(f"/proc/{pid}")
                command = (proc / "cmdline").read_bytes()
                state = (proc / "stat").read_bytes().rpartition(b")")[2].split()[0]
                texts = (command, (proc / "environ").read_bytes(), os.fsencode((proc / "cwd").readlink()))
                ours = proc.stat().st_uid in self.uids or self.installation.encode() in texts[1]
                if state not in b"ZX" and (ours or any(here in text for text in texts)):
                    shown = command.replace(b"\0", b" ").decode(errors="replace")[:160]
                    yield f"process {pid}: {shown}"

    def sockets(self) -> Iterator[str]:
        """Tell of each open network socket of those processes, and of each socket file."""
        for line in self.processes():
            pid = int(line.split()[1].rstrip(":"))
            with contextlib.suppress(psutil.Error):
                for connection in psutil.Process(pid).net_connections():
                    yield f"socket of process {pid}: {connection.status} {connection.laddr}"
        yield from (f"socket file {path}" for path in self.directory.rglob("*") if path.is_socket())

    def files(self) -> Iterator[str]:
        """Name everything in the directory."""
        yield from (f"file {path.relative_to(self.directory)}" for path in self.directory.rglob("*"))

    def shared_files(self) -> Iterator[str]:
        """Name what its users have in the folders that all share."""
        for folder in SHARED:
            for entry in os.scandir(folder):
                with contextlib.suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid in self.uids:
                        yield f"shared file {entry.path}"

    def control_groups(self) -> Iterator[str]:
        """Name its control groups."""
        for folder, names, _files in os.walk(CGROUPS):
            if self.installation in names and folder.endswith("/ropewalk"):
                yield from (f"control group {path}" for path in Path(folder, self.installation).rglob("*/"))

    def rows(self) -> Iterator[str]:
        """Tell of each row that is not history: what lives, leases, and how many rows other tables have."""
        connection = sqlite3.connect(f"file:{self.data_dir}/ropewalk.db?mode=ro", uri=True)
        with contextlib.closing(connection) as database:
            for table, ended in (("clusters", "'stopped', 'failed'"), ("nodes", "'stopped', 'failed', 'lost'")):
                query = f"SELECT * FROM {table} WHERE state NOT IN ({ended})"
                yield from (f"row of {table}: {row[:2]}" for row in database.execute(query))
            leases = database.execute("SELECT id, lease_owner FROM clusters WHERE lease_owner IS NOT NULL")
            yield from (f"lease of {row[0]}: {row[1]}" for row in leases)
            tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall()
            for (table,) in tables:
                if table not in ("clusters", "nodes", "events", "sqlite_sequence"):  # these keep history
                    (number,) = database.execute(f"SELECT count(*) FROM {table}").fetchone()
                    yield from (f"row {index} of {table}" for index in range(number))

    def orphans(self) -> list[str]:
        """Return what was ever said of nodes that no cluster knew."""
        connection = sqlite3.connect(f"file:{self.data_dir}/ropewalk.db?mode=ro", uri=True)
        with contextlib.closing(connection) as database:
            rows = database.execute("SELECT message FROM events WHERE code LIKE 'orphan.%'").fetchall()
        return [f"an orphan: {message}" for (message,) in rows]

    def everything(self) -> set[str]:
        """Tell of all of it."""
        looks = (self.processes, self.sockets, self.files, self.shared_files, self.control_groups, self.rows)
        return {sentence for look in looks for sentence in look()}


def not_records(sentences: Iterable[str], nodes: Path) -> list[str]:
    """Return those of *sentences* that do not name a record of an ended node; *nodes* is the directory of all nodes."""
    start = f"file {nodes}/"
    return sorted(
        sentence
        for sentence in sentences
        if not (sentence.startswith(start) and RECORDS.fullmatch(sentence.removeprefix(start)))
    )


def descriptors(pid: int) -> Counter[str]:
    """Count what a server has open by kind, leaving out its database, whose connections come and go."""
    kinds: Counter[str] = Counter()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(link.readlink())
            if "ropewalk.db" not in target:
                kinds[re.sub(r":\[\d+\]$", "", target) + _watched(link)] += 1
    return kinds


def _watched(descriptor: Path) -> str:
    """Say what a pidfd is of; the kernel gives -1 for the pid of a process that was reaped (proc(5))."""
    if "pidfd" not in str(descriptor.readlink()):
        return ""
    info = dict(
        line.split(":", 1)
        for line in descriptor.parents[1].joinpath("fdinfo", descriptor.name).read_text().splitlines()
    )
    return " of a dead process" if int(info["Pid"]) < 0 else f" of {psutil.Process(int(info['Pid'])).cmdline()[:3]}"


def _tag(pid: int) -> str:
    for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
        if entry.startswith(b"ROPEWALK_NODE="):
            return entry.partition(b"=")[2].decode(errors="replace")
    return ""


def installed(directory: Path, data_dir: Path, uids: range = range(0)) -> Installed:
    """Return the installation whose server has made its database in *data_dir*."""
    connection = sqlite3.connect(f"file:{data_dir}/ropewalk.db?mode=ro", uri=True)
    with contextlib.closing(connection) as database:
        (found,) = database.execute("SELECT id FROM installation").fetchone()
    return Installed(directory, data_dir, str(found), uids)
