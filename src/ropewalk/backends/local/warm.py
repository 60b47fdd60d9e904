"""The program of a warm parent: imports once what nodes need, then forks itself into nodes. It needs no Ropewalk.

Run as ``python -P warm.py FD MODULE...``, where FD is one end of a ``SOCK_SEQPACKET`` pair. It says
``{"ready": true}``, or ``{"ready": false, "why": ...}`` if it would not be safe to fork. Then it answers one request
after the other, and ends when the other side closes its end. Requests:

* ``{"op": "fork", "program": ..., "arguments": [...], "argv": [...], "cwd": ..., "children": bool, "stdin": bool,
  "uid": n or null, "cgroups": [...]}`` with descriptors: of a file with the environment, of the log, of the standard
  input if there is one, and of what the node is to keep. ``{"pid": n}`` as soon as the node can be found by its tag, or
  ``{"error": ...}`` if nothing runs. Environments may hold secrets, and what was once in this process's memory is in
  that of every later fork, whoever's that is: only the fork itself reads the file.
* ``{"op": "wait", "pid": n}``: ``{"status": exit status or minus the signal, or null while it runs}``. A node stays a
  zombie until this is asked, so that its pid means the same process until then.

There are no threads, no event loop and no descriptors but the three standard ones and FD when it forks; it looks.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import importlib
import json
import logging
import mmap
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from importlib.util import module_from_spec, spec_from_file_location
from multiprocessing import current_process, forkserver, resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from ropewalk.backends.local.confinement import Confinement
else:  # from the file beside this one: the interpreter of the nodes need not have Ropewalk
    _spec = spec_from_file_location("_confinement", Path(__file__).with_name("confinement.py"))
    sys.modules[_spec.name] = _confinement = module_from_spec(_spec)
    _spec.loader.exec_module(_confinement)
    Confinement = _confinement.Confinement

REQUEST_BYTES = 2**18
MAX_DESCRIPTORS = 8

_PR_SET_PDEATHSIG = 1
_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
# struct prctl_mm_map of linux/prctl.h: eleven addresses, that of the auxiliary vector, its size, a descriptor.
_MM_MAP = "<11QQIi"
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.sbrk.restype = ctypes.c_void_p

_shown: list[mmap.mmap] = []
"""Keeps the memory that the kernel reads the command line and the environment from."""
_programs: dict[tuple[str, int, int], types.CodeType] = {}


def show(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    """Make /proc tell *argv* and *environ* for this process, by which nodes are recognised.

    Raises:
        OSError: the kernel does not allow it (it was built without CONFIG_CHECKPOINT_RESTORE).
    """
    arguments = b"".join(os.fsencode(word) + b"\0" for word in argv)
    variables = b"".join(os.fsencode(f"{name}={value}") + b"\0" for name, value in environ.items())
    # Private memory: the kernel shows no other.
    memory = mmap.mmap(-1, len(arguments) + len(variables) + 1, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.write(arguments + variables)
    here = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
    stat = {number: int(fields[number - 3]) for number in (26, 27, 28, 45, 46, 47)}  # numbered as in proc(5)
    middle = here + len(arguments)
    packed = struct.pack(
        _MM_MAP,
        *(stat[26], stat[27], stat[45], stat[46], stat[47], _LIBC.sbrk(0), stat[28]),
        *(here, middle, middle, middle + len(variables)),
        *(0, 0, -1),
    )
    if _LIBC.prctl(_PR_SET_MM, _PR_SET_MM_MAP, ctypes.create_string_buffer(packed, len(packed)), len(packed), 0):
        raise OSError(ctypes.get_errno(), "the kernel does not let a process change what /proc tells of it")
    _shown[:] = [memory]


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


def descriptors() -> list[int]:
    """Return the open descriptors of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - numbers are wanted, not paths
        with contextlib.suppress(OSError):
            os.fstat(int(name))  # not the one that listed them
            found.append(int(name))
    return found


def preload(modules: Sequence[str]) -> None:
    """Import what is installed of *modules*; what cannot be imported is the node's own matter."""
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def rehearse() -> None:
    """Do once what each node would do first: what libraries keep of it, forks find. None of it is secret or random.

    Certificates of the machine that TLS would trust by default, versions of packages, and the some 260 routes of the
    dashboards, whose patterns are compiled. Together half of the processor time of a forked scheduler, and more than
    half of a worker's (docs/explanation/performance.md). What is read anew by each fork, since another user may not
    read the same, is read by a faster parser.
    """
    steps = {
        "dask.config": _parse_quickly,
        "tornado.netutil": _trust,
        "distributed.versions": _find_versions,
        "distributed.dashboard.scheduler": _build_dashboards,
    }
    for module, step in steps.items():
        with contextlib.suppress(Exception):  # another version of a library: then forks do it themselves
            if module in sys.modules:
                step()


def _trust() -> None:
    from tornado import netutil  # noqa: PLC0415 - nodes have it, and this program starts without

    netutil._client_ssl_defaults()  # noqa: SLF001 - remembered by tornado
    netutil._server_ssl_defaults()  # noqa: SLF001 - see above


def _parse_quickly() -> None:
    """Let Dask read its configuration files by libyaml: each worker reads all that it finds, comments by the page."""
    import yaml  # noqa: PLC0415 - nodes have it, and this program starts without
    from dask import config  # noqa: PLC0415 - see above

    load: Any = functools.partial(yaml.load, Loader=yaml.CSafeLoader)
    # Dask's own name for it only: what tasks parse is none of ours.
    vars(config)["yaml"] = types.SimpleNamespace(safe_load=load)


def _find_versions() -> None:
    from distributed import versions  # noqa: PLC0415 - see above

    versions.get_versions()


def _build_dashboards() -> None:
    import bokeh.application.handlers.function as handling  # noqa: PLC0415 - see above
    import bokeh.server.tornado as serving  # noqa: PLC0415 - see above
    from distributed.dashboard import core, scheduler, worker  # noqa: PLC0415 - see above

    build: Any = core.BokehApplication
    nobody: Any = types.SimpleNamespace(http_server=types.SimpleNamespace(port=0))
    for module in (scheduler, worker):
        build(module.applications, nobody, prefix="")
    # All of these were just checked; each fork would read 47 signatures again.
    vars(handling)["_check_callback"] = lambda *_args: None
    # A third of what is left is writing all routes down for a log line that nobody asked for.
    if not serving.log.isEnabledFor(logging.DEBUG):
        vars(serving)["pformat"] = lambda *_args, **_options: ""


def program(path: str) -> types.CodeType:
    """Return the compiled program at *path*, compiled again only when it has changed."""
    status = Path(path).stat()
    key = (path, status.st_mtime_ns, status.st_size)
    if key not in _programs:
        _programs[key] = compile(Path(path).read_bytes(), path, "exec", dont_inherit=True)
    return _programs[key]


def serve(control: socket.socket) -> Mapping[str, Any] | None:
    """Answer requests; returns in a forked node with what it is to be, in the parent at the end with None."""
    while True:
        message, received, _, _ = socket.recv_fds(control, REQUEST_BYTES, MAX_DESCRIPTORS)
        if not message:
            return None
        request: dict[str, Any] = json.loads(message)
        if request["op"] == "wait":
            answer = wait(request["pid"])
        else:
            try:
                forked = fork(control, request, received)
            except Exception as exc:  # noqa: BLE001 - whatever it is, the other side has to know that nothing runs
                forked = {"error": f"{type(exc).__name__}: {exc}"}
            if forked is None:
                return request
            answer = forked
            for descriptor in received:
                os.close(descriptor)
        control.send(json.dumps(answer).encode())


def wait(pid: int) -> dict[str, Any]:
    """Return the status of a forked node that has ended, which frees its pid."""
    try:
        found, status = os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return {"status": None}
    return {"status": os.waitstatus_to_exitcode(status) if found else None}


def fork(control: socket.socket, request: Mapping[str, Any], received: Sequence[int]) -> dict[str, Any] | None:
    """Fork a node. Returns the answer in the parent, and None in the node."""
    program(request["program"])
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(tell)
        with open(told, "rb") as pipe:  # noqa: PTH123 - a descriptor
            why = pipe.read()
        if why == b"up":
            return {"pid": pid}
        os.waitpid(pid, 0)
        return {"error": why.decode() or "it ended at once"}
    try:
        os.close(told)
        control.close()
        become(request, received, tell)
        os.write(tell, b"up")
        os.close(tell)
    except BaseException as exc:  # noqa: BLE001 - this process must not go on as a second parent
        os.write(tell, f"{type(exc).__name__}: {exc}".encode())
        os._exit(70)
    return None


def become(request: Mapping[str, Any], received: Sequence[int], tell: int) -> None:
    """Turn this fork into what a process that was just started would be."""
    os.setsid()
    os.umask(0o077)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    variables, log, *kept = received
    with open(variables, "rb") as file:  # noqa: PTH123 - a descriptor
        environ = json.load(file)
    if request["stdin"]:
        os.dup2(kept.pop(0), 0)
    for number in (1, 2):
        os.dup2(log, number)
    keep = {0, 1, 2, tell, *kept}
    for number in descriptors():
        if number not in keep:
            os.close(number)
    Confinement(request["uid"], tuple(request["cgroups"])).apply(execs=False)
    os.environ.clear()
    os.environ.update(environ)
    show(request["argv"], environ)
    os.chdir(request["cwd"])
    sys.argv = [request["program"], *request["arguments"]]
    sys.orig_argv = list(request["argv"])
    renew()


def renew() -> None:
    """Make new whatever must not be shared with the other forks."""
    random.seed()
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()
    current_process().authkey = os.urandom(32)
    tempfile.tempdir = None


def run(request: Mapping[str, Any]) -> NoReturn:
    """Be the node: run its program as ``__main__``, and end with its status."""
    code = program(request["program"])
    main = types.ModuleType("__main__")
    main.__file__ = request["program"]
    main.__builtins__ = __builtins__  # type: ignore[attr-defined]  # as the interpreter does
    sys.modules["__main__"] = main
    if request["children"]:
        serve_children()
    status = 0
    try:
        exec(code, main.__dict__)  # noqa: S102 - this is how a program is run
    except SystemExit as exc:
        status = exc.code if isinstance(exc.code, int) else 0 if exc.code is None else 1
    except BaseException:  # noqa: BLE001 - as the interpreter does
        sys.excepthook(*sys.exc_info())
        status = 1
    # Not the whole end of an interpreter, which would copy much of the shared memory only to free it.
    atexit._run_exitfuncs()  # noqa: SLF001 - the interpreter's own end does the same, and more
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)


def serve_children() -> None:
    """Fork what multiprocessing would start: its fork server and its resource tracker, both as this process is now.

    Dask's Nanny then has its worker forked from an image that is imported and has neither threads nor an event loop.
    Should one of them die, multiprocessing starts it anew, as a plain process.
    """
    import dask  # noqa: PLC0415 - long imported

    tracked, track = os.pipe()
    tracker = fork_helper({tracked}, "resource_tracker", lambda: resource_tracker.main(tracked))
    os.close(tracked)
    tracking: Any = resource_tracker._resource_tracker  # noqa: SLF001 - what its own start would set
    tracking._fd, tracking._pid = track, tracker  # noqa: SLF001 - see above

    # In the node's own folder, closed to other users: whoever may connect runs what he likes. Named by a descriptor of
    # that folder, since the address of a socket is 107 bytes at the most.
    folder = os.open(tempfile.gettempdir(), os.O_PATH | os.O_DIRECTORY)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"/proc/self/fd/{folder}/forkserver")
    listener.listen()
    alive, keep_alive = os.pipe()
    server: Any = forkserver._forkserver  # noqa: SLF001 - what its own start would set
    server._forkserver_address = listener.getsockname()  # noqa: SLF001 - see above
    server._forkserver_alive_fd = keep_alive  # noqa: SLF001 - see above
    server._forkserver_pid = fork_helper(  # noqa: SLF001 - see above
        {listener.fileno(), alive}, "forkserver", lambda: fork_children(listener.detach(), alive)
    )
    os.close(alive)
    listener.close()
    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})


def fork_children(listener: int, alive: int) -> None:
    """Be the fork server; each of its children, but not what those fork in turn, gets random numbers of its own."""
    here = os.getpid()

    def renewed() -> None:
        if os.getppid() == here:
            renew()

    os.register_at_fork(after_in_child=renewed)
    forkserver.main(listener, alive, [])


def fork_helper(keep: set[int], name: str, work: Any) -> int:
    """Fork a process that does *work*, with no descriptors but the standard ones and *keep*."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for number in descriptors():
            if number not in {0, 1, 2, *keep}:
                os.close(number)
        show([sys.executable, "-c", f"from multiprocessing.{name} import main"], os.environ)
        work()
    except SystemExit:
        os._exit(0)
    except BaseException:  # noqa: BLE001 - this process must not go on as a second node
        sys.excepthook(*sys.exc_info())
    os._exit(1)


def main(argv: Sequence[str]) -> Mapping[str, Any] | None:
    """Import, then serve; returns in a forked node with what it is to be."""
    # Also when it is frozen: it must never be left behind.
    _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    control = socket.socket(fileno=int(argv[1]))
    control.set_inheritable(False)
    gc.disable()
    preload(argv[2:])
    rehearse()
    why = unsafe(control.fileno())
    try:
        show(sys.orig_argv, os.environ)
    except OSError as exc:
        why = why or str(exc)
    # Import-time garbage goes first; then the collector never touches, and so never copies, what forks share.
    gc.collect()
    gc.freeze()
    control.send(json.dumps({"ready": why is None, "why": why}).encode())
    request = serve(control)
    if request is not None:
        gc.enable()
    return request


if __name__ == "__main__":
    _request = main(sys.argv)
    if _request is not None:
        run(_request)
