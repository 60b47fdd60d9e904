"""``ropewalk.login()``: become known to a server, and stay so."""

from __future__ import annotations

import os
import platform
import sys
import time
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ropewalk.client import calls, config
from ropewalk.client.http import Api
from ropewalk.errors import AuthenticationError
from ropewalk.schemas.identity import DeviceCode, DeviceStart, DeviceStatus, DeviceTokenRequest

__all__ = ["approve_by_browser", "login"]

LEAST_WAIT = 0.1
"""Seconds between two questions whether a login was approved, whatever the server says."""

_OVERRIDES = ("DASK_ROPEWALK__SERVER", "DASK_ROPEWALK__TOKEN", "DASK_ROPEWALK__ACCOUNT")


def login(server: str | None = None, token: str | None = None, account: str | None = None) -> Path:
    """Log in to a server, and save that where Dask keeps its configuration, readable only by you.

    Args:
        server: Its address; by default the configured one (``ropewalk.server``).
        token: A token that you made before. Without one, a browser is opened in which you approve; it may run on
            another machine.
        account: The account to use by default from now on.

    Returns:
        The file that was written.

    Raises:
        AuthenticationError: the token is not valid, or nobody approved.
        NotFoundError: you have no such account; lists yours.
    """
    url = config.current_login(server=server).server
    if token is None:
        with Api(url) as anonymous:
            token = approve_by_browser(anonymous)
    with Api(url, token) as api:
        me = api(calls.me())
    chosen = None if account is None else config.require_account(me, account)
    path = config.save_login(url, token, user=me.user.username, account=chosen)
    _say(f"Logged in to {url} as {me.user.username}; account {chosen or me.default_account}. Saved in {path}.")
    overriding = [name for name in _OVERRIDES if name in os.environ]
    if overriding:
        _say(f"Note: {', '.join(overriding)} in the environment will come before what was saved.")
    return path


def approve_by_browser(
    api: Api,
    *,
    say: Callable[[str], None] | None = None,
    open_page: Callable[[str], object] = webbrowser.open,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Ask for approval in a browser (RFC 8628); return the token.

    Args:
        api: The server, without a token.
        say: Shows a line to the user; by default on standard error.
        open_page: Opens the page.
        sleep: Waits, in seconds.
        clock: Monotonic seconds.

    Raises:
        AuthenticationError: it was denied, or not approved in time.
    """
    say = _say if say is None else say
    # The name tells later which token to revoke.
    name = f"login on {platform.node() or 'an unnamed machine'}"[:80]
    code = api(calls.device_start(DeviceStart(client_name=name)))
    say(f"Approve this login at {code.verification_uri_complete}")
    say(f"The page shows the code {code.user_code}; approve only if it is the same.")
    with suppress(Exception):  # without a browser here, the address above can be opened elsewhere
        open_page(code.verification_uri_complete)
    return _approved(api, code, sleep, clock)


def _approved(api: Api, code: DeviceCode, sleep: Callable[[float], None], clock: Callable[[], float]) -> str:
    deadline = clock() + code.expires_in
    while clock() < deadline:
        answer = api(calls.device_token(DeviceTokenRequest(device_code=code.device_code)))
        if answer.token is not None:
            return answer.token.token
        if answer.status is DeviceStatus.DENIED:
            raise AuthenticationError(
                "The login was denied in the browser.", advice="If that was not you, tell your operator."
            )
        if answer.status is DeviceStatus.EXPIRED:
            break
        sleep(max(code.interval, LEAST_WAIT))
    raise AuthenticationError("Nobody approved the login in time.", advice="Call ropewalk.login() again.")


def _say(text: str) -> None:
    with suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
