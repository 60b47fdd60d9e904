"""Ctrl-C, exits, lost answers, servers that go away: nothing is left behind, and it is told."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import dask.config
import httpx
import pytest
from distributed.core import Status

import ropewalk
from ropewalk.client import claims, life, start
from ropewalk.errors import AuthenticationError, ClusterStartError, ServerUnreachableError
from ropewalk.schemas.clusters import ClusterDetail
from tests.client.conftest import LiveServer
from tests.support.client import cluster as answer
from tests.support.ports import kept_port
from tests.support.waiting import wait_until

PROGRAM = """
import os, signal, sys, threading
moment, interrupted, write = {moment!r}, threading.Event(), sys.stderr.write

def interrupt(number, frame):
    interrupted.set()
    raise KeyboardInterrupt

def writes(text):
    written = write(text)
    if moment and moment in text and not interrupted.is_set():
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGINT)
        if threading.current_thread() is not threading.main_thread():
            interrupted.wait()  # nothing goes on before the main thread knows
    return written

signal.signal(signal.SIGINT, interrupt)  # a shell's background job inherits that it is ignored
sys.stderr.write = writes
import ropewalk
cluster = ropewalk.Cluster(n_workers=1, name={name!r}, wait_for_workers=True, show_progress=True)
print("started", flush=True)
{then}
"""

READY = "is ready with"


class Program:
    """A program of a user, whose progress lines are read as they come. At *moment* Ctrl-C is pressed."""

    def __init__(self, server: LiveServer, name: str, then: str = "", *, moment: str = "") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM.format(name=name, then=then, moment=moment)],
            env=server.environ() | {"DASK_ROPEWALK__CLUSTER__WORKER_MEMORY": "1 GiB"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []

    def until(self, text: str) -> bool:
        """Wait until it says *text*. False: it was ready without having said it, as starts skip what takes no time."""
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line)
            if text in line or READY in line:
                return text in line
        raise AssertionError(f"{text!r} was not said: {''.join(self.lines)}")

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, str, str]:
        """Wait for the end; return exit status, output and all errors."""
        try:
            out, err = self._process.communicate(timeout=90)
        except subprocess.TimeoutExpired:
            self._process.kill()
            out, err = self._process.communicate()
        return self._process.returncode, out, "".join(self.lines) + err


@pytest.mark.parametrize(
    "moment", ["Asking", "Waiting for the scheduler", "1 starting", "Connecting", "Waiting for 1 of 1"]
)
def test_ctrl_c_in_the_middle_of_a_start_leaves_nothing(server: LiveServer, moment: str) -> None:
    program = Program(server, "interrupted", "import time; time.sleep(600)", moment=moment)
    in_time = program.until(moment)
    if not in_time:
        program.interrupt()
    status, out, err = program.ended()
    assert status in (-signal.SIGINT, 1), err
    assert "KeyboardInterrupt" in err
    assert "started" not in out or not in_time
    wait_until(lambda: not server.live())
    wait_until(lambda: not server.nodes())


def test_ctrl_c_while_it_attaches_again_does_not_stop_the_cluster(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0, name="kept") as cluster:
        program = Program(server, "kept")
        program.until("Asking")
        program.interrupt()
        program.ended()
        assert cluster.refresh().state == "ready"


@pytest.mark.parametrize(("then", "status"), [("", 0), ("raise ValueError('x')", 1), ("import sys; sys.exit(3)", 3)])
def test_a_program_that_forgets_its_cluster_stops_it_at_its_end(server: LiveServer, then: str, status: int) -> None:
    program = Program(server, "forgotten", then)
    ended, out, err = program.ended()
    assert "started" in out, err
    assert ended == status
    wait_until(lambda: not server.live())
    assert "unclosed cluster" not in err


def test_a_forked_child_does_not_stop_its_parents_cluster(server: LiveServer) -> None:
    claim = claims.Claim(server.url, server.token, "ada", "x", "ada", _pid=os.getpid() + 1)
    claim.enter()
    claims.release_all()
    assert claim not in claims._claims


def test_with_a_server_that_is_not_there_the_error_says_what_to_check() -> None:
    with kept_port() as closed:
        url = f"http://127.0.0.1:{closed}"
        with pytest.raises(ServerUnreachableError) as caught:
            ropewalk.Cluster(server=url, token="rw_canary")
    for part in (url, "nothing listens there", "ropewalk server start", "DASK_ROPEWALK__SERVER"):
        assert part in str(caught.value)
    assert "rw_canary" not in str(caught.value)


def test_an_expired_token_says_to_log_in(server: LiveServer) -> None:
    token = server.new_token(days=0.05 / 86_400)
    with dask.config.set({"ropewalk.token": token}):

        def refused() -> str:
            try:
                ropewalk.list_clusters()
            except AuthenticationError as exc:
                return str(exc)
            return ""

        assert "ropewalk login" in wait_until(refused)
        with pytest.raises(AuthenticationError, match="ropewalk login") as caught:
            ropewalk.Cluster()
        assert token not in str(caught.value)


def test_without_a_token_nothing_is_asked() -> None:
    with dask.config.set({"ropewalk.token": None}), pytest.raises(AuthenticationError, match="ropewalk login"):
        ropewalk.Cluster()


# A server that goes away.


def test_a_cluster_is_closed_by_its_scheduler_when_the_server_is_gone(
    own_server: LiveServer, caplog: pytest.LogCaptureFixture
) -> None:
    cluster = ropewalk.Cluster(n_workers=1, wait_for_workers=True)
    own_server.stop()
    cluster.close(timeout="1 s")
    assert cluster.status == Status.closed
    assert "The scheduler was told to end the cluster instead" in caplog.text
    wait_until(lambda: not own_server.nodes())


def test_a_cluster_goes_on_over_a_restart_of_the_server(own_server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster:
        own_server.stop()
        with cluster.get_client() as client:
            assert client.submit(int, "7").result() == 7
        with pytest.raises(ServerUnreachableError):
            cluster.scale(2)
        own_server.start()
        cluster.scale(2)
        cluster.wait_for_workers(2, timeout=60)
    wait_until(lambda: not own_server.nodes())


def test_a_restart_of_the_server_in_the_middle_of_a_start_is_survived(own_server: LiveServer) -> None:
    program = Program(own_server, "patient", "cluster.close()")
    program.until("Waiting for the scheduler")
    own_server.stop()
    own_server.start()
    status, out, err = program.ended()
    assert (status, out.strip()) == (0, "started"), err
    wait_until(lambda: not own_server.live())


# Answers that are lost on the way.


class Proxy(ThreadingHTTPServer):
    """Passes requests on to a server; ``lose`` says for which ones the answer is lost after their effect."""

    daemon_threads = True

    def __init__(self, target: str) -> None:
        self.target = target
        self.lose: Callable[[str, str], bool] = lambda method, path: False
        self.lost: list[str] = []
        super().__init__(("127.0.0.1", 0), _Forward)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Forward(BaseHTTPRequestHandler):
    server: Proxy

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
        # Streams are told to be elsewhere: polling has to do.
        if "follow=true" in self.path:
            self.send_error(503)
            return
        url = self.server.target + self.path
        answer = httpx.request(self.command, url, content=body, headers=headers, timeout=30)
        if self.server.lose(self.command, self.path):
            self.server.lost.append(f"{self.command} {self.path}")
            self.close_connection = True
            return
        self.send_response(answer.status_code)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        self.wfile.write(answer.content)

    do_GET = do_POST = do_DELETE = do_PUT = _forward  # noqa: N815 - the names that http.server looks for

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def proxy(server: LiveServer) -> Iterator[Proxy]:
    proxy = Proxy(server.url)
    thread = threading.Thread(target=proxy.serve_forever, daemon=True)
    thread.start()
    try:
        with dask.config.set({"ropewalk.server": proxy.url}):
            yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


def creates(method: str, path: str) -> bool:
    return method == "POST" and path.endswith("/clusters?reattach=true")


def first_only(condition: Callable[[str, str], bool]) -> Callable[[str, str], bool]:
    met: list[str] = []

    def once(method: str, path: str) -> bool:
        if met or not condition(method, path):
            return False
        met.append(path)
        return True

    return once


@pytest.mark.parametrize("name", [None, "named"])
def test_a_lost_answer_to_the_creation_makes_one_cluster_which_is_ours(
    server: LiveServer, proxy: Proxy, name: str | None
) -> None:
    proxy.lose = first_only(creates)
    with ropewalk.Cluster(n_workers=0, name=name) as cluster:
        assert len(proxy.lost) == 1
        assert server.live() == [cluster.name]
        assert cluster.shutdown_on_close
    assert cluster.state == "stopped"


@pytest.mark.parametrize("name", [None, "named"])
def test_when_no_answer_to_the_creation_ever_comes_what_was_made_is_stopped(
    server: LiveServer, proxy: Proxy, name: str | None
) -> None:
    proxy.lose = creates
    with pytest.raises(ServerUnreachableError):
        ropewalk.Cluster(n_workers=0, name=name)
    assert len(proxy.lost) == 4
    wait_until(lambda: not server.live())
    assert not claims._claims


def test_when_no_answer_comes_about_an_existing_cluster_it_stays(server: LiveServer, proxy: Proxy) -> None:
    with ropewalk.Cluster(n_workers=0, name="theirs") as cluster:
        proxy.lose = lambda method, path: path.endswith("/connection")
        with pytest.raises(ServerUnreachableError):
            ropewalk.Cluster(n_workers=0, name="theirs")
        assert cluster.refresh().state == "ready"


def test_a_cluster_that_cannot_be_stopped_is_told_and_stopped_at_exit(
    server: LiveServer, proxy: Proxy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(start, "SETTLE", 1.0)

    asked: list[str] = []

    def everything_from_the_creation_on(method: str, path: str) -> bool:
        if creates(method, path):
            asked.append(path)
        return bool(asked)

    proxy.lose = everything_from_the_creation_on
    with pytest.raises(ServerUnreachableError) as caught:
        ropewalk.Cluster(n_workers=0, name="stuck")
    assert any("ropewalk cluster stop stuck" in note for note in caught.value.__notes__)
    assert server.live() == ["stuck"]
    proxy.lose = lambda method, path: False
    claims.release_all()  # as at exit
    wait_until(lambda: not server.live())


def test_polling_is_enough_where_streams_do_not_get_through(server: LiveServer, proxy: Proxy) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster:
        assert len(cluster.observed) == 1


def test_a_dashboard_link_that_is_no_web_address_is_not_shown() -> None:
    cluster = ropewalk.Cluster.__new__(ropewalk.Cluster)
    cluster._detail = ClusterDetail.model_validate(answer(dashboard_link="javascript:alert(1)"))
    assert cluster.dashboard_link == ""


# What goes on while a cluster runs.


def test_a_broken_connection_to_the_scheduler_is_mended(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster:
        before = cluster._watch_worker_status_comm
        cluster.loop.add_callback(before.abort)
        wait_until(lambda: cluster._watch_worker_status_comm is not before)
        cluster.scale(1)
        wait_until(lambda: len(cluster.observed) == 1)


def test_a_worker_that_dies_is_told(server: LiveServer, caplog: pytest.LogCaptureFixture) -> None:
    with ropewalk.Cluster(n_workers=1, wait_for_workers=True) as cluster:
        victim = next(iter(cluster.observed))
        for process in server.nodes():
            if any(victim in part for part in process.cmdline()):
                process.kill()  # psutil compares the start time
        wait_until(lambda: any(cluster.name in line for line in caplog.messages))


def test_a_cluster_that_nobody_can_stop_is_told_and_stays_claimed(
    own_server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(life, "EXPLAIN_SECONDS", 1.0)
    cluster = ropewalk.Cluster(n_workers=0)
    own_server.stop()
    for process in own_server.nodes():
        process.kill()  # psutil compares the start time
    try:
        with pytest.raises(ServerUnreachableError):
            cluster.close()
        assert cluster.status == Status.closed
        assert [claim.id for claim in claims._claims] == [cluster.detail.id]
    finally:
        claims._claims.clear()


def test_a_start_with_too_little_time_says_what_it_was_waiting_for(server: LiveServer) -> None:
    never = {"preload": ["import threading\nthreading.Event().wait()"]}  # a worker that never gets ready
    with pytest.raises(ClusterStartError, match=r"did not start within 2 s\. The last step: ") as caught:
        ropewalk.Cluster(n_workers=1, worker_options=never, wait_for_workers=True, timeout="2 s")
    assert "ropewalk" in str(caught.value.advice)
    wait_until(lambda: not server.live())


async def test_a_synchronous_cluster_works_where_a_loop_runs_as_in_notebooks(server: LiveServer) -> None:
    with ropewalk.Cluster(n_workers=0) as cluster:
        assert cluster.refresh().state == "ready"
