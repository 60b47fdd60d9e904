"""The logs of a cluster: the newest lines of all nodes in one story, earlier ones of each, as they come, and as a file.

Everything but following works without scripts: the filters are in the address, and earlier lines are links.
"""

import re
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import StreamingResponse
from markupsafe import Markup

from ropewalk.errors import RopewalkError
from ropewalk.schemas.clusters import ClusterDetail
from ropewalk.server.clusters import logs, service
from ropewalk.server.context import Context
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.wakeups import first_of
from ropewalk.server.web import live
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, cookie_name, require_session, show
from ropewalk.server.web.render import part

router = APIRouter(prefix="/accounts/{account}/clusters/{cluster}/logs", route_class=PageRoute, include_in_schema=False)

LINES = 1000
"""Lines of one page: more than anybody reads, and drawn at once."""
LEAST_SECONDS, MOST_SECONDS = 1.0, 5.0
"""Between two looks for new lines: people do not read faster, and clouds limit how often they are asked."""
COLOURS = 6
"""Nodes are told apart by as many colours, besides their names; app.css has them."""

Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_LOGS_READ)]
Node = Annotated[str, Query(max_length=80)]
Words = Annotated[str, Query(max_length=200)]


@router.get("")
async def show_logs(
    context: ContextDep,
    visit: Reader,
    cluster: str,
    *,
    node: Node = "",
    search: Words = "",
    before: Annotated[int | None, Query(ge=0, le=2**53)] = None,
) -> Response:
    """Show the newest lines, or those of one node before a number."""
    found = await service.get(context, visit.caller, cluster)
    reader = logs.Reader(context, visit.caller, found.id, node or None, search.strip())
    reading = await reader.read(LINES, before if node else None)
    first = reading.found - len(reading.lines)
    return await show(
        context,
        visit,
        "logs.html",
        here="clusters",
        cluster=found,
        names=_names(found),
        node=node,
        search=search,
        before=before,
        reading=reading,
        lines=list(_marked(reading.lines, search.strip(), _colours(found))),
        first=first,
        earlier=first if node and first else None,
        later=None if before is None else before + LINES,
        follows=before is None and not reading.complete,
    )


@router.get("/live")
async def follow(
    context: ContextDep, visit: Reader, request: Request, cluster: str, *, node: Node = "", search: Words = ""
) -> Response:
    """Send the newest lines, and then what is written, until everything has ended."""
    found = await service.get(context, visit.caller, cluster)
    reader = logs.Reader(context, visit.caller, found.id, node or None, search.strip())
    stream = _follow(context, visit, request.cookies[cookie_name(context)], reader)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


@router.get("/download")
async def download(context: ContextDep, visit: Reader, cluster: str, *, node: Node = "") -> Response:
    """Send everything that the nodes, or one of them, wrote, as a file of text."""
    found = await service.get(context, visit.caller, cluster)
    texts = await logs.text_of(context, visit.caller, found.id, node or None)
    short = node.removeprefix(f"{found.id}-")
    name = re.sub(r"[^a-z0-9-]", "", f"{found.name}-{short}" if short else found.name)
    headers = {"Content-Disposition": f'attachment; filename="{name}.log"', "X-Content-Type-Options": "nosniff"}
    return StreamingResponse(texts, media_type="text/plain; charset=utf-8", headers=headers)


async def _follow(context: Context, visit: AccountVisit, cookie: str, reader: logs.Reader) -> AsyncIterator[str]:
    yield "retry: 2000\n\n"
    event, pause, quiet = "window", LEAST_SECONDS, 0.0
    while await live.allowed(context, visit.caller, cookie):
        try:
            reading = await reader.read(LINES)
        except RopewalkError:
            return  # gone meanwhile; the page says so when it is loaded again
        if reading.lines or event == "window":
            colours = _colours(await service.get(context, visit.caller, reader.cluster_id))
            lines = list(_marked(reading.lines, reader.words, colours))
            yield _event(event, part("log-lines.html", lines=lines))
            event, pause, quiet = "lines", LEAST_SECONDS, 0.0
        if reading.complete:
            yield _event("status", "Everything has ended: this is all.")
            yield _event("ended", "")
            return
        if await first_of(context.stopping, seconds=pause):
            return
        quiet, pause = quiet + pause, min(pause * 1.5, MOST_SECONDS)
        if quiet >= live.KEEP_ALIVE_SECONDS:
            yield ": still here\n\n"
            quiet = 0.0


def _event(name: str, html: str) -> str:
    data = "".join(f"data: {line}\n" for line in html.splitlines() or [""])
    return f"event: {name}\n{data}\n"


def _names(cluster: ClusterDetail) -> list[str]:
    return [node.name.removeprefix(f"{cluster.id}-") for node in cluster.nodes]


def _colours(cluster: ClusterDetail) -> dict[str, int]:
    return dict(zip(_names(cluster), (number % COLOURS for number in count()), strict=False))


def _marked(lines: Iterable[logs.Line], words: str, colours: dict[str, int]) -> Iterator[dict[str, Any]]:
    """Give lines for the template, with the words that were looked for marked."""
    pattern = re.compile(re.escape(words), re.IGNORECASE) if words else None
    for line in lines:
        text = Markup("").join(_pieces(line.text, pattern)) if pattern else line.text
        yield {"node": line.node, "level": line.level, "text": text, "colour": colours.get(line.node, 0)}


def _pieces(text: str, pattern: re.Pattern[str]) -> Iterator[str]:
    at = 0
    for match in pattern.finditer(text):
        yield text[at : match.start()]
        yield Markup("<mark>{}</mark>").format(match[0])
        at = match.end()
    yield text[at:]
