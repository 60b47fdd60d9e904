"""Parts of the local backend that need no node."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ropewalk.backends.local import LocalBackend, machine, ports, processes
from ropewalk.backends.local.cgroups import Cgroups
from ropewalk.backends.local.guard import Guard
from ropewalk.backends.local.isolation import Isolation
from ropewalk.backends.local.processes import Tag
from ropewalk.backends.port import NodeShape
from ropewalk.errors import FixItError
from ropewalk.schemas.cloud_accounts import CheckReport, CheckStatus, HostedSettings, Isolate
from ropewalk.schemas.clusters import GIB, NodeRole


def check(root: Path, settings: HostedSettings | None = None) -> CheckReport:
    """Check with the rights that this process has at the moment."""
    settings = settings or HostedSettings()
    isolation = Isolation(root, settings, Path(__file__), sys.executable)
    return machine.check(root, "127.0.0.1", Guard(isolation, Cgroups("inst"), settings))


def make(root: Path, settings: HostedSettings | None = None) -> LocalBackend:
    return LocalBackend(root, "inst", settings or HostedSettings())


def test_price_follows_the_operators_rates(tmp_path: Path) -> None:
    settings = HostedSettings(core_hour_price=0.5, gib_hour_price=0.25, currency="EUR")
    assert make(tmp_path, settings).hourly_price(NodeShape(2, 4 * GIB)) == (2.0, "EUR")


def test_more_cores_than_the_machine_has_are_allowed(tmp_path: Path) -> None:
    make(tmp_path).validate(NodeShape(400, GIB // 4), NodeRole.WORKER, {})


def test_memory_of_a_container_is_its_own_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(limit), str(tmp_path / "missing")))
    limit.write_text("max\n")
    whole = machine.total_memory()
    limit.write_text(f"{2**20}\n")
    assert machine.total_memory() == 2**20 < whole
    with pytest.raises(FixItError, match=r"1\.00 MiB"):
        make(tmp_path).validate(NodeShape(1, 2**21), NodeRole.SCHEDULER, {})


def test_check_warns_of_little_disk_and_few_descriptors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_LITTLE_DISK", 2**62)
    monkeypatch.setattr(machine, "_FEW_DESCRIPTORS", 2**62)
    report = check(tmp_path)
    warned = {item.name: item.advice for item in report.items if item.status is CheckStatus.WARNING}
    assert {"disk", "file descriptors"} <= set(warned)
    assert all(warned.values())
    assert report.ok


def test_check_says_what_hosted_clusters_trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unisolated = HostedSettings(isolation=Isolate.OFF)
    for uid, status in ((0, CheckStatus.WARNING), (1000, CheckStatus.OK)):
        monkeypatch.setattr("os.geteuid", lambda uid=uid: uid)
        (item,) = [item for item in check(tmp_path, unisolated).items if item.name == "user"]
        assert item.status is status
        assert "trust" in (item.message + (item.advice or ""))


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    check(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("listen", "reached"),
    [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("127.0.0.1", "127.0.0.1"), ("node.example", "node.example")],
)
def test_wildcards_are_reached_by_loopback(listen: str, reached: str) -> None:
    assert ports.reachable(listen) == reached


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "node.example"])
def test_addresses_are_written_and_read(host: str) -> None:
    assert ports.port_of(ports.join(host, 8786)) == 8786


@pytest.mark.parametrize("address", ["", "tls://host", "tls://host:x", "tls://host:99999"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(FixItError) as caught:
        ports.port_of(address)
    assert caught.value.field == "address"


def test_a_port_that_was_promised_is_taken_again_unless_another_listens_there() -> None:
    with ports.reserve("127.0.0.1", None) as first:
        promised = first.getsockname()[1]
    with ports.reserve("127.0.0.1", promised) as again:
        assert again.getsockname()[1] == promised
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with ports.reserve("127.0.0.1", taken) as instead:
            assert instead.getsockname()[1] != taken


@given(st.text(st.characters(blacklist_characters="/"), min_size=1), st.sampled_from(list(NodeRole)))
def test_tags_are_read_as_they_were_written(name: str, role: NodeRole) -> None:
    tag = Tag("inst", "c1", role, name)
    assert Tag.parse(str(tag)) == tag


@pytest.mark.parametrize("text", ["", "a/b/c", "a/b/manager/c", "a/b/worker/c/d"])
def test_what_is_no_tag_is_none(text: str) -> None:
    assert Tag.parse(text) is None


@pytest.mark.parametrize(
    ("code", "asked", "said"),
    [
        (3, False, "exit status 3"),
        (-9, False, "SIGKILL"),
        (-99, False, "unknown"),
        (None, False, "no server watched"),
        (-9, True, "asked to stop"),
    ],
)
def test_ends_are_told_as_a_sentence(code: int | None, asked: bool, said: str) -> None:
    assert said in processes.describe_exit(code, asked=asked)


@pytest.mark.skipif(sys.platform != "linux", reason="compares with /proc")
def test_processes_are_known_by_their_start_without_proc_too() -> None:
    seen = processes._look_psutil(os.getpid())
    assert seen is not None
    assert seen[1] == processes._look_linux(seen[0].pid)[1]  # type: ignore[index] # this process runs
    assert processes._look_psutil(2**30) is None
