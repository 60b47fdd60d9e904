"""Runs one command in namespaces of its own. Started by ``sandbox.py``; needs nothing but the standard library.

The order matters: rights are given up first, then namespaces are made as that user, then the image's folder becomes the
root and the old one is let go of, so that there is no way back to it, also for whoever is root in here.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import sys
from collections.abc import Mapping
from pathlib import Path

USER = 65534
"""``nobody``: owns nothing on a machine."""
CANNOT = 121
"""Exit status: no sandbox can be made here."""

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_LAST_CAP = 63
_KEPT_CAPS = (0, 1, 3, 4, 6, 7)
"""chown, dac_override, fowner, fsetid, setgid, setuid: for programs that install files."""
_DEVICES = ("null", "zero", "full", "random", "urandom")

_PLACES = ("/tmp", "/mnt", "/run")  # noqa: S108 - covered by a file system of its own, seen by nobody else
"""Folders of the machine that are covered, in here only, to make room for a path to the image."""

_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _mount(source: str, target: str, kind: str | None, flags: int) -> None:
    _call("mount", source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), None)


def main(order: Mapping[str, object]) -> int:
    """Run the command; return its exit status."""
    network = bool(order["network"])
    try:
        os.chdir(str(order["root"]))  # the user that it becomes may not enter the folders above
        _leave_rights()
        _namespaces(network=network)
    except OSError as exc:
        sys.stderr.write(f"{exc.strerror}\n")
        return CANNOT
    child = os.fork()
    if child == 0:
        _inside(str(order["command"]), order["environ"], network=network)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) % 256


def _leave_rights() -> None:
    _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(USER, USER, USER)
        os.setresuid(USER, USER, USER)
        _call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)  # else its own files in /proc are not its own any more


def _namespaces(*, network: bool) -> None:
    user, group = os.geteuid(), os.getegid()
    kinds = _NEWUSER | _NEWNS | _NEWPID | _NEWUTS | _NEWIPC | (0 if network else _NEWNET)
    _call("unshare", kinds)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _inside(command: str, environ: object, *, network: bool) -> None:
    """Become the command; never returns."""
    try:
        _call("prctl", _PR_SET_PDEATHSIG, 9, 0, 0, 0)
        root = _stage()
        _furnish(root, network=network)
        _enter(root)
        _drop_capabilities()
    except OSError as exc:
        sys.stderr.write(f"{exc.strerror}\n")
        os._exit(CANNOT)
    variables = {str(k): str(v) for k, v in environ.items()} if isinstance(environ, dict) else {}
    os.dup2(2, 1)
    try:
        os.execve("/bin/sh", ["sh", "-ec", command], variables)  # noqa: S606 - the shell of the image
    except OSError as exc:
        sys.stderr.write(f"the image has no shell: {exc.strerror}\n")
        os._exit(127)


def _stage() -> str:
    """Return where the present folder can be reached by a path that anybody may walk."""
    _mount("none", "/", None, _MS_REC | _MS_PRIVATE)
    place = next((each for each in _PLACES if Path(each).is_dir()), "/")
    _mount("tmpfs", place, "tmpfs", _MS_NOSUID | _MS_NODEV)
    root = f"{place}/root"
    Path(root).mkdir()
    _mount(".", root, None, _MS_BIND | _MS_REC)
    return root


def _furnish(root: str, *, network: bool) -> None:
    for name in ("proc", "dev", "tmp"):
        Path(root, name).mkdir(exist_ok=True)
    try:
        _mount("proc", f"{root}/proc", "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    except OSError as exc:
        if exc.errno not in (errno.EPERM, errno.EACCES):
            raise
        # In a container whose own /proc is partly hidden none can be mounted. Few programs miss it.
    _mount("tmpfs", f"{root}/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV)  # noqa: S108 - the image's own, and new
    _mount("tmpfs", f"{root}/dev", "tmpfs", _MS_NOSUID)
    for name in _DEVICES:
        Path(root, "dev", name).touch()
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, _MS_BIND)
    if network and Path("/etc/resolv.conf").exists():
        place = Path(root, "etc", "resolv.conf")
        if not place.is_symlink():
            place.touch()
            _mount("/etc/resolv.conf", str(place), None, _MS_BIND)


def _enter(root: str) -> None:
    os.chdir(root)
    old = Path(".old-root")
    old.mkdir()
    if _libc.syscall(ctypes.c_long(_PIVOT_ROOT[platform.machine()]), b".", b".old-root") != 0:
        raise OSError(ctypes.get_errno(), "the root of the file system could not be changed")
    os.chdir("/")
    _call("umount2", b"/.old-root", _MNT_DETACH)
    Path("/.old-root").rmdir()


def _drop_capabilities() -> None:
    for number in range(_LAST_CAP + 1):
        if number not in _KEPT_CAPS and _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            break  # beyond the last one that this kernel has
    _call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text("utf-8"))))
