"""The program of a warm parent: imports once what nodes need, then forks itself into nodes. It needs no Ropewalk.

Run as ``python -P warm.py FD PROGRAM MODULE...``, where FD is one end of a ``SOCK_SEQPACKET`` pair and PROGRAM what
most nodes run. It says ``{"ready": true}``, or ``{"ready": false, "why": ...}`` if it would not be safe to fork. Then
it answers one request after the other, and ends when the other side closes its end. Requests:

* ``{"op": "fork", "program": ..., "arguments": [...], "argv": [...], "cwd": ..., "children": bool, "stdin": bool,
  "uid": n or null, "cgroups": [...]}`` with descriptors: of a file with the environment, of the log, of the standard
  input if there is one, and of what the node is to keep. ``{"pid": n}`` as soon as the node can be found by its tag, or
  ``{"error": ...}`` if nothing runs. Environments may hold secrets, and what was once in this process's memory is in
  that of every later fork, whoever's that is: only the fork itself reads the file.
* ``{"op": "wait", "pid": n}``: ``{"status": exit status or minus the signal, or null while it runs}``. A node stays a
  zombie until this is asked, so that its pid means the same process until then.
* ``{"op": "rest"}``: ``{}``. It keeps no spare nodes any more.

There are no threads, no event loop and no descriptors but the three standard ones, FD and those of spares when it
forks; it looks before the first.
"""

from __future__ import annotations

import gc
import json
import os
import socket
import sys
import types
from collections.abc import Mapping, Sequence
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # the interpreter of the nodes need not have Ropewalk: from the files beside this one
    for _name in ("confinement", "becoming", "offspring", "rehearsal", "touched", "spares"):
        _full = f"ropewalk.backends.local.{_name}"
        sys.modules[_full] = types.ModuleType(_full)
        SourceFileLoader(_full, str(Path(__file__).with_name(f"{_name}.py"))).exec_module(sys.modules[_full])

from ropewalk.backends.local.becoming import (
    MAX_DESCRIPTORS,
    MESSAGE_BYTES,
    descriptors,
    die_with_thread,
    show,
)
from ropewalk.backends.local.rehearsal import preload, rehearse
from ropewalk.backends.local.spares import Spares, compiled


def unsafe(control: int) -> str | None:
    """Return why forking this process would not be safe, or None."""
    threads = sorted((task / "comm").read_text().strip() for task in Path("/proc/self/task").iterdir())
    if len(threads) > 1:
        return f"an import started threads: {', '.join(threads)}"
    extra = set(descriptors()) - {0, 1, 2, control}
    if extra:
        opened = ", ".join(str(Path(f"/proc/self/fd/{number}").readlink()) for number in sorted(extra))
        return f"an import left open: {opened}"
    return None


def serve(control: socket.socket) -> None:
    """Answer requests until nobody can ask any more."""
    spares = Spares()
    while True:
        spares.fill(control)
        message, received, _, _ = socket.recv_fds(control, MESSAGE_BYTES, MAX_DESCRIPTORS)
        if not message:
            return
        try:
            answer = respond(spares, message, received)
        except Exception as exc:  # noqa: BLE001 - whatever it is, the other side has to know that nothing runs
            answer = {"error": f"{type(exc).__name__}: {exc}"}
        for descriptor in received:
            os.close(descriptor)
        control.send(json.dumps(answer).encode())


def respond(spares: Spares, message: bytes, received: Sequence[int]) -> Mapping[str, Any]:
    """Do what a request says; returns the answer."""
    request: dict[str, Any] = json.loads(message)
    if request["op"] == "wait":
        return wait(request["pid"])
    if request["op"] == "rest":
        spares.end()
        return {}
    compiled(request["program"])
    return spares.become(message, received, children=request["children"])


def wait(pid: int) -> dict[str, Any]:
    """Return the status of a forked node that has ended, which frees its pid."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return {"status": None}
    return {"status": os.waitstatus_to_exitcode(status) if found else None}


def main(argv: Sequence[str]) -> None:
    """Import, then serve."""
    die_with_thread()  # also when it is frozen: it must never be left behind
    control = socket.socket(fileno=int(argv[1]))
    control.set_inheritable(False)
    gc.disable()
    preload(argv[3:])
    rehearse()
    compiled(argv[2])
    why = unsafe(control.fileno())
    try:
        show(sys.orig_argv, os.environ)
    except OSError as exc:
        why = why or str(exc)
    # Import-time garbage goes first; then the collector never touches, and so never copies, what forks share.
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": why is None, "why": why}).encode())
    serve(control)


if __name__ == "__main__":
    main(sys.argv)
