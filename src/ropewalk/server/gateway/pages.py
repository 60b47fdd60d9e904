"""The few small pages that the gateway itself shows. They load nothing and run no script."""

from __future__ import annotations

from html import escape

from starlette.responses import HTMLResponse

from ropewalk.errors import RopewalkError
from ropewalk.server.gateway.headers import guards

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p>{text}</p>{link}</body></html>
"""


def page(status: int, title: str, text: str, *, server: str, link: str = "") -> HTMLResponse:
    """Return a page that says what is the matter and what to do; *link* is an address to go on to."""
    anchor = f'<p><a href="{escape(link)}">Go to the cluster\'s page</a></p>' if link else ""
    response = HTMLResponse(_PAGE.format(title=escape(title), text=escape(text), link=anchor), status)
    for name, value in guards(server):
        response.headers[name.decode()] = value.decode()
    response.headers["Content-Security-Policy"] = f"default-src 'none'; frame-ancestors {server}"
    response.headers["Cache-Control"] = "no-store"
    return response


def no_pass(server: str, cluster_id: str) -> HTMLResponse:
    """Return the page for those who have no ticket and no cookie, or one that does not count any more."""
    text = (
        "Links to dashboards work once, for a minute, and let you in for 8 hours. Open it anew from the cluster's "
        "page, with: ropewalk cluster dashboard NAME, or in Python from cluster.dashboard_link."
    )
    link = f"{server}/clusters/{cluster_id}"
    return page(401, "You need a link to open this dashboard", text, server=server, link=link)


def error(exc: RopewalkError, server: str) -> HTMLResponse:
    """Return the page for an error."""
    return page(exc.http_status, "The dashboard cannot be shown", str(exc), server=server)
