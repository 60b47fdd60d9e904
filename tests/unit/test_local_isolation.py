"""Users of accounts and control groups, as far as they need neither root nor a kernel that has them."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ropewalk.backends.local import cgroups, isolation, machine, processes, uids
from ropewalk.backends.local.cgroups import HEADROOM, Cgroups, Limits
from ropewalk.backends.local.guard import Guard
from ropewalk.backends.local.isolation import Isolation
from ropewalk.backends.local.uids import Uids
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.cloud_accounts import CheckStatus, HostedSettings, Isolate

BASE = 2_100_000_000
LIMITS = Limits(memory=2**30, cpu=2, processes=100)


class TestUids:
    def test_each_account_has_one_of_its_own_for_ever(self, tmp_path: Path) -> None:
        first = Uids(tmp_path, BASE, 100)
        given = [first.of(account) for account in ("a", "b", "c")]
        assert given == [BASE, BASE + 1, BASE + 2]
        again = Uids(tmp_path, BASE, 100)
        assert [again.of(account) for account in ("c", "a", "b")] == [BASE + 2, BASE, BASE + 1]

    def test_servers_that_ask_at_the_same_time_never_give_one_twice(self, tmp_path: Path) -> None:
        accounts = [f"account-{number % 20}" for number in range(100)]
        with ThreadPoolExecutor(16) as pool:
            given = list(pool.map(lambda account: Uids(tmp_path, BASE, 100).of(account), accounts))
        by_account = dict(zip(accounts, given, strict=True))
        assert [by_account[account] for account in accounts] == given
        assert len(set(by_account.values())) == 20

    def test_a_range_that_is_used_up_is_said_and_gives_nothing_twice(self, tmp_path: Path) -> None:
        small = Uids(tmp_path, BASE, 3)
        assert [small.of("a"), small.of("b")] == [BASE, BASE + 1]
        with pytest.raises(FixItError, match="All 3 user ids"):
            small.of("c")
        assert small.of("a") == BASE
        assert small.probe == BASE + 2

    def test_another_range_leaves_accounts_what_they_have(self, tmp_path: Path) -> None:
        Uids(tmp_path, BASE, 100).of("a")
        moved = Uids(tmp_path, BASE + 1000, 100)
        assert moved.of("a") == BASE
        assert moved.of("b") == BASE + 1000

    def test_an_id_that_has_a_name_meanwhile_is_passed_over(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uids, "_named", lambda uid: uid == BASE)
        assert Uids(tmp_path, BASE, 100).of("a") == BASE + 1

    @pytest.mark.parametrize("content", ["{", "[]", '{"a": "x"}', '{"a": null}'])
    def test_a_damaged_record_is_said_and_not_guessed(self, tmp_path: Path, content: str) -> None:
        (tmp_path / "uids.json").write_text(content)
        with pytest.raises(FixItError, match="damaged"):
            Uids(tmp_path, BASE, 100).of("a")

    def test_an_id_that_could_not_be_recorded_is_not_given(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="space"):
            Uids(tmp_path, BASE, 100).of("a")
        assert Uids(tmp_path, BASE, 100).known() == {}

    def test_a_range_with_a_user_of_this_machine_is_refused(self, tmp_path: Path) -> None:
        assert "the user root has the id 0" in str(Uids(tmp_path, 0, 10).conflict())
        assert "reaches beyond" in str(Uids(tmp_path, 2**31 - 10, 100).conflict())

    def test_a_range_with_subordinate_ids_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = {"/etc/subuid": [("bob", BASE - 10, 11)]}
        monkeypatch.setattr(uids, "_numbers", lambda file, *_: iter(lines.get(str(file), [])))
        assert "/etc/subuid" in str(Uids(tmp_path, BASE, 10).conflict())
        assert Uids(tmp_path, BASE + 1, 10).conflict() is None

    def test_lists_of_users_are_read_with_their_faults(self, tmp_path: Path) -> None:
        file = tmp_path / "subuid"
        file.write_text("bob:100000:65536\n\nbroken\neve:x:1\nada:7:8\n")
        assert list(uids._numbers(file, 1, 2)) == [("bob", 100000, 65536), ("ada", 7, 8)]
        assert list(uids._numbers(tmp_path / "missing", 1, 2)) == []

    def test_the_default_range_is_free_here(self, tmp_path: Path) -> None:
        settings = HostedSettings()
        assert Uids(tmp_path, settings.uid_base, settings.uid_count).conflict() is None


class TestDecision:
    def make(self, tmp_path: Path, mode: Isolate = Isolate.AUTO) -> Isolation:
        return Isolation(
            tmp_path / "data" / "local", HostedSettings(isolation=mode), Path(__file__), "/usr/bin/python3"
        )

    def test_without_the_right_to_change_users_nodes_run_as_the_server(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "geteuid", lambda: 1000)
        isolation = self.make(tmp_path)
        assert isolation.uid("a") is None
        assert "does not run as root" in isolation.verdict().reason
        with pytest.raises(FixItError, match="does not run as root"):
            self.make(tmp_path, Isolate.REQUIRED).uid("a")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may change users")
    @pytest.mark.parametrize(
        "fault",
        [subprocess.TimeoutExpired("python", 60), OSError(errno.EAGAIN, "Resource temporarily unavailable")],
        ids=["too-slow", "no-process"],
    )
    def test_a_machine_too_busy_to_find_out_is_no_reason_to_run_nodes_as_the_server(
        self, monkeypatch: pytest.MonkeyPatch, fault: Exception
    ) -> None:
        def busy(*_args: object, **_keywords: object) -> None:
            raise fault

        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            root.chmod(0o755)
            (root / "program.py").touch()
            tried = Isolation(root / "data" / "local", HostedSettings(), root / "program.py", "/usr/bin/python3")
            with monkeypatch.context() as patched:
                patched.setattr(subprocess, "run", busy)
                with pytest.raises(TryAgainError, match="could not be found out") as caught:
                    tried.uid("a")
                assert "is tried again" in str(caught.value)
                guard = Guard(tried, Cgroups("i"), HostedSettings())
                items = {item.name: item for item in machine.check(root / "data", "127.0.0.1", guard).items}
                assert items["user"].status is CheckStatus.UNKNOWN
            done = subprocess.CompletedProcess([], 0, b"", b"")
            monkeypatch.setattr(subprocess, "run", lambda *_args, **_keywords: done)
            assert tried.verdict().isolated, "the next question tries again"

    def test_switched_off_is_not_even_tried(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(isolation, "_probe", None)
        assert self.make(tmp_path, Isolate.OFF).uid("a") is None

    def test_the_first_closed_directory_on_the_way_is_named(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o755)
        inner = tmp_path / "closed" / "inner"
        inner.mkdir(parents=True)
        (tmp_path / "closed").chmod(0o700)
        (tmp_path / "link").symlink_to(inner)
        parents = [path for path in tmp_path.parents if not path.stat().st_mode & 0o001]
        expected = parents[-1] if parents else tmp_path / "closed"
        assert isolation._closed(inner / "file") == expected
        assert isolation._closed(tmp_path / "link" / "file") == expected


class Kernel:
    """Files like those of a version 2 hierarchy; what the kernel would do to them is done by hand."""

    def __init__(self, tmp_path: Path, own: str = "/system.slice/ropewalk.service") -> None:
        self.root = tmp_path / "cgroup"
        self.proc = tmp_path / "proc"
        self.proc.mkdir()
        (self.proc / "mountinfo").write_text(
            f"22 1 0:5 / /proc rw - proc proc rw\n35 24 0:30 / {self.root} rw,nosuid shared:9 - cgroup2 cgroup2 rw\n"
        )
        (self.proc / "cgroup").write_text(f"0::{own}\n")
        self.own = self.root / own.lstrip("/")
        self.own.mkdir(parents=True)
        for group in (self.root, *self.root.rglob("*")):
            self.fill(group)

    def fill(self, group: Path) -> None:
        (group / "cgroup.controllers").write_text("cpuset cpu io memory pids\n")
        for name in ("cgroup.subtree_control", "cgroup.procs"):
            (group / name).write_text("")

    def group(self, base: Path, node: str) -> Path:
        for path in (base / "ropewalk", base / "ropewalk" / "inst", base / "ropewalk" / "inst" / node):
            path.mkdir(exist_ok=True)
            self.fill(path)
            (path / "cpu.weight").write_text("100")
        for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max", "cgroup.kill"):
            (path / name).write_text("")
        return path

    def limits(self, group: Path) -> dict[str, str]:
        names = ("memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max")
        return {name: (group / name).read_text() for name in names}


class TestUnifiedHierarchy:
    def test_a_node_has_limits_below_the_root_of_the_hierarchy(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path)
        group = kernel.group(kernel.root, "n")
        made = Cgroups("inst", kernel.proc).make("n", LIMITS)
        assert made == (str(group),)
        assert kernel.limits(group) == {
            "memory.max": str(2**30 + HEADROOM),
            "memory.swap.max": "0",
            "pids.max": "100",
            "cpu.weight": "200",
            "cpu.max": "",
        }
        for parent in (kernel.root, group.parent.parent, group.parent):
            assert (parent / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
        assert (kernel.own / "cgroup.subtree_control").read_text() == ""

    def test_all_nodes_together_weigh_as_much_as_a_program_on_each_core(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(os, "cpu_count", lambda: 16)
        kernel = Kernel(tmp_path)
        group = kernel.group(kernel.root, "n")
        Cgroups("inst", kernel.proc).make("n", LIMITS)
        weights = [(each / "cpu.weight").read_text() for each in (group.parent.parent, group.parent, group)]
        assert weights == ["1600", "1600", "200"]

    def test_a_quota_is_set_where_it_is_wanted(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path)
        group = kernel.group(kernel.root, "n")
        Cgroups("inst", kernel.proc).make("n", Limits(2**30, 0.5, 100, quota=True))
        assert kernel.limits(group)["cpu.max"] == "50000 100000"
        assert kernel.limits(group)["cpu.weight"] == "50"

    def test_what_a_service_manager_gave_us_is_used(self, tmp_path: Path) -> None:
        """systemd's ``Delegate=yes`` and ``DelegateSubgroup=server``."""
        kernel = Kernel(tmp_path, "/system.slice/ropewalk.service/server")
        group = kernel.group(kernel.own.parent, "n")
        assert Cgroups("inst", kernel.proc).make("n", LIMITS) == (str(group),)
        assert (kernel.root / "cgroup.subtree_control").read_text() == ""

    def test_without_controllers_there_are_no_groups(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path)
        (kernel.root / "cgroup.controllers").write_text("hugetlb\n")
        groups = Cgroups("inst", kernel.proc)
        assert groups.make("n", LIMITS) == ()
        assert groups.controllers == []

    def test_without_the_right_to_share_out_controllers_there_are_no_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def busy(*_: object) -> None:
            raise OSError(16, "Device or resource busy")

        kernel = Kernel(tmp_path)
        monkeypatch.setattr(cgroups, "_write", busy)
        assert Cgroups("inst", kernel.proc).make("n", LIMITS) == ()

    def test_without_proc_there_are_no_groups(self, tmp_path: Path) -> None:
        assert Cgroups("inst", tmp_path).make("n", LIMITS) == ()

    def test_killing_asks_the_kernel_to_kill_all_at_once(self, tmp_path: Path) -> None:
        kernel = Kernel(tmp_path)
        group = kernel.group(kernel.root, "n")
        cgroups.kill([str(group)])
        assert (group / "cgroup.kill").read_text() == "1"
        assert (group / "pids.max").read_text() == "0"

    @pytest.mark.parametrize(
        ("file", "content", "expected"),
        [
            ("memory.events", "low 0\nhigh 0\nmax 4\noom 1\noom_kill 1\noom_group_kill 0\n", True),
            ("memory.events", "low 0\nhigh 0\nmax 9\noom 0\noom_kill 0\n", False),
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n", True),
            ("memory.oom_control", "garbage\n", False),
            ("other", "", False),
        ],
    )
    def test_the_kernels_count_of_what_it_killed_is_read(
        self, tmp_path: Path, file: str, content: str, expected: bool
    ) -> None:
        (tmp_path / file).write_text(content)
        assert cgroups.out_of_memory([str(tmp_path)]) is expected


class TestMembers:
    def test_are_those_that_the_kernel_lists(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.procs").write_text(f"{os.getpid()}\n4194304\n")
        assert cgroups.members([str(tmp_path)]) == [processes.identity_of(os.getpid())]
        assert cgroups.members([str(tmp_path / "removed")]) == []

    def test_a_pid_that_left_the_group_while_we_looked_is_not_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its process may have ended, and a stranger have its pid."""
        procs = tmp_path / "cgroup.procs"
        procs.write_text(f"{os.getpid()}\n")
        real = processes.identity_of

        def look(pid: int) -> processes.Identity | None:
            procs.write_text("")
            return real(pid)

        monkeypatch.setattr(processes, "identity_of", look)
        assert cgroups.members([str(tmp_path)]) == []


def test_only_old_empty_groups_are_abandoned(tmp_path: Path) -> None:
    kernel = Kernel(tmp_path)
    groups = Cgroups("inst", kernel.proc)
    used = kernel.group(kernel.root, "used")
    (used / "cgroup.procs").write_text(f"{os.getpid()}\n")
    assert groups.remove_abandoned(now=time.time() + 3600) == []
    # An empty group of the real kernel has files that vanish with it; here the directory has to be really empty.
    (used.parent / "left").mkdir()
    assert groups.remove_abandoned() == []
    assert groups.remove_abandoned(now=time.time() + 3600) == [used.parent / "left"]
    assert used.is_dir()
