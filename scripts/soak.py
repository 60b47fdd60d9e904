"""Creates, scales, stops and breaks clusters at random on a real server, then looks for anything that is left.

Run by ``scripts/soak``, and for a short time by the tests. What it breaks, by ``kill -9`` or by freezing: the server,
schedulers, workers, what workers started, the warm parent. What must hold: nothing runs twice, no wish that the server
took is lost, and once all clusters have ended there is no process, socket, file, control group or row of them but
their records, and not even those once they are older than logs are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import psutil
from tests.support import isolated, server_process
from tests.support.installation import Installation, made
from tests.support.inventory import Installed, descriptors, installed, not_records
from tests.support.server_process import ServerProcess
from tests.support.waiting import wait_until

END_SECONDS = 300
"""For all that still runs to end, on a busy machine."""
PACE = 0.15
"""Seconds between two actions, on average."""
TELL_SECONDS = 5.0
UIDS = 65_536
"""Users of one soak: a range of its own, so that their files are nobody else's."""
ACTIONS = {"create": 30, "scale": 12, "stop": 14, "kill node": 12, "freeze node": 4, "kill parent": 2, "kill server": 2}
"""How often each is done, relative to the others."""
PERMANENT = {"file data/local", "file data/local/clusters", "file data/local/uids.json", "file data/local/uids.lock"}
"""What the first cluster makes and what stays."""


class Soak:
    """One run in *directory*, which other users may enter.

    Args:
        directory: Empty.
        clusters: At once, at the most.
        seed: Of what happens; when it happens is the machine's to say.
        tell: Gets a line of progress now and then.
    """

    def __init__(self, directory: Path, *, clusters: int, seed: int, tell: Callable[[str], None]) -> None:
        self.most, self.tell = clusters, tell
        self.random = random.Random(seed)  # noqa: S311 - not for secrets
        self.done: Counter[str] = Counter()
        self.wrong: list[str] = []
        """What must never happen, and did."""
        self._wished: dict[str, str] = {}
        temporary = directory / "tmp"
        temporary.mkdir(mode=0o700)
        self._environment = {"TMPDIR": str(temporary), "ROPEWALK_SWEEP_SECONDS": "5"}
        self._api = Installation(*made(directory / "data"))
        base = 2_101_000_000 + UIDS * self.random.randrange(700)
        self._uid_base = base if os.geteuid() == 0 else None
        self.place = self._place(directory)
        self.before = self.place.everything()
        self._said = len(directory.joinpath("data.log").read_text())
        self._server: ServerProcess | None = None

    def _place(self, directory: Path) -> Installed:
        uids = range(0) if self._uid_base is None else range(self._uid_base, self._uid_base + UIDS)
        return installed(directory, self._api.data_dir, uids)

    # The server, and what is asked of it.

    @property
    def server(self) -> ServerProcess:
        """The server that runs."""
        assert self._server is not None  # noqa: S101 - start() comes first
        return self._server

    def start(self) -> None:
        """Start a server, as an operator's service manager would after a crash."""
        self._server = ServerProcess(self._api.data_dir, "--log-format", "json", **self._environment)
        self._server.wait_ready(within=120)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Ask the server; returns None if it refused, as it may when the cluster has ended meanwhile."""
        url = f"{self.server.url}/api/v1/{path}"
        answer = httpx.request(method, url, json=body, headers=self._api.headers, timeout=60)
        if answer.status_code >= 500:
            self.wrong.append(f"{method} {path} was answered {answer.status_code}: {answer.text[:200]}")
        return answer.json() if answer.is_success else None

    def live(self) -> list[dict[str, Any]]:
        """Return the clusters that have not ended, as the server tells."""
        return list(self.ask("GET", "accounts/ada/clusters?limit=1000") or [])

    # What happens.

    def run(self, seconds: float) -> None:
        """Do things at random for so long."""
        if self._uid_base is not None:
            self.ask("PUT", "hosted", {"uid_base": self._uid_base, "uid_count": UIDS})
        told = time.monotonic()
        end = told + seconds
        while (now := time.monotonic()) < end:
            if now - told >= TELL_SECONDS:
                told = now
                self.tell(f"{end - now:4.0f} s to go: {self._state()}")
            self._do_something()
            time.sleep(min(self.random.expovariate(1 / PACE), end - now))

    def _do_something(self) -> None:
        running = [cluster["id"] for cluster in self.live() if cluster["state"] != "stopping"]
        possible = {name: weight for name, weight in ACTIONS.items() if running or name == "create"}
        if len(running) >= self.most:
            del possible["create"]
        (action,) = self.random.choices(list(possible), list(possible.values()))
        getattr(self, f"_{action.replace(' ', '_')}")(running)
        self.done[action] += 1

    def _state(self) -> str:
        states = Counter(cluster["state"] for cluster in self.live())
        nodes = self.place.main_processes()
        self.wrong += [f"{name} runs {number} times" for name, number in nodes.items() if number > 1]
        return f"{nodes.total()} nodes; clusters {_counts(states)}; done {_counts(self.done)}"

    def _create(self, _running: list[str]) -> None:
        worker_class = self.random.choice(["distributed.Worker", "distributed.Nanny"])
        sizes = {"worker_memory": "512 MiB", "scheduler_memory": "512 MiB", "worker_class": worker_class}
        name = f"soak-{len(self._wished)}"
        wish = {"name": name, "n_workers": self.random.randint(0, 2), **sizes}
        cluster = self.ask("POST", "accounts/ada/clusters", wish)
        if cluster is None:
            self.wrong.append(f"{name} was refused")
        else:
            self._wished[cluster["id"]] = name

    def _scale(self, running: list[str]) -> None:
        wish = {"n_workers": self.random.randint(0, 3)}
        self.ask("POST", f"accounts/ada/clusters/{self.random.choice(running)}/scale", wish)

    def _stop(self, running: list[str]) -> None:
        self.ask("DELETE", f"accounts/ada/clusters/{self.random.choice(running)}")

    def _kill_node(self, _running: list[str]) -> None:
        self._signal_node(signal.SIGKILL)

    def _freeze_node(self, _running: list[str]) -> None:
        self._signal_node(signal.SIGSTOP)

    def _signal_node(self, number: signal.Signals) -> None:
        """Signal a process of a node, main or not; psutil makes sure that its pid is not another's by now."""
        processes = self.place.node_processes()
        if processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                self.random.choice(processes).process.send_signal(number)

    def _kill_parent(self, _running: list[str]) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in filter(_is_warm, psutil.Process(self.server.process.pid).children()):
                child.kill()

    def _kill_server(self, running: list[str]) -> None:
        self.server.stop(signal.SIGKILL)
        if self.random.random() < 0.5:
            self._kill_node(running)
        self.start()

    # The end.

    def end(self) -> None:
        """Stop all clusters, wait until the server says that they have ended, and look at what it says of them."""
        for cluster in self.live():
            self.ask("DELETE", f"accounts/ada/clusters/{cluster['id']}")
        self.tell(f"all are asked to stop: {self._state()}")
        wait_until(lambda: not self.live(), within=END_SECONDS, every=0.5)
        for cluster_id, name in self._wished.items():
            cluster = self.ask("GET", f"accounts/ada/clusters/{cluster_id}")
            if cluster is None:
                self.wrong.append(f"{name} was taken and is lost")
            elif not cluster["reason"]:
                self.wrong.append(f"{name} is {cluster['state']}, and nobody says why")
        self.wrong += self.place.orphans()

    def at_rest(self) -> Counter[str]:
        """Return what the server has open while it has nothing to do, but to watch its warm parent."""
        opened: list[Counter[str]] = []

        def same() -> bool:
            opened.append(descriptors(self.server.process.pid))
            warm = any("warm.py" in kind for kind in opened[-1])
            return warm and opened[-1:] == opened[-2:-1]

        wait_until(same, within=120, every=1)
        return opened[-1]

    def left(self) -> list[str]:
        """Tell of what is left once the server has stopped, but for the records of ended nodes."""
        self.server.stop(within=60)
        grown = self.place.everything() - self.before - PERMANENT
        # What killed processes left outside of the directory is removed later.
        grown -= set(self._outside())
        return not_records(grown, Path("data/local"))

    def left_in_the_end(self) -> list[str]:
        """Tell of what is left once a server has looked after it, and even logs are too old to be kept."""
        self.start()
        settings = self.ask("GET", "hosted")
        self.ask("PUT", "hosted", {**settings, "log_retention_days": 1e-6})
        clusters = self.place.data_dir / "local" / "clusters"
        with contextlib.suppress(AssertionError):  # what is there is told below
            wait_until(lambda: not any((*clusters.iterdir(), *self._outside())), within=120, every=0.5)
        self.server.stop(within=60)
        return sorted(self.place.everything() - self.before - PERMANENT)

    def _outside(self) -> list[str]:
        return [*self.place.shared_files(), *self.place.control_groups()]

    def defects(self) -> list[str]:
        """Return what the servers logged as an error, and lines that are no log."""
        found = []
        for text in self.server.output[self._said :].splitlines():
            line = _parsed(text)
            greeting = text.startswith("Ropewalk is ready")
            if not greeting and (line is None or line.get("level") in ("error", "critical") or "exception" in line):
                found.append(f"the server said: {text[:2000]}")
        return found

    def close(self) -> None:
        """End by force what is left."""
        if self._server is not None and self._server.process.poll() is None:
            self._server.stop(signal.SIGKILL)
        for line in self.place.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(int(line.split()[1].rstrip(":"))).kill()


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{number} {name}" for name, number in sorted(counter.items())) or "none"


def _is_warm(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return any(word.endswith("backends/local/warm.py") for word in process.cmdline())
    return False


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


@contextlib.contextmanager
def isolating() -> Iterator[None]:
    """Run servers with a Python that every user may use, so that each account's nodes run as a user of their own."""
    program = (isolated.interpreter(), "-c", "from ropewalk.cli.main import main; main()")
    path = str(Path(__file__).parents[1] / "src")
    with mock.patch.object(server_process, "PROGRAM", program), mock.patch.dict(os.environ, PYTHONPATH=path):
        yield


def soak(
    directory: Path, *, seconds: float, clusters: int, seed: int, tell: Callable[[str], None] = print
) -> list[str]:
    """Run once in *directory*, which other users may enter; returns what went wrong and what is left."""
    run = Soak(directory, clusters=clusters, seed=seed, tell=tell)
    try:
        run.start()
        rest = run.at_rest()
        run.run(seconds)
        run.end()
        more = run.at_rest() - rest
        found = [f"the server still has {number} {name} open" for name, number in more.items()]
        found += run.left()
        found += run.left_in_the_end()
        tell(f"done: {_counts(run.done)}")
        return run.wrong + found + run.defects()
    finally:
        run.close()


def main() -> int:
    """Run as the command line says; exit status 1 if anything is left."""
    parser = argparse.ArgumentParser(description="Creates, scales, stops and breaks clusters at random.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clusters", type=int, default=50, help="at once, at the most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--isolated", action="store_true", help="nodes run as users of their own; needs root")
    arguments = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "big") if arguments.seed is None else arguments.seed
    directory = Path(tempfile.mkdtemp(prefix="ropewalk-soak-"))
    directory.chmod(0o755)  # so that nodes can run as users of their own
    print(f"seed {seed}, in {directory}", flush=True)
    with isolating() if arguments.isolated else contextlib.nullcontext():
        found = soak(directory, seconds=60 * arguments.minutes, clusters=arguments.clusters, seed=seed, tell=_say)
    for sentence in found:
        _say(f"LEFT OR WRONG: {sentence}")
    if found:
        _say(f"{len(found)} things; the server's log and the records are in {directory}")
        return 1
    shutil.rmtree(directory)
    _say("nothing is left")
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
