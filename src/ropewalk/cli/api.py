"""The API client as commands use it: with the login of the configuration, and knowing which account is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropewalk.client import calls
from ropewalk.client.config import choose_account, current_login, split_name
from ropewalk.client.exchange import RetryPolicy
from ropewalk.client.http import Api
from ropewalk.errors import InputError

if TYPE_CHECKING:
    import httpx

    from ropewalk.client.config import Login


class Session(Api):
    """The API client of one command."""

    def __init__(self, login: Login, retry: RetryPolicy, transport: httpx.BaseTransport | None = None) -> None:
        super().__init__(login.server, login.require_token(), retry=retry, transport=transport)
        self._configured = login.account

    def account(self, given: str | None) -> str:
        """Return the account to use: *given*, else the configured one, else the user's own."""
        account, _ = split_name(None, given)
        return choose_account(self(calls.me()), account, self._configured)

    def locate(self, name: str, account: str | None) -> tuple[str, str]:
        """Return account and name of what is called ``name`` or ``account/name``."""
        account, rest = split_name(name, account)
        if not rest:
            raise InputError(f"{name!r} names nothing.", advice="Give a name, or account/name.", field="name")
        return self.account(account), rest


def connect(*, patient: bool = True) -> Session:
    """Return a session with the configured server; close it.

    Args:
        patient: Repeat what a restart of the server interrupts.

    Raises:
        AuthenticationError: no token is configured.
    """
    return Session(current_login(), RetryPolicy() if patient else RetryPolicy(attempts=1))
