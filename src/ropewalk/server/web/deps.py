"""What pages ask for: a permission, by the session's cookie; and pages, not JSON, where something is wrong."""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any, cast
from urllib.parse import quote, urlencode, urlsplit

import structlog
from fastapi import Depends, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute

from ropewalk.errors import AuthenticationError, NotFoundError, PermissionDeniedError, RopewalkError
from ropewalk.server.context import Context
from ropewalk.server.identity import access, accounts, sessions
from ropewalk.server.identity.permissions import AccountCaller, Caller, Guard, Permission, Scope
from ropewalk.server.web.packing import mask, pack, unmask
from ropewalk.server.web.render import DONE, page

__all__ = [
    "AccountVisit",
    "ContextDep",
    "PageGate",
    "PageRoute",
    "Visit",
    "address_of",
    "check_form",
    "cookie_name",
    "done",
    "failure",
    "forget_cookie",
    "is_secure",
    "local_path",
    "public",
    "require_session",
    "set_cookie",
    "show",
]

log = structlog.get_logger(__name__)


def get_context(request: Request) -> Context:
    """Return the server's context."""
    return cast("Context", request.app.state.context)


ContextDep = Annotated[Context, Depends(get_context)]


@dataclass(frozen=True)
class Visit:
    """Somebody who is signed in, and what their forms must carry."""

    caller: Caller
    csrf: str


@dataclass(frozen=True)
class AccountVisit(Visit):
    """A visit of a page about an account."""

    caller: AccountCaller


@dataclass(frozen=True)
class PageGate(Guard):
    """Looks at the session's cookie."""

    async def open_to_all(self) -> None:
        """Let everybody through; exists so that the route's permission can be found."""

    async def for_session(self, request: Request, context: ContextDep) -> Visit:
        """Let through whoever is signed in and has the permission."""
        signed_in = await _signed_in(request, context)
        if self.permission.scope is Scope.INSTALLATION and not signed_in.caller.may(self.permission):
            # That there are pages for operators is no business of others.
            raise NotFoundError("This server has no such page, or you may not see it.")
        signed_in.caller.demand(self.permission)
        return Visit(signed_in.caller, signed_in.csrf)

    async def for_account(
        self, request: Request, context: ContextDep, account: Annotated[str, Path(max_length=60)]
    ) -> AccountVisit:
        """As :meth:`for_session`; the account is the path's ``{account}``, and must be the person's to see."""
        signed_in = await _signed_in(request, context)
        caller = await access.to_account(context, signed_in.caller, account)
        caller.demand(self.permission)
        return AccountVisit(caller, signed_in.csrf)


async def _signed_in(request: Request, context: Context) -> sessions.SignedIn:
    cookie = request.cookies.get(cookie_name(context), "")
    found = await sessions.find(context, cookie)
    if found is None:
        raise AuthenticationError("You are not signed in, or were for too long.", advice="Sign in again.")
    if found.stale:
        await sessions.note_use(context, cookie)
    structlog.contextvars.bind_contextvars(user=found.caller.username)
    return found


def require_session(permission: Permission) -> Any:
    """Return the dependency that demands *permission* of whoever is signed in.

    It gives an :class:`AccountVisit` for permissions of scope ``account``, and a :class:`Visit` otherwise.
    """
    gate = PageGate(permission)
    if permission.scope is Scope.PUBLIC:
        raise ValueError(f"{permission} is open to all")
    return Depends(gate.for_account if permission.scope is Scope.ACCOUNT else gate.for_session)


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


def set_cookie(
    context: Context, response: Response, name: str, value: str, *, lifetime: timedelta = sessions.LIFETIME
) -> None:
    """Set a cookie that scripts cannot read and other sites cannot send along with forms."""
    seconds = int(lifetime.total_seconds())
    response.set_cookie(
        name, value, max_age=seconds, path="/", httponly=True, samesite="lax", secure=is_secure(context)
    )


def forget_cookie(context: Context, response: Response, purpose: str = "session") -> None:
    """Make the browser forget a cookie."""
    name = cookie_name(context, purpose)
    response.delete_cookie(name, secure=is_secure(context), httponly=True, samesite="lax")


def check_form(given: str, expected: str) -> None:
    """Refuse a form that another site made, or that is from before the session.

    Raises:
        PermissionDeniedError: The form's token is not the browser's.
    """
    if not sessions.same(unmask(given), expected):
        raise PermissionDeniedError(
            "This form was not made for your session, or is too old.", advice="Go back, load the page again, and retry."
        )


def local_path(wish: str) -> str:
    """Return *wish* if it is an address on this server, else that of the first page: no link leads elsewhere."""
    plain = wish.startswith("/") and not wish.startswith(("//", "/\\")) and wish.isprintable()
    return wish if plain else "/"


async def show(context: Context, visit: Visit, template: str, **values: Any) -> HTMLResponse:
    """Render a page of somebody who is signed in, with the accounts that they can go to."""
    caller = visit.caller
    account = caller.account if isinstance(caller, AccountCaller) else caller.username
    mine = await accounts.list_accounts(context, caller)
    visit = replace(visit, csrf=mask(visit.csrf))
    return page(template, visit=visit, accounts=mine, account=account, may=caller.may, **values)


def done(path: str, what: str) -> RedirectResponse:
    """Go to a page that says what was done, so that loading it again does not do it again."""
    if what not in DONE:
        raise KeyError(what)
    return RedirectResponse(f"{path}{'&' if '?' in path else '?'}done={what}", status_code=303)


class PageRoute(APIRoute):
    """Answers errors with a page; who must sign in is sent to do so, and comes back."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        answer = super().get_route_handler()

        async def answer_with_page(request: Request) -> Response:
            try:
                return pack(request, await answer(request))
            except AuthenticationError:
                return await self.interrupted(request)
            except RequestValidationError:
                return failure("Wrong form", "The form is not one of this server.", status=422)
            except NotFoundError as exc:
                return _missing(request, exc)
            except RopewalkError as exc:
                return failure(_TITLES.get(exc.http_status, "That did not work"), exc.message, exc.advice, exc)
            except Exception:
                log.exception("page.defect", path=request.url.path)
                number = request.scope.get("ropewalk.request_id")
                return failure(
                    "Something is broken here",
                    "The server ran into a defect of its own. What happened is in its log.",
                    f"Tell an operator this number: {number}.",
                    status=500,
                )

        return answer_with_page

    async def interrupted(self, request: Request) -> Response:
        """Answer a request without a session."""
        return _to_sign_in(request)


_TITLES = {403: "You may not do that", 404: "There is nothing here", 429: "Too many tries"}


_LISTS = {
    "builds": ("environments", "software environments"),
    "clusters": ("clusters", "clusters"),
    "configurations": ("configurations", "configurations"),
    "environments": ("environments", "software environments"),
    "index-credentials": ("index-credentials", "stored credentials"),
}
"""Of what can be missing, by the part of an address below an account: page that lists it, and what that is called."""


def failure(
    title: str,
    text: str,
    advice: str | None = None,
    exc: RopewalkError | None = None,
    *,
    status: int = 400,
    back: tuple[str, str] = ("/", "To your clusters"),
) -> HTMLResponse:
    """Return the page for what went wrong; *back* is where a link on it leads, and what it says."""
    status = exc.http_status if exc else status
    return page("error.html", status=status, title=title, text=text, advice=advice, back=back)


def _missing(request: Request, exc: NotFoundError) -> HTMLResponse:
    """Return the page for what is not there: it leads to the list of such things; messages advise commands."""
    title = _TITLES[exc.http_status]
    match request.url.path.split("/")[1:]:
        case ["accounts", account, "environments", name, _, *_] if exc.field == "version":
            back = f"/accounts/{quote(account)}/environments/{quote(name)}", f"To all versions of {name}"
        case ["accounts", account, noun, _, *_] if noun in _LISTS and exc.field != "account":
            place, called = _LISTS[noun]
            back = f"/accounts/{quote(account)}/{place}", f"To the {called} of {account}"
        case _:
            return failure(title, exc.message, exc.advice, exc)
    return failure(title, exc.message, "It may have been deleted, or the address is mistyped.", exc, back=back)


def _to_sign_in(request: Request) -> Response:
    """Send somebody without a session to sign in, and back to the page, not to the form that they sent."""
    here = request.url.path, request.url.query
    if request.method != "GET":
        here = urlsplit(request.headers.get("referer", ""))[2:4]
    if request.headers.get("hx-request"):
        # A part of a page cannot become the sign-in form: the whole page goes there.
        here = urlsplit(request.headers.get("hx-current-url", ""))[2:4]
    path = (here[0] or "/") + (f"?{here[1]}" if here[1] else "")
    if request.headers.get("hx-request"):
        return Response(status_code=401, headers={"HX-Redirect": f"/sign-in?{urlencode({'next': local_path(path)})}"})
    return RedirectResponse(f"/sign-in?{urlencode({'next': local_path(path)})}", status_code=303)
