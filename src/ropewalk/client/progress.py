"""Shows what a starting cluster waits for: live in terminals and notebooks, as lines elsewhere if asked for.

Everything goes to standard error, and nothing here ever breaks a start: what cannot be shown is not shown.
"""

from __future__ import annotations

import html
import io
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any, Protocol, cast

from ropewalk.client import config
from ropewalk.errors import InputError
from ropewalk.schemas.clusters import ClusterDetail, NodeRole

__all__ = ["Lines", "Notebook", "Progress", "Silent", "Terminal", "choose", "nodes_line"]


@dataclass
class Step:
    """One thing that is, or was, waited for. ``seconds`` is None while it goes on."""

    text: str
    began: float
    seconds: float | None = None


class Display(Protocol):
    """How steps are shown."""

    def open(self, story: Story) -> None:
        """Begin to show."""

    def update(self, story: Story) -> None:
        """Show a change."""

    def close(self, story: Story) -> None:
        """Leave the last state visible and free what is held."""


@dataclass
class Story:
    """What there is to show, kept apart from how."""

    title: str
    steps: list[Step]
    nodes: str = ""
    outcome: str = ""
    failed: bool = False


class Progress:
    """Tells a display about the steps of a start.

    Args:
        display: Where it is shown.
        clock: Monotonic seconds; for tests.
    """

    def __init__(self, display: Display, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._display = display
        self._clock = clock
        self._open = False
        self.story = Story("", [])

    @property
    def waiting_for(self) -> str:
        """What is being waited for now."""
        return self.story.steps[-1].text if self.story.steps else "the start"

    def open(self, title: str) -> None:
        """Begin. Call it where the user is: a notebook ties the display to the cell that runs."""
        if not self._open:
            self.story.title = title
            self._open = True
            self._display.open(self.story)

    def step(self, text: str) -> None:
        """End the present step and begin the next: *text* says what is waited for."""
        now = self._clock()
        self._end_step(now)
        self.story.steps.append(Step(text, now))
        self._update()

    def note(self, text: str) -> None:
        """Show what was last said by what is waited for."""
        self.story.nodes = text
        self._update()

    def cluster(self, detail: ClusterDetail) -> None:
        """Show how many nodes are there."""
        self.story.nodes = nodes_line(detail)
        self._update()

    def close(self, outcome: str = "", *, failed: bool = False) -> None:
        """End, with a sentence that stays."""
        self._end_step(self._clock())
        self.story.outcome, self.story.failed = outcome, failed
        if self._open:
            self._open = False
            self._display.close(self.story)

    def _end_step(self, now: float) -> None:
        if self.story.steps and self.story.steps[-1].seconds is None:
            self.story.steps[-1].seconds = now - self.story.steps[-1].began

    def _update(self) -> None:
        if self._open:
            self._display.update(self.story)


def nodes_line(detail: ClusterDetail) -> str:
    """Return for example ``scheduler ready, workers: 2 of 4 ready, 1 starting``."""
    scheduler = next((str(n.state) for n in detail.nodes if n.role is NodeRole.SCHEDULER and n.state.live), "pending")
    states = Counter(str(n.state) for n in detail.nodes if n.role is NodeRole.WORKER)
    ready = states.pop("ready", 0)
    # A worker that ended in order, because fewer were wanted, is no news.
    states.pop("stopped", 0)
    others = "".join(f", {count} {state}" for state, count in sorted(states.items()))
    return f"scheduler {scheduler}, workers: {ready} of {detail.n_workers} ready{others}"


class Silent:
    """Shows nothing."""

    def open(self, story: Story) -> None:
        """Show nothing."""

    def update(self, story: Story) -> None:
        """Show nothing."""

    def close(self, story: Story) -> None:
        """Show nothing."""


class _Unbreakable(io.TextIOBase):
    """A text stream that swallows writes once the real one is closed or broken.

    Characters that it cannot encode are replaced: a progress display is not worth a UnicodeEncodeError.
    """

    def __init__(self, stream: IO[str] | None) -> None:
        self._stream = stream
        self._encoding = getattr(stream, "encoding", None) or "utf-8"

    @property
    def encoding(self) -> str:  # type: ignore[override]  # read-only here
        return self._encoding

    def write(self, text: str) -> int:
        if self._stream is not None:
            try:
                self._stream.write(text.encode(self._encoding, "replace").decode(self._encoding))
            except (OSError, ValueError):
                self._stream = None
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._stream = None

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:
            return False

    def fileno(self) -> int:
        if self._stream is None:
            raise io.UnsupportedOperation("fileno")
        return self._stream.fileno()


class Lines:
    """One line for each step, for logs and pipes."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = _Unbreakable(sys.stderr if stream is None else stream)
        self._told = 0
        self._nodes = ""

    def open(self, story: Story) -> None:
        """Show the title."""
        self._line(story.title)

    def update(self, story: Story) -> None:
        """Show the steps and the number of nodes, where they are new."""
        for step in story.steps[self._told :]:
            self._line(f"  {step.text} …")
        self._told = len(story.steps)
        if story.nodes != self._nodes:
            self._nodes = story.nodes
            self._line(f"  {story.nodes}")

    def close(self, story: Story) -> None:
        """Show how it ended."""
        if story.outcome:
            self._line(story.outcome)

    def _line(self, text: str) -> None:
        self._stream.write(f"ropewalk: {text}\n")
        self._stream.flush()


class Terminal:
    """A live display with a spinner, drawn by rich."""

    def __init__(self, stream: IO[str] | None = None, **console: Any) -> None:
        self._stream = _Unbreakable(sys.stderr if stream is None else stream)
        self._options = console
        self._live: Any = None
        self._spinner: Any = None

    def open(self, story: Story) -> None:
        """Begin to draw, ten times a second, in a thread of rich's."""
        from rich.console import Console  # noqa: PLC0415 - slow to import, and not needed without a terminal
        from rich.live import Live  # noqa: PLC0415
        from rich.spinner import Spinner  # noqa: PLC0415

        console = Console(file=cast("IO[str]", self._stream), highlight=False, **self._options)
        self._spinner = Spinner("dots" if _unicode(console.encoding) else "line", style="cyan")
        self._live = Live(
            get_renderable=lambda: self._draw(story, console.encoding),
            console=console,
            refresh_per_second=10,
            # What the program prints meanwhile goes where it would go without us.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()

    def update(self, story: Story) -> None:
        """Drawn at the next tick."""

    def close(self, story: Story) -> None:
        """Draw the last state and stop."""
        if self._live is not None:
            self._live.update(self._draw(story, self._stream.encoding))
            self._live.stop()
            self._live = None

    def _draw(self, story: Story, encoding: str) -> Any:
        from rich.console import Group  # noqa: PLC0415
        from rich.text import Text  # noqa: PLC0415

        tick, cross = ("✓", "✗") if _unicode(encoding) else ("+", "x")
        lines: list[Any] = [Text(story.title, style="bold")]
        ended = bool(story.outcome)
        for step in story.steps:
            if step.seconds is None:
                self._spinner.update(text=Text(f"{step.text}  {time.monotonic() - step.began:.0f} s"))
                lines.append(self._spinner)
            elif step is story.steps[-1] and story.failed:
                lines.append(Text.assemble((cross, "red"), f" {step.text}  ({step.seconds:.1f} s)"))
            else:
                lines.append(Text.assemble((tick, "green"), f" {step.text}  ({step.seconds:.1f} s)"))
        if story.nodes and not ended:
            lines.append(Text(f"  {story.nodes}", style="dim"))
        if ended:
            lines.append(Text(story.outcome, style="red" if story.failed else "green"))
        return Group(*lines)


def _unicode(encoding: str) -> bool:
    return encoding.lower().replace("-", "").startswith("utf")


class Notebook:
    """Updates one HTML output of the cell that runs."""

    def __init__(self, display: Callable[..., Any] | None = None) -> None:
        self._display = display
        self._handle: Any = None

    def open(self, story: Story) -> None:
        """Make the output."""
        if self._display is None:
            from IPython.display import display  # noqa: PLC0415 - only there in notebooks

            self._display = display
        self._handle = self._display(_Html(story), display_id=True)

    def update(self, story: Story) -> None:
        """Send the new state."""
        if self._handle is not None:
            try:
                self._handle.update(_Html(story))
            except Exception:  # noqa: BLE001 - the front end went away; the start goes on without it
                self._handle = None

    def close(self, story: Story) -> None:
        """Send the last state."""
        self.update(story)


class _Html:
    """What a notebook shows; also readable where HTML is not (exported notebooks, consoles)."""

    def __init__(self, story: Story) -> None:
        self._story = story

    def __repr__(self) -> str:
        story = self._story
        return story.outcome or (story.steps[-1].text if story.steps else story.title)

    def _repr_html_(self) -> str:
        story = self._story
        rows = [f"<b>{html.escape(story.title)}</b>"]
        for step in story.steps:
            failed = story.failed and step is story.steps[-1]
            mark = "…" if step.seconds is None else "✗" if failed else "✓"
            took = "" if step.seconds is None else f" <small>({step.seconds:.1f} s)</small>"
            rows.append(f"{mark} {html.escape(step.text)}{took}")
        if story.nodes and not story.outcome:
            rows.append(f"<small>{html.escape(story.nodes)}</small>")
        if story.outcome:
            color = "#b00020" if story.failed else "#1b7f3b"
            rows.append(f'<span style="color:{color}">{html.escape(story.outcome)}</span>')
        return "<div>" + "<br>".join(rows) + "</div>"


def in_notebook() -> bool:
    """Whether this program is a notebook's kernel. Imports nothing: a kernel has imported IPython."""
    ipython = sys.modules.get("IPython")
    shell = getattr(ipython, "get_ipython", lambda: None)()
    return shell is not None and getattr(shell, "kernel", None) is not None


def choose(*, show: bool | None = None, quiet: bool = False) -> Display:
    """Return the display that fits where the program runs.

    Args:
        show: True: at least plain lines; False: nothing; None: as the configuration says (``ropewalk.progress``),
            by default a live display where there can be one and nothing elsewhere.
        quiet: Nothing at all.
    """
    mode = config.get("progress") if show is None else show
    # YAML and the environment read on and off as booleans.
    wanted = {True: "on", False: "off", None: "auto"}.get(mode, mode) if not isinstance(mode, str) else mode
    if wanted not in ("auto", "on", "off"):
        raise InputError(f"ropewalk.progress is {mode!r}.", advice="Use auto, on or off.", field="ropewalk.progress")
    if quiet or wanted == "off":
        return Silent()
    if in_notebook():
        return Notebook()
    if _Unbreakable(sys.stderr).isatty():
        return Terminal()
    return Lines() if wanted == "on" else Silent()
