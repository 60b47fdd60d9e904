"""The page that approves the login of a terminal: sign in, see who asks, approve or deny.

It works without scripts. A link from the terminal fills in the code, and never more than that: the person always sees
the client's name and address and decides with a button (RFC 8628, sections 3.3.1 and 5.4).
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Form, Query, Request, Response

from ropewalk.errors import NotFoundError, RateLimitedError
from ropewalk.server.context import Context
from ropewalk.server.identity import devices
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import ContextDep, PageRoute, Visit, address_of, check_form, require_session, show

router = APIRouter(prefix="/device", route_class=PageRoute, include_in_schema=False)

Visitor = Annotated[Visit, require_session(Permission.SELF_DEVICES_APPROVE)]
Code = Annotated[str, Form(max_length=64)]
Csrf = Annotated[str, Form(max_length=128)]


@router.get("")
async def ask(
    context: ContextDep, visit: Visitor, request: Request, user_code: Annotated[str, Query(max_length=64)] = ""
) -> Response:
    """Show what comes next: enter the code, or decide."""
    if not user_code:
        return await _code_page(context, visit, "")
    try:
        waiting = await devices.find(context, visit.caller, user_code, address=address_of(request))
    except (NotFoundError, RateLimitedError) as exc:
        return await _code_page(context, visit, user_code, error=str(exc), status=exc.http_status)
    return await show(context, visit, "approve.html", login=waiting)


@router.post("")
async def decide(
    context: ContextDep,
    visit: Visitor,
    decision: Annotated[Literal["approve", "deny"], Form()],
    user_code: Code = "",
    csrf: Csrf = "",
) -> Response:
    """Approve or deny a login."""
    check_form(csrf, visit.csrf)
    login = await devices.decide(context, visit.caller, user_code, approve=decision == "approve")
    if decision == "deny":
        text = f"{login.client_name} gets no access."
        return await show(context, visit, "message.html", title="Denied", text=text)
    text = f"{login.client_name} is logged in as {visit.caller.username}. Go back to the terminal."
    return await show(context, visit, "message.html", title="Approved", text=text)


async def _code_page(context: Context, visit: Visit, user_code: str, *, error: str = "", status: int = 200) -> Response:
    return await show(context, visit, "code.html", status=status, user_code=user_code, error=error)
