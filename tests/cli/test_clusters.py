"""``ropewalk cluster …``."""

from __future__ import annotations

import json
import re

import dask.config
import httpx
import pytest

from ropewalk.cli import clusters, streams
from ropewalk.errors import LimitExceededError, NotFoundError, UnavailableError
from ropewalk.schemas.clusters import (
    Cluster,
    ClusterDetail,
    ClusterSpec,
    ClusterState,
    Cost,
    LogPage,
    NodeState,
    Timeline,
    TimelineStep,
)
from tests.cli.conftest import NOW, FakeServer, Run, cluster, event, node

FLIGHTS = "/accounts/ada/clusters/flights"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "POLL_SECONDS", 0)
    monkeypatch.setattr(streams, "FOLLOW_SECONDS", 0)


def interrupt(_: httpx.Request) -> None:
    raise KeyboardInterrupt


# list, show, cost


def test_list_shows_the_live_clusters_of_all_accounts(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/clusters", [cluster("flights"), cluster("storms", account="weather")])
    result = run("cluster", "list")
    assert result.exit_code == 0
    header, first, second = result.stdout.splitlines()
    assert header.split()[:3] == ["CLUSTER", "STATE", "WORKERS"]
    assert first.split()[:3] == ["ada/flights", "ready", "3/4"]
    assert "0.0123 USD" in first
    assert re.search(r"\(\d+ min ago\)", first)
    assert second.split()[0] == "weather/storms"
    assert dict(server.requests[-1].url.params) == {"state": "live", "limit": "100"}


def test_list_json_is_the_schema(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/clusters", [cluster("flights")])
    (found,) = json.loads(run("cluster", "list", "--json").stdout)
    fields = set(Cluster.model_fields)
    assert fields <= set(found)
    assert found["created_at"].endswith("Z")


def test_list_of_one_account(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/weather/clusters", [])
    result = run("cluster", "list", "--account", "weather", "--all", "--limit", "5")
    assert result.exit_code == 0
    assert "There are no clusters." in result.stderr
    assert dict(server.requests[-1].url.params) == {"state": "all", "limit": "5"}


def test_an_unknown_account_lists_yours(run: Run) -> None:
    result = run("cluster", "list", "--account", "wether")
    assert result.exit_code == 4
    assert "ada, weather" in result.stderr


def test_show_tells_about_the_cluster_and_its_nodes(run: Run, server: FakeServer) -> None:
    nodes = [node(), node("flights-1-worker-1", state=NodeState.FAILED, exit_code=-9, reason="Out of memory.")]
    server.answer("GET", FLIGHTS, cluster(minimum=1, maximum=8, nodes=nodes, tags={"team": "a"}))
    result = run("cluster", "show", "flights")
    assert "ada/flights" in result.stdout
    assert "adapts between 1 and 8" in result.stdout
    assert "team=a" in result.stdout
    line = next(line for line in result.stdout.splitlines() if "worker-1" in line)
    assert line.split()[2] == "failed"
    assert "-9" in line
    assert "Out of memory." in line


def test_show_json_is_the_schema(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    assert ClusterDetail.model_validate_json(run("cluster", "show", "flights", "--json").stdout) == cluster()


@pytest.mark.parametrize("arguments", [["weather/flights"], ["flights", "--account", "weather"]])
def test_the_account_is_a_prefix_or_an_option(run: Run, server: FakeServer, arguments: list[str]) -> None:
    server.answer("GET", "/accounts/weather/clusters/flights", cluster(account="weather"))
    assert run("cluster", "show", *arguments).exit_code == 0


def test_the_configured_account_is_used(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/weather/clusters/flights", cluster(account="weather"))
    with dask.config.set({"ropewalk.account": "weather"}):
        assert run("cluster", "show", "flights").exit_code == 0


@pytest.mark.parametrize("name", ["weather/flights", "No Name", "../x", ""])
def test_names_that_cannot_be_are_wrong_input(run: Run, name: str) -> None:
    assert run("cluster", "show", name, "--account", "ada").exit_code == 2


def test_a_cluster_that_does_not_exist(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, NotFoundError("There is no cluster 'flights'."))
    assert run("cluster", "show", "flights").exit_code == 4


def test_cost(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS + "/cost", Cost(currency="EUR", per_hour=1.5, so_far=0.02))
    assert "0.0200 EUR" in run("cluster", "cost", "flights").stdout
    assert json.loads(run("cluster", "cost", "flights", "--json").stdout)["per_hour"] == 1.5


# scale


@pytest.mark.parametrize(
    ("numbers", "sent", "answer", "told"),
    [
        (["8"], 8, cluster(n_workers=8), "goes to 8 workers"),
        (["0"], 0, cluster(n_workers=0), "goes to 0 workers"),
        (["1", "8"], [1, 8], cluster(minimum=1, maximum=8), "adapts between 1 and 8"),
    ],
)
def test_scale(
    run: Run, server: FakeServer, numbers: list[str], sent: object, answer: ClusterDetail, told: str
) -> None:
    server.answer("POST", FLIGHTS + "/scale", answer)
    result = run("cluster", "scale", "flights", *numbers)
    assert result.exit_code == 0
    assert told in result.stdout
    assert server.bodies("POST", FLIGHTS + "/scale") == [{"n_workers": sent}]


@pytest.mark.parametrize("numbers", [["8", "1"], ["1", "2", "3"], ["many"], ["100000"], ["--", "-1"]])
def test_scale_refuses_numbers_that_make_no_sense(run: Run, server: FakeServer, numbers: list[str]) -> None:
    assert run("cluster", "scale", "flights", *numbers).exit_code == 2
    assert not server.bodies("POST", FLIGHTS + "/scale")


@pytest.mark.parametrize(
    ("duration", "sent", "told"),
    [("2 hours", 7200.0, "after 7200 seconds"), ("90", 90.0, "after 90 seconds"), ("never", None, "does not stop")],
)
def test_keep_alive(run: Run, server: FakeServer, duration: str, sent: float | None, told: str) -> None:
    found = cluster()
    server.answer("PATCH", FLIGHTS, found.model_copy(update={"spec": ClusterSpec(idle_timeout=sent)}))
    result = run("cluster", "keep-alive", "flights", duration)
    assert result.exit_code == 0, result.stderr
    assert told in result.stdout
    assert server.bodies("PATCH", FLIGHTS) == [{"idle_timeout": sent}]


def test_show_timeline(run: Run, server: FakeServer) -> None:
    steps = [
        TimelineStep(step="requested", time=NOW, seconds=0),
        TimelineStep(step="scheduler_ready", time=NOW, seconds=0.25),
        TimelineStep(step="all_workers", time=None, seconds=None),
    ]
    server.answer("GET", FLIGHTS + "/timeline", Timeline(cluster="c-1", request_id="r-1", steps=steps))
    result = run("cluster", "show", "flights", "--timeline")
    assert result.exit_code == 0, result.stderr
    assert "scheduler_ready" in result.stdout
    assert "0.250" in result.stdout
    assert "request_id=r-1" in result.stderr
    told = json.loads(run("cluster", "show", "flights", "--timeline", "--json").stdout)
    assert [step["seconds"] for step in told["steps"]] == [0, 0.25, None]


def test_keep_alive_refuses_what_is_no_duration(run: Run, server: FakeServer) -> None:
    assert run("cluster", "keep-alive", "flights", "soon").exit_code == 2
    assert not server.bodies("PATCH", FLIGHTS)


def test_scale_reports_the_limit(run: Run, server: FakeServer) -> None:
    server.answer("POST", FLIGHTS + "/scale", LimitExceededError("Your limit is 8 cores, this needs 9."))
    result = run("cluster", "scale", "flights", "8")
    assert result.exit_code == 5
    assert "Your limit is 8 cores" in result.stderr


# stop


def test_stop_needs_yes_where_nobody_can_be_asked(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    result = run("cluster", "stop", "flights")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert not server.bodies("DELETE", FLIGHTS)


@pytest.mark.parametrize(("answer", "status", "stopped"), [("y\n", 0, 1), ("n\n", 1, 0)])
def test_stop_asks_a_person(run: Run, server: FakeServer, person: None, answer: str, status: int, stopped: int) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("DELETE", "/accounts/ada/clusters/c-flights", cluster(state=ClusterState.STOPPING))
    result = run("cluster", "stop", "flights", stdin=answer)
    assert result.exit_code == status
    assert len(server.bodies("DELETE", "/accounts/ada/clusters/c-flights")) == stopped


def test_stop_passes_the_reason_and_says_that_it_goes_on(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("DELETE", "/accounts/ada/clusters/c-flights", cluster(state=ClusterState.STOPPING))
    result = run("cluster", "stop", "flights", "--yes", "--reason", "night")
    assert "is stopping" in result.stdout
    assert server.requests[-1].url.params["reason"] == "night"


def test_stop_looks_all_names_up_before_it_stops_one(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("DELETE", "/accounts/ada/clusters/c-flights", cluster(state=ClusterState.STOPPING))
    assert run("cluster", "stop", "flights", "flihgts", "--yes").exit_code == 4
    assert not server.bodies("DELETE", "/accounts/ada/clusters/c-flights")


def test_stop_of_what_has_stopped_changes_nothing(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster(state=ClusterState.STOPPED, reason="It was idle.", stopped_at=NOW))
    result = run("cluster", "stop", "flights")
    assert result.exit_code == 0
    assert result.stdout.endswith("has stopped: It was idle.\n")


def test_stop_waits_until_everything_is_gone(run: Run, server: FakeServer) -> None:
    stopping = cluster(state=ClusterState.STOPPING)
    gone = cluster(state=ClusterState.STOPPED, nodes=[node(state=NodeState.STOPPED)])
    server.answer("GET", FLIGHTS, cluster())
    server.answer("DELETE", "/accounts/ada/clusters/c-flights", stopping)
    server.answer("GET", "/accounts/ada/clusters/c-flights", stopping, stopping, gone)
    result = run("cluster", "stop", "flights", "--yes", "--wait", "--json")
    assert json.loads(result.stdout)[0]["state"] == "stopped"
    assert "1 node is still there" in result.stderr


# create


def test_create_sends_only_what_was_given(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_KEY", "canary")
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", cluster(state=ClusterState.PENDING))
    result = run(
        "cluster", "create", "flights", "--adapt", "1", "8", "--worker-memory", "2 GiB", "--tag", "team=a",
        "--env", "S3_KEY", "--env", "X=1=2", "--json",
    )  # fmt: skip
    assert result.exit_code == 0
    assert server.bodies("POST", "/accounts/ada/clusters") == [
        {
            "name": "flights",
            "n_workers": [1, 8],
            "worker_memory": 2 * 2**30,
            "tags": {"team": "a"},
            "environ": {"S3_KEY": "canary", "X": "1=2"},
        }
    ]
    assert "canary" not in result.output


def test_create_makes_up_a_name(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/weather/clusters", [])
    server.answer("POST", "/accounts/weather/clusters", cluster())
    run("cluster", "create", "--account", "weather")
    (body,) = server.bodies("POST", "/accounts/weather/clusters")
    assert body["name"].startswith("cluster-")


def test_create_does_not_attach_to_a_cluster_of_that_name(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/clusters", [cluster()])
    result = run("cluster", "create", "flights")
    assert result.exit_code == 5
    assert not server.bodies("POST", "/accounts/ada/clusters")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--worker-memory", "much"],
        ["--n-workers", "-1"],
        ["--adapt", "8", "1"],
        ["--adapt", "1", "8", "--n-workers", "2"],
        ["--env", "NOT_SET_ANYWHERE"],
        ["--env", "LD_PRELOAD=x"],
        ["--tag", "novalue"],
        ["--idle-timeout", "soon"],
    ],
)
def test_create_refuses_wrong_arguments(run: Run, server: FakeServer, arguments: list[str]) -> None:
    result = run("cluster", "create", *arguments)
    assert result.exit_code == 2
    assert not server.bodies("POST", "/accounts/ada/clusters")


def test_create_waits_and_tells_what_happens(run: Run, server: FakeServer) -> None:
    starting = cluster(state=ClusterState.STARTING)
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", starting)
    server.answer("GET", "/accounts/ada/clusters/c-flights/events", [event(1, message="Scheduler ready.")], [])
    server.answer("GET", "/accounts/ada/clusters/c-flights", starting, cluster())
    result = run("cluster", "create", "flights", "--wait")
    assert result.exit_code == 0
    assert result.stderr.count("Scheduler ready.") == 1
    assert "ropewalk.Cluster(name='flights'" in result.stderr


def test_create_that_fails_says_why(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", cluster(state=ClusterState.STARTING))
    server.answer("GET", "/accounts/ada/clusters/c-flights/events", [])
    failed = cluster(state=ClusterState.FAILED, reason="The scheduler ended with status 78.")
    server.answer("GET", "/accounts/ada/clusters/c-flights", failed)
    result = run("cluster", "create", "flights", "--wait")
    assert result.exit_code == 1
    assert "The scheduler ended with status 78." in result.stderr
    assert "ropewalk cluster logs ada/c-flights" in result.stderr


def test_ctrl_c_while_waiting_stops_what_was_made(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", cluster(state=ClusterState.STARTING))
    server.answer("GET", "/accounts/ada/clusters/c-flights/events", interrupt)
    server.answer("DELETE", FLIGHTS, cluster(state=ClusterState.STOPPING))
    result = run("cluster", "create", "flights", "--wait")
    assert result.exit_code == 130
    assert len(server.bodies("DELETE", FLIGHTS)) == 1


def test_ctrl_c_while_asking_stops_what_may_have_been_made(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", interrupt)
    server.answer("DELETE", FLIGHTS, NotFoundError("There is none."))
    assert run("cluster", "create", "flights").exit_code == 130
    assert len(server.bodies("DELETE", FLIGHTS)) == 1


def test_ctrl_c_when_the_server_is_away_says_how_to_stop_it(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.client.exchange.RetryPolicy.first_delay", 0)
    server.answer("GET", "/accounts/ada/clusters", [])
    server.answer("POST", "/accounts/ada/clusters", interrupt)
    server.answer("DELETE", FLIGHTS, UnavailableError("It restarts."))
    result = run("cluster", "create", "flights")
    assert result.exit_code == 130
    assert "ropewalk cluster stop ada/flights" in result.stderr


# logs


def pages(*texts: str, complete: bool = True, name: str = "flights-1-scheduler") -> list[list[LogPage]]:
    last = len(texts) - 1
    return [
        [LogPage(node=name, text=text, cursor=str(i), complete=complete and i == last)] for i, text in enumerate(texts)
    ]


def test_logs_are_read_to_their_end_and_prefixed_with_the_node(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", *pages("one\ntw", "o\nthree\n"))
    result = run("cluster", "logs", "flights")
    assert result.stdout == "".join(f"flights-1-scheduler  {line}\n" for line in ("one", "two", "three"))
    assert server.requests[-1].url.params["cursor"] == "0"


def test_logs_of_one_node_are_what_it_wrote(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", *pages("one\ntwo\nthree\n"))
    result = run("cluster", "logs", "flights", "--node", "flights-1-scheduler", "--tail", "2")
    assert result.stdout == "two\nthree\n"


def test_logs_of_an_unknown_node_list_the_nodes(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    result = run("cluster", "logs", "flights", "--node", "flights-2")
    assert result.exit_code == 4
    assert "flights-1-scheduler" in result.stderr


def test_logs_json_is_one_page_a_node(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", *pages("one\n"))
    found = json.loads(run("cluster", "logs", "flights", "--json").stdout)
    assert found == [{"node": "flights-1-scheduler", "text": "one\n", "cursor": "0", "complete": True}]


def test_no_logs_yet(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", *pages("", complete=False))
    result = run("cluster", "logs", "flights")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "Nothing has been written yet." in result.stderr


def test_logs_follow_reads_on_until_the_cluster_has_stopped(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    stopped = cluster(state=ClusterState.STOPPED)
    server.answer("GET", "/accounts/ada/clusters/c-flights", cluster(), cluster(), stopped)
    first, empty, last = pages("one\n", "", "two\n")
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", first, empty, empty, last)
    result = run("cluster", "logs", "flights", "--follow", "--json")
    assert [json.loads(line)["text"] for line in result.stdout.splitlines()] == ["one\n", "two\n"]


def test_ctrl_c_ends_following(run: Run, server: FakeServer) -> None:
    server.answer("GET", FLIGHTS, cluster())
    server.answer("GET", "/accounts/ada/clusters/c-flights", cluster(), interrupt)
    server.answer("GET", "/accounts/ada/clusters/c-flights/logs", *pages("one\n", complete=False))
    result = run("cluster", "logs", "flights", "--follow")
    assert result.exit_code == 130
    assert "one" in result.stdout


# events


def test_events_are_a_timeline(run: Run, server: FakeServer) -> None:
    events = [event(1, "cluster.created", "Ada asked for it."), event(2, node="flights-1-scheduler")]
    server.answer("GET", FLIGHTS + "/events", events[:1], events[1:], [])
    lines = run("cluster", "events", "flights").stdout.splitlines()
    assert "cluster.created" in lines[1]
    assert lines[1].endswith("Ada asked for it.")
    assert "node.ready" in lines[2]
    assert [request.url.params.get("after") for request in server.requests[-3:]] == [None, "1", "2"]


def test_events_follow_until_the_end(run: Run, server: FakeServer) -> None:
    body = "".join(f"id: {e.id}\nevent: {e.code}\ndata: {e.model_dump_json()}\n\n" for e in (event(1), event(2)))
    server.answer(
        "GET", FLIGHTS + "/events", httpx.Response(200, text=body, headers={"Content-Type": "text/event-stream"})
    )
    server.answer("GET", FLIGHTS, cluster(state=ClusterState.STOPPED))
    result = run("cluster", "events", "flights", "--follow", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == [1, 2]
    assert "node.ready" in run("cluster", "events", "flights", "--follow").stdout
