"""What a starting cluster shows: in terminals, notebooks, pipes, and where nothing can be shown."""

from __future__ import annotations

import io
import sys
import threading
import types
from collections.abc import Iterator
from typing import Any

import dask.config
import pytest

from ropewalk.client import config, progress
from ropewalk.client.progress import Lines, Notebook, Progress, Silent, Terminal, choose, nodes_line
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import ClusterDetail
from tests.support.client import cluster, dask_config_restored, node


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    with dask_config_restored(), dask.config.set({"ropewalk": config.defaults()["ropewalk"]}):
        yield


class Stream(io.StringIO):
    """A stream with an encoding, which may be a terminal."""

    def __init__(self, *, tty: bool = False, encoding: str = "utf-8") -> None:
        super().__init__()
        self._tty = tty
        self._encoding = encoding

    @property
    def encoding(self) -> str:  # type: ignore[override] # read-only here
        return self._encoding

    def isatty(self) -> bool:
        return self._tty


class Ticks:
    """A clock that moves by a second at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def detail(**fields: Any) -> ClusterDetail:
    return ClusterDetail.model_validate(cluster(**fields))


def tell(shown: Progress, *, failed: bool = False) -> None:
    shown.open("Ropewalk cluster mine")
    shown.step("Asking the server")
    shown.step("Waiting for the scheduler")
    shown.cluster(detail())
    shown.close("It broke." if failed else "mine is ready.", failed=failed)


def test_the_number_of_nodes_in_each_state_is_told() -> None:
    nodes = [
        node(),
        node("w1", "worker"),
        node("w2", "worker", "starting"),
        node("w3", "worker", "stopped"),
        node("w4", "worker", "failed"),
    ]
    line = nodes_line(detail(nodes=nodes, n_workers=4))
    assert line == "scheduler ready, workers: 1 of 4 ready, 1 failed, 1 starting"
    assert nodes_line(detail(nodes=[])) == "scheduler pending, workers: 0 of 2 ready"


def test_lines_say_each_thing_once() -> None:
    stream = Stream()
    shown = Progress(Lines(stream))
    shown.open("Ropewalk cluster mine")
    shown.step("Waiting for the scheduler")
    assert shown.waiting_for == "Waiting for the scheduler"
    for _ in range(3):
        shown.cluster(detail())
    shown.close("mine is ready.")
    assert stream.getvalue().splitlines() == [
        "ropewalk: Ropewalk cluster mine",
        "ropewalk:   Waiting for the scheduler …",
        "ropewalk:   scheduler ready, workers: 0 of 2 ready",
        "ropewalk: mine is ready.",
    ]


def test_each_step_is_timed() -> None:
    shown = Progress(Silent(), clock=Ticks())
    tell(shown)
    assert [step.seconds for step in shown.story.steps] == [1.0, 1.0]


def test_a_terminal_shows_steps_with_their_times_and_the_outcome() -> None:
    stream = Stream(tty=True)
    tell(Progress(Terminal(stream, force_terminal=True, width=100), clock=Ticks()))
    text = stream.getvalue()
    assert "✓" in text
    assert "Asking the server" in text
    assert "s)" in text
    assert "mine is ready." in text


def test_a_terminal_shows_a_failure_at_the_step_that_failed() -> None:
    stream = Stream(tty=True)
    tell(Progress(Terminal(stream, force_terminal=True, width=100)), failed=True)
    assert "✗" in stream.getvalue()
    assert "It broke." in stream.getvalue()


def test_a_terminal_that_knows_only_ascii_gets_ascii() -> None:
    stream = Stream(tty=True, encoding="ascii")
    shown = Progress(Terminal(stream, force_terminal=True, width=100))
    tell(shown)
    assert stream.getvalue().isascii()


@pytest.mark.parametrize("error", [OSError("broken pipe"), ValueError("I/O operation on closed file")])
@pytest.mark.parametrize("display", [Lines, Terminal])
def test_a_stream_that_is_closed_breaks_nothing(
    error: Exception, display: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Closed(Stream):
        def write(self, text: str) -> int:
            raise error

        def flush(self) -> None:
            raise error

    failures: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    tell(Progress(display(Closed(tty=True))))
    assert failures == []


def test_a_stream_that_is_none_as_in_windowed_programs_breaks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    tell(Progress(Lines()))
    assert isinstance(choose(), Silent)


class Handle:
    def __init__(self, shown: list[Any], *, gone: bool = False) -> None:
        self.shown = shown
        self.gone = gone

    def update(self, thing: Any) -> None:
        if self.gone:
            raise RuntimeError("no kernel")
        self.shown.append(thing._repr_html_())


def test_a_notebook_updates_one_output_and_escapes_what_comes_from_elsewhere() -> None:
    shown: list[Any] = []
    display = Notebook(lambda thing, display_id: Handle(shown))
    story = Progress(display)
    story.open("Ropewalk cluster <mine>")
    story.step("Waiting for <script>")
    story.cluster(detail())
    assert "<script>" not in shown[-1]
    assert "&lt;script&gt;" in shown[-1]
    assert "workers: 0 of 2 ready" in shown[-1]
    story.close("Failed & done.", failed=True)
    assert "Failed &amp; done." in shown[-1]
    assert "✗" in shown[-1]


def test_a_notebook_whose_front_end_is_gone_breaks_nothing() -> None:
    tell(Progress(Notebook(lambda thing, display_id: Handle([], gone=True))))


def test_what_a_notebook_shows_can_be_read_without_html() -> None:
    seen: list[str] = []

    class Reading(Handle):
        def update(self, thing: Any) -> None:
            seen.append(repr(thing))

    tell(Progress(Notebook(lambda thing, display_id: Reading([]))))
    assert seen == ["Asking the server", "Waiting for the scheduler", "Waiting for the scheduler", "mine is ready."]


def terminal(monkeypatch: pytest.MonkeyPatch, *, tty: bool) -> None:
    monkeypatch.setattr(sys, "stderr", Stream(tty=tty))


@pytest.mark.parametrize(
    ("tty", "show", "quiet", "mode", "expected"),
    [
        (True, None, False, "auto", Terminal),
        (False, None, False, "auto", Silent),
        (False, True, False, "auto", Lines),
        (True, False, False, "auto", Silent),
        (True, True, True, "auto", Silent),
        (True, None, False, "off", Silent),
        (True, None, False, False, Silent),
        (False, None, False, "on", Lines),
        (False, None, False, True, Lines),
        (False, None, False, None, Silent),
    ],
)
def test_which_display_fits(
    monkeypatch: pytest.MonkeyPatch, tty: bool, show: bool | None, quiet: bool, mode: Any, expected: type
) -> None:
    terminal(monkeypatch, tty=tty)
    with dask.config.set({"ropewalk.progress": mode}):
        assert type(choose(show=show, quiet=quiet)) is expected


def test_a_notebook_is_recognised(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=object()))
    monkeypatch.setitem(sys.modules, "IPython", kernel)
    assert isinstance(choose(), Notebook)
    console = types.SimpleNamespace(get_ipython=types.SimpleNamespace)
    monkeypatch.setitem(sys.modules, "IPython", console)
    assert not progress.in_notebook()


def test_an_unknown_mode_is_refused() -> None:
    with dask.config.set({"ropewalk.progress": "loud"}), pytest.raises(InputError) as caught:
        choose()
    assert caught.value.field == "ropewalk.progress"
