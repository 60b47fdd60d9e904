"""From an empty AWS account to a hundred running workers, beside ``dask_cloudprovider.aws.FargateCluster``.

Both sides talk to the same double of AWS, with the rate limits that AWS documents and the same delays: a task has its
network interface after 4 s and runs after 12 s (on AWS usually after 10 and 30 to 40). Tasks are no processes there, so
that a hundred of them cost nothing; ready means that ECS says of each that it runs. Ours includes preparing the
account, which a team does once. Every request that reaches the double is counted, those that it throttles, too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, cast

from tests.support import venvs
from tests.support.ministack import REGION, Double, running

from benchmarks.measure import Result, Sides, alternate

WORKERS = 100
ATTACHED_AFTER, RUNNING_AFTER = 4.0, 12.0
SECOND_TURN = 90.0
"""Both sides are measured twice at the most, and the second time only if the first took less seconds than that."""
PEER_PATIENCE = 130.0
"""Seconds after which the peer is broken off: what it took and asked until then counts, which is in its favour."""
IDLE_SECONDS = 31.0
"""Idle tasks are looked at every 20 s; this is one look, or two."""
FIRST_ADDRESS = "127.77.0.3"
"""The first public address that a new double gives to a task."""
HERE = Path(__file__).parent


@contextmanager
def aws() -> Iterator[Double]:
    """Run a double with delays."""
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder, running(Path(folder)) as double:
        double.set(task_attached_after=ATTACHED_AFTER, task_running_after=RUNNING_AFTER)
        yield double


def told(double: Double, **facts: Any) -> dict[str, Any]:
    """Make a user, and return what a side has to know."""
    key = double.make_user()
    double.count_anew()
    secret = key.secret_access_key.get_secret_value()
    return {"endpoint": double.endpoint, "region": REGION, "key": key.access_key_id, "secret": secret, **facts}


def ours() -> Sequence[float]:
    """Return seconds and calls."""
    with aws() as double:
        facts = told(double, what="cluster", workers=WORKERS)
        command = [sys.executable, "-m", "benchmarks.aws_ours"]
        done = subprocess.run(command, input=json.dumps(facts), capture_output=True, text=True, check=True)  # noqa: S603 - our own program
        return float(json.loads(done.stdout)["seconds"]), float(sum(double.calls().values()))


def theirs() -> Sequence[float]:
    """Return seconds and calls of the peer, also if it gives up."""
    program = venvs.python("aws-peer", HERE / "aws_peer.txt")
    with aws() as double:
        facts = told(double)
        environ = {
            "PATH": os.environ["PATH"],
            "AWS_ENDPOINT_URL": facts["endpoint"],
            "AWS_DEFAULT_REGION": facts["region"],
            "AWS_ACCESS_KEY_ID": facts["key"],
            "AWS_SECRET_ACCESS_KEY": facts["secret"],
        }
        command = [str(program), "-P", str(HERE / "aws_peer.py"), str(WORKERS), FIRST_ADDRESS]
        begun = time.monotonic()
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                command, env=environ, capture_output=True, text=True, check=True, timeout=PEER_PATIENCE
            )
            seconds = float(json.loads(done.stdout.splitlines()[-1])["seconds"])
        except subprocess.TimeoutExpired:
            seconds = time.monotonic() - begun
        except subprocess.CalledProcessError as exc:
            raise RuntimeError(f"the peer failed: {exc.stderr[-2000:]}") from exc
        return seconds, float(sum(double.calls().values()))


def idle_calls(clusters: int) -> float:
    """Return how often AWS is asked while so many clusters are idle."""
    with aws() as double:
        double.set(task_attached_after=0, task_running_after=0)
        facts = told(double, what="idle", clusters=clusters, seconds=IDLE_SECONDS)
        command = [sys.executable, "-m", "benchmarks.aws_ours"]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,  # noqa: S603 - our own program
            cast("TextIO", process.stdin) as question,
            cast("TextIO", process.stdout) as answer,
        ):
            question.write(json.dumps(facts))
            question.close()
            answer.readline()
            double.count_anew()
            answer.read()
        return float(sum(double.calls().values()))


def idle() -> Result:
    """Compare the calls for a hundred idle clusters with those for one, watched at the same time."""
    with ThreadPoolExecutor(2) as pool:
        many, one = pool.map(idle_calls, (WORKERS, 1))
    return Sides([many], [one]).ratio("calls_of_100_idle_clusters_vs_1", 1.0)


def turns(runs: int) -> tuple[Sides, ...]:
    """Measure seconds and calls of both sides as often as there is time for."""
    begun = time.monotonic()
    found = alternate(ours, theirs, 1)
    if runs == 1 or time.monotonic() - begun > SECOND_TURN:
        return found
    again = alternate(ours, theirs, 1)
    return tuple(Sides(a.ours + b.ours, a.theirs + b.theirs) for a, b in zip(found, again, strict=True))


def run(runs: int) -> list[Result]:
    """Measure both sides in turns, then idle clusters."""
    seconds, calls = turns(runs)
    return [
        calls.ratio("calls_vs_fargatecluster", 0.2),
        seconds.ratio("time_vs_fargatecluster", 0.6),
        idle(),
    ]
