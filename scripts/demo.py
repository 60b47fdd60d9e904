"""The demo, once everything is installed; run it as scripts/demo.

A server on a free port of this machine, with its data below .cache/demo; a user; a login that leaves your own
configuration alone; examples/flights.py on a cluster; its timeline and its cost. At the end nothing is left running,
which is checked, also when something failed or Ctrl-C was pressed.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType

import httpx
import psutil

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
USER = "demo"
DEFAULT_PORT = 8780
START_SECONDS = 90
"""For the server: two seconds on a fast machine, half a minute on a slow one that has no .pyc files yet."""
STOP_SECONDS = 60
"""For clusters and server; nodes are given ten seconds to end by themselves before they are killed."""

# What a container of a cloud would cost: AWS Fargate, Linux on x86, us-east-1, on demand, in 2025.
CORE_HOUR, GIB_HOUR = 0.04048, 0.004445


class DemoError(Exception):
    """Something went wrong; the message is for a person."""


def say(text: str) -> None:
    print(f"\n==> {text}", flush=True)


class Demo:
    """One run, in a directory of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.log = home / "server.log"
        # Found again in the environment of every process that comes of this run.
        self.tag = f"run-{secrets.token_hex(8)}"
        self.environ = self._environ()
        self.server: subprocess.Popen[bytes] | None = None
        self.url = ""

    def _environ(self) -> dict[str, str]:
        # Neither your configuration nor your server's settings play a part.
        ours = ("DASK_", "ROPEWALK_", "PYTHONPATH", "PYTHONHOME", "PYTHONSTARTUP")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return {**kept, "DASK_CONFIG": str(self.home / "config"), "DEMO_OF_ROPEWALK": self.tag}

    def run(self) -> None:
        self.start_server()
        self.create_operator()
        self.compute()
        self.show_what_happened()

    def start_server(self) -> None:
        for wanted in (DEFAULT_PORT, 0):
            port = free_port(wanted)
            if port is None:
                print(f"    port {DEFAULT_PORT} is taken, so another one is used")
                continue
            self.url = f"http://127.0.0.1:{port}"
            say(f"Starting the server at {self.url}; its data is in {shown(self.data)}")
            self._launch(port)
            if self._answers():
                return
        raise DemoError(f"The server did not start. The end of its log:\n{self._tail()}")

    def _launch(self, port: int) -> None:
        command = [str(BIN / "ropewalk"), "server", "start", "--port", str(port), "--data-dir", str(self.data)]
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C is for this program, which then stops the server in its turn.
            self.server = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def _answers(self) -> bool:
        assert self.server is not None  # noqa: S101 - just launched
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.server.poll() is None:
            if ready(self.url):
                return True
            time.sleep(0.1)
        return False

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(f"    {line}" for line in lines[-20:]) or "    (it wrote nothing)"

    def create_operator(self) -> None:
        say("Creating the operator, with a personal account, and logging in")
        password = secrets.token_urlsafe(18)
        private(self.home / "password", password)
        print(f"    the password is in {shown(self.home / 'password')}")
        self.ropewalk(
            "server", "setup", "--username", USER, "--password-stdin", "--data-dir", str(self.data), stdin=password
        )
        self.ropewalk("login", "--server", self.url, "--user", USER, "--password-stdin", stdin=password)
        prices = ("--core-hour-price", str(CORE_HOUR), "--gib-hour-price", str(GIB_HOUR))
        self.ropewalk("cloud-account", "set", "hosted", *prices, quiet=True)

    def compute(self) -> None:
        say("Running examples/flights.py: a cluster of four workers answers questions about 336,776 flights")
        done = subprocess.run([sys.executable, ROOT / "examples" / "flights.py"], env=self.environ, check=False)
        if done.returncode != 0:
            raise DemoError(f"examples/flights.py failed with status {done.returncode}; what it said is above.")

    def show_what_happened(self) -> None:
        name = self._cluster_id()
        self.ropewalk("cluster", "stop", name, "--wait", "--yes", quiet=True)
        say("What happened to the cluster, as the server recorded it")
        self.ropewalk("cluster", "events", name)
        say("What it cost, at the prices that an operator can set (here: those of AWS Fargate)")
        self.ropewalk("cluster", "cost", name)

    def _cluster_id(self) -> str:
        found = json.loads(self._captured("cluster", "list", "--all", "--json"))
        if not found:
            raise DemoError("The server knows of no cluster.")
        return str(found[0]["id"])

    def ropewalk(self, *arguments: str, stdin: str = "", quiet: bool = False) -> None:
        """Run a command as a user would."""
        if not quiet:
            print(f"    $ ropewalk {' '.join(arguments)}", flush=True)
        output = self._captured(*arguments, stdin=stdin)
        if not quiet:
            print(output, end="", flush=True)

    def _captured(self, *arguments: str, stdin: str = "") -> str:
        command = [str(BIN / "ropewalk"), *arguments]
        done = subprocess.run(command, env=self.environ, input=stdin, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise DemoError(f"`ropewalk {' '.join(arguments)}` failed:\n{done.stderr}")
        return done.stdout

    def stop(self) -> bool:
        """Stop clusters, server and whatever is left; return whether all ended in an orderly way."""
        say("Stopping everything")
        if self.server is not None and self.server.poll() is None:
            self._stop_clusters()
            self.server.terminate()
            try:
                self.server.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                print("    the server did not end in time")
        left = self._processes()
        for process in left:
            print(f"    still there, killed: {process.pid} {' '.join(process.cmdline())[:100]}")
            process.kill()  # psutil compares the start time first: never a stranger with a recycled pid
        psutil.wait_procs(left, timeout=10)
        print("    no process is left" if not left else f"    {len(left)} processes had to be killed")
        return not left

    def _stop_clusters(self) -> None:
        try:
            names = [cluster["id"] for cluster in json.loads(self._captured("cluster", "list", "--json"))]
            if names:
                self._captured("cluster", "stop", "--wait", "--yes", *names)
        except (DemoError, ValueError):
            print("    the clusters could not be stopped by the server")

    def _processes(self) -> list[psutil.Process]:
        """Find every process that this run has started, whoever is its parent now."""
        found = []
        for process in psutil.process_iter():
            try:
                tagged = process.environ().get("DEMO_OF_ROPEWALK") == self.tag
                if tagged or any(str(self.home) in part for part in process.cmdline()):
                    found.append(process)
            except (psutil.AccessDenied, psutil.NoSuchProcess, psutil.ZombieProcess):
                continue
        return [process for process in found if process.pid != os.getpid()]


def free_port(wanted: int) -> int | None:
    """Return *wanted* if it can be listened on, a free one for 0, None otherwise."""
    with socket.socket() as probe:
        # As servers do: a port whose last connections are only fading out is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted))
        except OSError:
            return None
        return int(probe.getsockname()[1])


def ready(url: str) -> bool:
    """Tell whether the server answers and can work."""
    try:
        return httpx.get(f"{url}/readyz", timeout=5, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def private(path: Path, text: str) -> None:
    """Write a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{text}\n")


def shown(path: Path) -> str:
    """Return *path* as it is called from here, if that is shorter."""
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def interrupted(number: int, _frame: FrameType | None) -> None:
    # Only once: a second Ctrl-C must not stop the clean-up half-way.
    for each in SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt(signal.Signals(number).name)


SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

NEXT = """
What to do next
    docs/tutorial.md             your first cluster, step by step, in ten minutes
    docs/howto/run-a-server.md   a server for your team
    examples/flights.py          the program that ran just now
"""


def main() -> int:
    """Run the demo; return the exit status."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    base = ROOT / ".cache" / "demo"
    base.mkdir(parents=True, exist_ok=True)
    demo = Demo(Path(tempfile.mkdtemp(prefix=time.strftime("%Y%m%d-%H%M%S-"), dir=base)))
    for number in SIGNALS:
        signal.signal(number, interrupted)
    status = 1
    try:
        demo.run()
        status = 0
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        status = 130
    except (DemoError, OSError) as exc:
        print(f"\nerror: {exc}", file=sys.stderr)
    finally:
        orderly = demo.stop()
    if status == 0 and orderly:
        shutil.rmtree(demo.home, ignore_errors=True)
        print(NEXT)
        return 0
    print(
        f"\nEverything that was written is in {shown(demo.home)}; the server's log: {shown(demo.log)}", file=sys.stderr
    )
    return status or 1


if __name__ == "__main__":
    sys.exit(main())
