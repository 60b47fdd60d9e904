"""One build of a software environment: how far it is, its log as it is written, and as a file afterwards."""

from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse, StreamingResponse

from ropewalk.errors import RopewalkError
from ropewalk.schemas.environments import EnvironmentBuild, LogPart
from ropewalk.server.context import Context
from ropewalk.server.environments import builds, service
from ropewalk.server.environments.files import MAX_LOG
from ropewalk.server.environments.progress import stages
from ropewalk.server.environments.report import log_topic
from ropewalk.server.identity.permissions import AccountCaller, Permission
from ropewalk.server.wakeups import first_of
from ropewalk.server.web import live
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, cookie_name, require_session, show
from ropewalk.server.web.environments import may_change
from ropewalk.server.web.render import part

router = APIRouter(prefix="/accounts/{account}/builds/{build}", route_class=PageRoute, include_in_schema=False)

TAIL = 256 * 1024
"""Bytes of a log that a page shows, some thousand lines; all of it is a link away."""
LOOK_SECONDS = 5.0
"""Another server may build it: its words are found by looking now and then."""

Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_ENVIRONMENTS_READ)]


@router.get("")
async def show_build(context: ContextDep, visit: Reader, build: str) -> Response:
    """Show how far a build is, and the end of its log."""
    found = await builds.get(context, visit.caller, build)
    environment = await service.get(context, visit.caller, found.environment)
    events, _ = await builds.events(context, visit.caller, build)
    log = Lines(context, visit.caller, found)
    lines = await log.read()
    return await show(
        context,
        visit,
        "environments/build.html",
        here="environments",
        build=found,
        environment=environment,
        mine=may_change(visit, environment),
        stages=stages(found, events),
        lines=list(marked(lines)),
        cut=log.cut,
        now=context.clock.now(),
    )


@router.get("/live")
async def follow(context: ContextDep, visit: Reader, request: Request, build: str) -> Response:
    """Send the log's end and what is written after it, and say when the build comes further, until it is over."""
    found = await builds.get(context, visit.caller, build)
    stream = following(context, visit, request.cookies[cookie_name(context)], found)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/log/download")
async def download(context: ContextDep, visit: Reader, build: str) -> Response:
    """Send all of a log as a file of text."""
    found = await builds.get(context, visit.caller, build)
    log = await builds.log(context, visit.caller, build, 0, MAX_LOG + TAIL)
    name = f"{found.environment}-{found.version}.log"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "X-Content-Type-Options": "nosniff"}
    return PlainTextResponse(log.text, headers={**headers, "Cache-Control": "no-store"})


class Lines:
    """Reads whole lines of a log, from its last :data:`TAIL` bytes on."""

    def __init__(self, context: Context, caller: AccountCaller, build: EnvironmentBuild) -> None:
        self._context, self._caller, self._id = context, caller, build.id
        self._offset = max(0, build.log_size - TAIL)
        self._rest = ""
        self._begun = False
        self.cut = self._offset > 0
        """Whether the log began before."""
        self.complete = False
        """Whether nothing more can follow."""

    async def read(self) -> list[str]:
        """Return the lines that were written since the last time."""
        part = await builds.log(self._context, self._caller, self._id, self._offset, MAX_LOG)
        self._offset, self.complete = part.next, part.complete
        return self._lines(part)

    def _lines(self, part: LogPart) -> list[str]:
        *lines, self._rest = (self._rest + part.text).split("\n")
        if self.complete and self._rest:
            lines, self._rest = [*lines, self._rest], ""
        if self.cut and not self._begun:
            lines = lines[1:]  # the middle of a line
        self._begun = True
        return lines


def marked(lines: list[str]) -> Iterator[dict[str, Any]]:
    """Give lines for the template, with what is worth a look told from the rest."""
    for line in lines:
        lower = line.lstrip().lower()
        level = "error" if lower.startswith(("failed", "error", "fatal")) else ""
        yield {"text": line, "level": level or ("warning" if lower.startswith("warn") else "")}


async def following(context: Context, visit: AccountVisit, cookie: str, build: EnvironmentBuild) -> AsyncIterator[str]:
    wakeups, log = context.wakeups, Lines(context, visit.caller, build)
    with wakeups.subscribe(log_topic(build.id)) as written, wakeups.subscribe(f"events:{build.id}") as happened:
        # A browser that comes back has missed something: it gets the end of the log and the state anew.
        yield "retry: 2000\nevent: changed\ndata: \n\n"
        event = "window"
        while await live.allowed(context, visit.caller, cookie):
            try:
                lines = await log.read()
            except RopewalkError:
                return  # gone meanwhile; the page says so when it is loaded again
            if lines or event == "window":
                yield _event(event, part("environments/log-lines.html", lines=list(marked(lines))))
                event = "lines"
            if log.complete:
                yield "event: changed\ndata: \n\n" + _event("status", "The build is over: this is all.")
                yield _event("ended", "")
                return
            if not await first_of(written, happened, context.stopping, seconds=LOOK_SECONDS):
                yield ": still here\n\n"
            if context.stopping.is_set():
                return
            if happened.is_set():
                yield "event: changed\ndata: \n\n"
            written.clear()
            happened.clear()
            await first_of(context.stopping, seconds=live.LEAST_SECONDS)


def _event(name: str, html: str) -> str:
    data = "".join(f"data: {line}\n" for line in html.splitlines() or [""])
    return f"event: {name}\n{data}\n"
