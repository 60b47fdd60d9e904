"""The few small pages that the gateway itself shows. They load nothing and run no script."""

from __future__ import annotations

from html import escape

from starlette.responses import HTMLResponse

from ropewalk.errors import RopewalkError
from ropewalk.server.gateway.headers import guards

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p></body></html>
"""


def page(status: int, title: str, text: str, *, server: str) -> HTMLResponse:
    """Return a page that says what is the matter and what to do."""
    response = HTMLResponse(_PAGE.format(title=escape(title), text=escape(text)), status)
    for name, value in guards(server):
        response.headers[name.decode()] = value.decode()
    response.headers["Content-Security-Policy"] = f"default-src 'none'; frame-ancestors {server}"
    response.headers["Cache-Control"] = "no-store"
    return response


def no_pass(server: str) -> HTMLResponse:
    """Return the page for those who have no ticket and no cookie, or one that does not count any more."""
    text = (
        "Links to dashboards work once, for a minute. Get a new one with: ropewalk cluster dashboard NAME, "
        "or in Python from cluster.dashboard_link."
    )
    return page(401, "You need a link to open this dashboard", text, server=server)


def error(exc: RopewalkError, server: str) -> HTMLResponse:
    """Return the page for an error."""
    return page(exc.http_status, "The dashboard cannot be shown", str(exc), server=server)
