"""``ropewalk.diagnostics()``: what somebody who helps needs to know, with the token hidden."""

from __future__ import annotations

import os
import platform
import sys
import time
from typing import Any
from urllib.parse import urlsplit

from ropewalk._version import __version__
from ropewalk.client import calls, config
from ropewalk.client.exchange import RetryPolicy
from ropewalk.client.http import Api
from ropewalk.client.versions import local_versions
from ropewalk.errors import RopewalkError

__all__ = ["diagnostics"]

HIDDEN = "********"

_NETWORK = frozenset({"http_proxy", "https_proxy", "all_proxy", "no_proxy", "ssl_cert_file", "ssl_cert_dir"})
"""Environment variables, in lower case, that decide how the server is reached."""

SKEW_SECONDS = 60.0
"""Beyond this, certificates that were just made may seem to be of the future, and times in logs mislead."""


def diagnostics() -> dict[str, Any]:
    """Return versions, configuration and what the server says, ready to be shared: secrets are hidden.

    Never raises because of what it finds; it is told under ``problems``.
    """
    problems: list[str] = []
    found: dict[str, Any] = {
        "ropewalk": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": {name: version for name, version in local_versions().items() if name != "python"},
        "configuration": _configuration(),
        "environment": sorted(name for name in os.environ if name.startswith("DASK_ROPEWALK__")),
        "network": {name: _without_password(value) for name, value in os.environ.items() if name.lower() in _NETWORK},
        "server": {},
        "problems": problems,
    }
    try:
        login = config.current_login()
        found["server"] = _server(login, problems)
    except RopewalkError as exc:
        problems.append(str(exc))
    return found


def _configuration() -> dict[str, Any]:
    file = config.config_file()
    shown: dict[str, Any] = {"file": str(file), "file_exists": file.exists()}
    if file.exists():
        shown["file_mode"] = f"{file.stat().st_mode & 0o777:04o}"
    for key in config.defaults()["ropewalk"]:
        try:
            shown[key] = _shown(key, config.get(key))
        except RopewalkError as exc:
            shown[key] = str(exc)
    return shown


def _shown(key: str, value: Any) -> Any:
    if key == "token":
        return HIDDEN if value else None
    if key == "server" and isinstance(value, str):
        return _without_password(value)
    if isinstance(value, dict):
        given = {name: each for name, each in value.items() if each is not None}
        # Environment variables of nodes and options of their classes are where people put passwords.
        return {name: HIDDEN if isinstance(each, dict) else each for name, each in given.items()}
    return value


def _without_password(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return HIDDEN
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=f"{HIDDEN}@{parts.netloc.rpartition('@')[2]}").geturl()


def _server(login: config.Login, problems: list[str]) -> dict[str, Any]:
    told: dict[str, Any] = {"url": login.server, "reachable": False, "logged_in": False}
    with Api(login.server, login.token, retry=RetryPolicy(attempts=1)) as api:
        try:
            began = time.monotonic()
            skew = api.clock_skew()
            told |= {"reachable": True, "seconds": round(time.monotonic() - began, 3), "clock_ahead_seconds": skew}
            if skew is not None and abs(skew) > SKEW_SECONDS:
                problems.append(f"The clocks of this machine and of the server differ by {abs(skew):.0f} s.")
            login.require_token()
            me = api(calls.me())
        except RopewalkError as exc:
            problems.append(str(exc))
            return told
    told |= {
        "logged_in": True,
        "version": me.server_version,
        "user": me.user.username,
        "operator": me.user.operator,
        "accounts": [account.slug for account in me.accounts],
        "default_account": me.default_account,
    }
    if me.server_version != __version__:
        problems.append(f"The server has ropewalk {me.server_version}, this program {__version__}.")
    return told
