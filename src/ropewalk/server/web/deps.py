"""What pages ask for: a permission, by the session's cookie; and pages, not JSON, where something is wrong."""

import secrets
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any, cast

from fastapi import Depends, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment, PackageLoader, StrictUndefined

from ropewalk.errors import AuthenticationError, PermissionDeniedError, RopewalkError
from ropewalk.server.context import Context
from ropewalk.server.identity import sessions
from ropewalk.server.identity.permissions import Guard, Permission, Scope

__all__ = [
    "ContextDep",
    "PageGate",
    "PageRoute",
    "address_of",
    "check_form",
    "cookie_name",
    "is_secure",
    "page",
    "public",
    "require_session",
    "set_cookie",
]

_templates = Environment(
    loader=PackageLoader("ropewalk.server.web"), autoescape=True, undefined=StrictUndefined, auto_reload=False
)


def get_context(request: Request) -> Context:
    """Return the server's context."""
    return cast("Context", request.app.state.context)


ContextDep = Annotated[Context, Depends(get_context)]


@dataclass(frozen=True)
class PageGate(Guard):
    """Looks at the session's cookie."""

    async def open_to_all(self) -> None:
        """Let everybody through; exists so that the route's permission can be found."""

    async def for_session(self, request: Request, context: ContextDep) -> sessions.SignedIn:
        """Let through whoever is signed in and has the permission."""
        signed_in = await sessions.find(context, request.cookies.get(cookie_name(context)))
        if signed_in is None:
            raise AuthenticationError("You are not signed in, or were for too long.", advice="Sign in again.")
        signed_in.caller.demand(self.permission)
        return signed_in


def require_session(permission: Permission) -> Any:
    """Return the dependency that demands *permission* of whoever is signed in."""
    return Depends(PageGate(permission).for_session)


def public(permission: Permission) -> Any:
    """Return the dependency that declares a page open to everybody."""
    if permission.scope is not Scope.PUBLIC:
        raise ValueError(f"{permission} is not open to all")
    return Depends(PageGate(permission).open_to_all)


def address_of(request: Request) -> str | None:
    """Return the address that a request came from."""
    return None if request.client is None else request.client.host


def is_secure(context: Context) -> bool:
    """Return whether browsers reach this server by HTTPS."""
    return context.settings.public_url.startswith("https://")


def cookie_name(context: Context, purpose: str = "session") -> str:
    """Return the name of a cookie; with the prefix, browsers refuse it from a sub-domain or by plain HTTP."""
    return f"{'__Host-' if is_secure(context) else ''}ropewalk_{purpose}"


def set_cookie(context: Context, response: Response, name: str, value: str) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send along with forms."""
    seconds = int(sessions.LIFETIME.total_seconds())
    response.set_cookie(
        name, value, max_age=seconds, path="/", httponly=True, samesite="lax", secure=is_secure(context)
    )


def check_form(given: str, expected: str) -> None:
    """Refuse a form that another site made, or that is from before the session.

    Raises:
        PermissionDeniedError: The form's token is not the browser's.
    """
    if not sessions.same(given, expected):
        raise PermissionDeniedError(
            "This form was not made for your session, or is too old.", advice="Go back, load the page again, and retry."
        )


def page(template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    """Render a page that may load nothing, be framed by nobody, and run no script at all."""
    nonce = secrets.token_urlsafe(16)
    response = HTMLResponse(_templates.get_template(template).render(nonce=nonce, **values), status_code=status)
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    )
    response.headers["Cache-Control"] = "no-store"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["X-Frame-Options"] = "DENY"
    return response


class PageRoute(APIRoute):
    """Answers errors with a page; who must sign in is sent to do so."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_with_page(request: Request) -> Response:
            try:
                return await answer(request)
            except AuthenticationError:
                return RedirectResponse("/device", status_code=303)
            except RequestValidationError:
                return page("message.html", status=422, title="Wrong form", text="The form is not one of this server.")
            except RopewalkError as exc:
                return page("message.html", status=exc.http_status, title="That did not work", text=str(exc))

        return answer_with_page
