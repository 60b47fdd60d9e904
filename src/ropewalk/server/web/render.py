"""From a template to an answer, with the headers that every page has."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from fastapi.responses import HTMLResponse, Response
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from ropewalk._version import __version__
from ropewalk.server.web import assets, formats
from ropewalk.server.web.clicks import prose

__all__ = ["DONE", "page", "part", "protect"]

DONE = {
    "changed": "The user was changed.",
    "configured": "The configuration was saved.",
    "deleted": "It was deleted.",
    "environment-same": "Nothing was changed, so there is nothing to build.",
    "hosted": "The settings of hosted clusters were saved. Clusters that run go on as they are.",
    "made": "It was made.",
    "password": "Your password was changed. Your sessions in other browsers have ended.",
    "revoked": "The token was revoked.",
    "session": "The session was ended.",
    "sessions": "All your other sessions were ended.",
    "connected": "Single sign-on works for you from now on.",
    "disconnected": "Single sign-on does not work for you any more.",
    "index-stored": "The credentials were stored, encrypted.",
    "joined": "Welcome: you are a member of this account now.",
    "member": "The member was changed.",
    "added": "The member was added.",
    "removed": "The member was removed. What they started goes on until somebody stops it.",
    "left": "You are not a member of that account any more.",
    "limit": "The account's limit was changed.",
    "uninvited": "The invitation was revoked.",
    "signed-out": "You are signed out.",
    "stopping": "The cluster was asked to stop.",
    "cloud-used": "New clusters run there from now on.",
    "cloud-set": "Stored, and what it may do was checked just now.",
    "cloud-checked": "It was checked just now.",
    "cloud-forgotten": "It was forgotten, with its credentials.",
    "scaled": "The new number of workers was written down; the cluster follows.",
}
"""What a page says once after something was done, by the word in its address. Nobody else can put text there."""

_templates = Environment(
    loader=PackageLoader("ropewalk.server.web"),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)


def _time(moment: datetime | None) -> Markup:
    """Return a time as the reader's browser will show it in their zone; without scripts, in UTC."""
    if moment is None:
        return Markup("&ndash;")
    text = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(), text)


def _day(moment: datetime) -> Markup:
    """Return the day of a time, where the hour does not matter; in the reader's zone with scripts."""
    return Markup('<time datetime="{}" data-day>{}</time>').format(moment.isoformat(), f"{moment:%Y-%m-%d}")


_templates.globals.update(asset=assets.url, icon=assets.icon, done_texts=DONE, version=__version__)
_templates.filters.update(
    time=_time,
    prose=prose,
    day=_day,
    memory=formats.memory,
    money=formats.money,
    duration=formats.duration,
    number=formats.number,
    thousands=formats.thousands,
    amount=formats.amount,
)


def protect(response: Response, *, forms_to: Sequence[str] = ()) -> None:
    """Set what keeps other code than ours out of a page.

    Args:
        response: The page.
        forms_to: Other origins that a form of the page may lead to: a cluster's dashboard.
    """
    response.headers["Content-Security-Policy"] = "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",  # Tabler draws check marks and arrows that way
            "connect-src 'self'",
            " ".join(("form-action 'self'", *forms_to)),
            "frame-ancestors 'none'",
            "base-uri 'none'",
        )
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    response.headers["Cross-Origin-Opener-Policy"] = "same-origin"


def part(template: str, **values: Any) -> str:
    """Render a piece of a page, for those that get it as it happens."""
    return _templates.get_template(template).render(**values)


def page(template: str, *, status: int = 200, forms_to: Sequence[str] = (), **values: Any) -> HTMLResponse:
    """Render a page that loads only files of this server, runs nothing inline, and is framed by nobody."""
    values = {"visit": None, "accounts": [], "here": "", "done": "", **values}
    response = HTMLResponse(_templates.get_template(template).render(**values), status_code=status)
    protect(response, forms_to=forms_to)
    return response
