"""What the client reads from Dask's configuration (section ``ropewalk``), and the login that it saves there."""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import dask.config
import yaml

from ropewalk.errors import AuthenticationError, InputError, NotFoundError, SettingsError
from ropewalk.schemas.common import SLUG
from ropewalk.schemas.identity import Me

__all__ = [
    "Login",
    "choose_account",
    "config_file",
    "current_login",
    "defaults",
    "get",
    "require_account",
    "save",
    "save_login",
    "schema",
    "split_name",
]

_HERE = Path(__file__).parent
_HEADER = "# Written by ropewalk; it may hold your token. Other keys are kept, comments are not.\n"


def defaults() -> dict[str, Any]:
    """Return the packaged defaults, as in ``ropewalk.yaml``; a copy, since Dask changes what it is given."""
    return copy.deepcopy(_packaged("ropewalk.yaml"))


def schema() -> dict[str, Any]:
    """Return the JSON schema of the configuration, for the reference and for checks."""
    return copy.deepcopy(_packaged("ropewalk-schema.yaml"))


@cache
def _packaged(file: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((_HERE / file).read_text("utf-8"))
    return loaded


dask.config.update_defaults(defaults())


def get(key: str) -> Any:
    """Return the value of ``ropewalk.<key>``."""
    if not isinstance(dask.config.get("ropewalk", default={}), Mapping):
        # For example `ropewalk: yes`; Dask would silently find nothing below it.
        raise SettingsError(
            "The section `ropewalk` of Dask's configuration is not a mapping of names to values.",
            advice=f"Correct it in {config_file()} or in the environment variables that begin with DASK_ROPEWALK.",
            field="ropewalk",
        )
    return dask.config.get(f"ropewalk.{key}", default=None)


@dataclass(frozen=True)
class Login:
    """Which server, as whom, and in which account by default."""

    server: str
    token: str | None = field(repr=False)
    account: str | None
    user: str | None

    def require_token(self) -> str:
        """Return the token, or raise an AuthenticationError that says how to get one."""
        if self.token is None:
            raise AuthenticationError(
                f"You are not logged in to {self.server}: no token is configured.",
                advice="Run `ropewalk login`, or set DASK_ROPEWALK__TOKEN.",
                field="ropewalk.token",
            )
        return self.token


def current_login(*, server: str | None = None, token: str | None = None, account: str | None = None) -> Login:
    """Return the login of the configuration; arguments override it.

    A token is only ever sent to the server that it was configured with: another *server* has no token unless one
    is given.
    """
    from ropewalk.client.exchange import check_server_url  # noqa: PLC0415 - keeps httpx out of `import ropewalk`

    configured = check_server_url(get("server"))
    url = configured if server is None else check_server_url(server)
    if token is None and url == configured:
        token = _text("token")
    return Login(url, token, account or _text("account"), _text("user"))


def _text(key: str) -> str | None:
    value = get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        # The value is not shown: for the token it is a secret.
        raise SettingsError(
            f"ropewalk.{key} is not text but {type(value).__name__}.",
            advice=f'Put quotes around it: in YAML as "…", in the environment as DASK_ROPEWALK__{key.upper()}=\'"…"\'.',
            field=f"ropewalk.{key}",
        )
    return value.strip()


# Which account.


def split_name(name: str | None, account: str | None) -> tuple[str | None, str | None]:
    """Split ``account/name``; return account and name, where *account* is the argument beside it.

    Raises:
        InputError: the prefix and the argument differ, or one of the names is not valid.
    """
    if name is not None and not isinstance(name, str):
        raise InputError(f"name must be text, not {type(name).__name__}.", field="name")
    if account is not None and not isinstance(account, str):
        raise InputError(f"account must be text, not {type(account).__name__}.", field="account")
    prefix, slash, rest = (name or "").rpartition("/")
    if slash:
        if account is not None and account != prefix:
            raise InputError(
                f"The name {name!r} is in account {prefix!r}, but account={account!r} was given, too.",
                advice="Give one of them.",
                field="account",
            )
        account, name = prefix, rest
    for value, argument in ((account, "account"), (name, "name")):
        if value is not None and not SLUG.fullmatch(value):
            raise InputError(
                f"{value[:60]!r} is not a valid {argument}{' name' if argument == 'account' else ''}.",
                advice="Use 1 to 40 lower-case letters, digits and hyphens; no hyphen at either end.",
                field=argument,
            )
    return account, name


def choose_account(me: Me, account: str | None, configured: str | None) -> str:
    """Return the account to use: the one asked for, else the configured one, else your own.

    Raises:
        NotFoundError: it is none of yours; the message lists yours.
    """
    if account is not None:
        return require_account(me, account)
    if configured is not None:
        return require_account(me, configured, source=" (from `ropewalk.account` in the configuration)")
    return me.default_account


def require_account(me: Me, account: str, *, source: str = "") -> str:
    """Return *account* if it is one of yours, or raise a NotFoundError that lists them. An operator may use all."""
    slugs = sorted(each.slug for each in me.accounts)
    if account in slugs or me.user.operator:
        return account
    raise NotFoundError(
        f"You have no account {account!r}{source}.",
        advice=f"Yours: {', '.join(slugs) or 'none'}. An admin of a team account can add you to it.",
        field="account",
        details={"accounts": slugs},
    )


# Saving a login.


def config_file() -> Path:
    """Return the file that a login is saved in: ``ropewalk.yaml`` where Dask keeps its configuration."""
    path = Path(os.environ.get("DASK_CONFIG") or Path.home() / ".config" / "dask")
    return path if path.suffix.lower() in (".yaml", ".yml") and not path.is_dir() else path / "ropewalk.yaml"


def save_login(server: str, token: str, *, user: str | None = None, account: str | None = None) -> Path:
    """Save a login for this and later programs; return the file, which only you can read.

    Raises:
        SettingsError: as in :func:`save`.
    """
    return save({"server": server, "token": token, "user": user, "account": account})


def save(values: Mapping[str, Any]) -> Path:
    """Save values of the section, such as ``cluster.worker_cpu``, for this and later programs; None takes one out.

    Other keys of the file stay. The file is replaced at once, so that a crash leaves the old or the new one; only you
    can read it.

    Raises:
        SettingsError: the file that is there is corrupted, or the place cannot be written.
    """
    # Through a symbolic link (as in a repository of dot files) the real file is replaced, not the link.
    path = Path(os.path.realpath(config_file()))
    content = _read(path)
    for key, value in values.items():
        _put(content, ["ropewalk", *key.split(".")], value, path)
    try:
        _replace(path, _HEADER + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
    except OSError as exc:
        raise SettingsError(
            f"{path} cannot be written: {exc.strerror or exc}.",
            advice="Make it writable, point DASK_CONFIG to another directory, or use DASK_ROPEWALK__… variables.",
            field=str(path),
        ) from None
    dask.config.set({f"ropewalk.{key}": _default(key) if value is None else value for key, value in values.items()})
    return path


def _put(content: dict[str, Any], keys: list[str], value: Any, path: Path) -> None:
    *sections, last = keys
    for section in sections:
        below = content.get(section)
        if below is None:
            if value is None:
                return
            below = content[section] = {}
        if not isinstance(below, dict):
            raise SettingsError(
                f"In {path}, `{section}` is not a mapping of names to values.",
                advice="Correct or remove it. Nothing was changed.",
                field=str(path),
            )
        content = below
    if value is None:
        content.pop(last, None)
    else:
        content[last] = value


def _default(key: str) -> Any:
    return dask.config.get(f"ropewalk.{key}", default=None, config=defaults())


def _read(path: Path) -> dict[str, Any]:
    try:
        loaded = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as exc:
        raise SettingsError(f"{path} cannot be read: {exc.strerror or exc}.", field=str(path)) from None
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        # Only the place is told: the text around it may be a token.
        mark = getattr(exc, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SettingsError(
            f"The configuration file {path}{line}: it is not valid YAML.",
            advice="Correct or remove it. Nothing was changed.",
            field=str(path),
        ) from None
    if loaded is None:
        return {}
    if not isinstance(loaded, dict):
        raise SettingsError(
            f"The configuration file {path} holds a {type(loaded).__name__}, not a mapping of names to values.",
            advice="Correct or remove it. Nothing was changed.",
            field=str(path),
        )
    return loaded


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # mkstemp makes it readable by its owner only, whatever the umask, before anything is in it.
    handle, temporary = tempfile.mkstemp(prefix=".ropewalk-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
