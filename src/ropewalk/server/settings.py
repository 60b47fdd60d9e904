"""The server's settings, where each came from, and errors that name the one that is wrong.

Precedence: command line > ``ROPEWALK_*`` environment > TOML file > default. An empty environment variable counts as
not set, as container tools pass those. A name that is not a setting is an error, so that a slip of the pen is told.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from ropewalk.errors import SettingsError

ENV_PREFIX = "ROPEWALK_"

_OTHER_VARIABLES = frozenset(
    f"ROPEWALK_{name}"
    for name in (
        *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CONFIG", "DEBUG", "INVITATION", "LOGIN_TOKEN", "NEW_PASSWORD"),
        *("INDEX_PASSWORD", "NODE", "NODE_CONFIG", "PASSWORD"),
    )
)
"""Ours, but not settings: where the TOML file is, what the command line and nodes read."""

HIDDEN = "********"


class Source(StrEnum):
    """Where a setting's value came from."""

    DEFAULT = "default"
    FILE = "file"
    ENV = "env"
    FLAG = "flag"


def default_data_dir() -> Path:
    """Return where data goes when nobody says otherwise: the XDG base directory specification's place."""
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(base) if base else Path.home() / ".local" / "share") / "ropewalk"


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - Path.resolve would follow symbolic links


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Positive = Annotated[float, Field(gt=0, le=366 * 24 * 3600)]
Gib = Annotated[float, Field(gt=0, le=2**20)]
Cores = Annotated[int, Field(ge=0, le=1_000_000)]


def _url(scheme: str, host: str, port: int) -> str:
    # "Any address" is nothing to connect to; the loopback address always answers then.
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


_DOMAIN = re.compile(r"(?=.{1,230}$)[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")


def _is_local(host: str) -> bool:
    """Return whether *host* is the loopback of whoever says it (RFC 6761, section 6.3, for the names)."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class Settings(BaseSettings):
    """Made by :func:`load_settings`; made directly, it takes arguments only and never looks at the environment."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True)

    host: str = Field("127.0.0.1", min_length=1, description="Address to listen on.")
    port: int = Field(8780, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    data_dir: AbsolutePath = Field(
        default_factory=default_data_dir,
        description="Directory of the database, the encryption key and what local clusters need.",
    )
    local_dir: AbsolutePath = Field(
        default_factory=lambda data: Path(str(data.get("data_dir"))) / "local",
        description="Directory of the nodes that run on this machine. Servers on one PostgreSQL database whose hosted "
        "clusters run on their machine must be on the same machine and share it.",
    )
    database_url: str = Field(
        default_factory=lambda data: f"sqlite:///{data.get('data_dir')}/ropewalk.db",
        description="`sqlite:///path` or `postgresql://user:password@host/name`.",
    )
    public_url: str = Field(
        default_factory=lambda data: _url("http", str(data.get("host")), int(data.get("port", 0))),
        description="Address of this server as users' browsers and clients see it.",
    )
    encryption_key: SecretStr | None = Field(
        None,
        description="Keys of stored secrets, each `id:base64 of 32 bytes`, newest first, separated by commas. "
        "Takes the place of `encryption_key_file`.",
    )
    encryption_key_file: AbsolutePath = Field(
        default_factory=lambda data: Path(str(data.get("data_dir"))) / "encryption.key",
        description="File with those keys, one a line, mode 0600. Made at the first start.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["text", "json"] = Field("text", description="`text` for people, `json` for programs.")
    default_member_core_limit: Cores | None = Field(
        None, description="Cores that one member may use, unless the member has a limit; unset: no limit."
    )
    default_account_core_limit: Cores | None = Field(
        None, description="Cores that one account may use, unless the account has a limit; unset: no limit."
    )
    token_days: Annotated[float, Field(gt=0, le=3660)] = Field(
        90, description="Days that a token is valid when its maker does not say."
    )
    lease_seconds: Annotated[float, Field(ge=1, le=3600)] = Field(
        30, description="Time after which another server takes over the clusters of one that died."
    )
    reconcile_concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(
        32, description="Clusters that are worked on at the same time."
    )
    silent_scheduler_seconds: Positive = Field(
        900,
        description="Time without a word of a scheduler after which a person should look; also the grace, on top of "
        "its idle_timeout, after which the server ends a cluster whose scheduler hangs.",
    )
    environment_days: Annotated[float, Field(gt=0, le=3660)] = Field(
        30,
        description="Days after which what was built of a software environment for hosted clusters is removed, if no "
        "cluster used it; it is built again when one does.",
    )
    environment_venvs_gib: Gib = Field(
        40,
        description="GiB of virtual environments for hosted clusters that are kept; beyond, what was not "
        "used for longest is removed, and built again when a cluster wants it. What clusters run in stays.",
    )
    environment_account_gib: Gib = Field(
        20,
        description="GiB that the software environments of one account may take on the server's disk: uploaded wheels, "
        "packages of its private indexes, and virtual environments that it has built.",
    )
    environment_free_gib: Annotated[float, Field(ge=0, le=2**20)] = Field(
        1,
        description="GiB of the server's disk that have to be free for a build to begin. A build is stopped when half "
        "of that is left.",
    )
    package_cache_gib: Gib = Field(
        20,
        description="GiB of packages (uv's and conda's) that are kept, so that they are not downloaded again.",
    )
    sweep_seconds: Positive = Field(300, description="Time between two searches for orphans.")
    orphan_grace_seconds: Positive = Field(600, description="Age at which an orphan is removed.")
    metrics_token: SecretStr | None = Field(
        None, description="Bearer token that opens `/metrics` to clients on other machines."
    )

    invite_new_users: bool = Field(
        True,
        description="Let people who have no user make one with an invitation to a team; otherwise only operators make "
        "users.",
    )

    oidc_issuer: str | None = Field(
        None,
        description="Issuer of your identity provider, for single sign-on by OpenID Connect: an https:// address, "
        "exactly as the provider says it.",
    )
    oidc_client_id: str | None = Field(
        None, min_length=1, validate_default=True, description="Id of this server at the provider."
    )
    oidc_client_secret: SecretStr | None = Field(
        None, description="Secret of this server at the provider. Unset, it is a public client, with PKCE only."
    )
    oidc_client_secret_file: AbsolutePath | None = Field(None, description="File with that secret, mode 0600.")
    oidc_name: str = Field("single sign-on", min_length=1, max_length=40, description="What the button calls it.")
    oidc_scopes: str = Field("openid profile email", description="What is asked of the provider.")
    oidc_create_users: bool = Field(
        True,
        description="Make a user for whoever signs in there for the first time; otherwise only for who was invited.",
    )
    oidc_domains: str | None = Field(
        None,
        description="Domains, separated by commas: only people whose e-mail address is in one of them, and verified by "
        "the provider, may sign in by it.",
    )
    oidc_operators: str | None = Field(
        None,
        description="`claim=value`, for example `groups=ropewalk-operators`: who has it is made an operator when they "
        "sign in, and who has not stops being one.",
    )

    dashboard_domain: str = Field(
        "localhost",
        description="Domain below which each cluster's dashboard has a host of its own, `<cluster id>.<domain>`, with "
        "the scheme and port of `public_url`. `localhost` is for browsers on the server's machine.",
    )

    gateway_host: str = Field(
        default_factory=lambda data: str(data.get("host")),
        min_length=1,
        description="Address that the gateway to clusters listens on.",
    )
    gateway_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the gateway, one for all clusters; 0 takes a free one; unset: 8786, or a free one if that "
        "is taken.",
    )
    gateway_address: str | None = Field(
        None,
        description="`host:port` of the gateway as clients see it; unset: the host of `public_url` and the port that "
        "was taken.",
    )
    gateway_idle_seconds: Positive = Field(
        3600, description="Time without a byte either way after which the gateway ends a connection."
    )
    gateway_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        5000, description="Connections that the gateway carries at the same time; further ones are refused."
    )

    @field_validator("gateway_address")
    @classmethod
    def _host_and_port(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(f"tls://{value}")
        try:
            complete = parts.hostname and parts.port and parts.netloc == value
        except ValueError:
            complete = False
        if not complete or "@" in value:
            raise ValueError("give host:port, for example dask.example.org:8786")
        return value

    aws_endpoint_url: str | None = Field(
        None,
        description="Where AWS's APIs are asked instead of at AWS's own addresses: an emulator, a VPC endpoint. It "
        "holds for all cloud accounts; no team can set it.",
    )
    image_base: str = Field(
        "docker.io/library/python:{python}-slim",
        description="Image that packages of software environments are put upon; `{python}` stands for the version. Any "
        "image with that Python on its PATH and glibc will do.",
    )
    image_cache_gib: Gib = Field(
        20, description="GiB of layers that are kept, so that they are not pulled and made again."
    )
    registry_ca_file: AbsolutePath | None = Field(
        None, description="File with certificates (PEM) of registries, in place of the system's."
    )
    registries_without_tls: str | None = Field(
        None, description="`host:port` of registries that are spoken to without TLS, separated by commas."
    )
    post_build_network: bool = Field(
        False,
        description="Give commands of `post_build` for images the network of the server. Whoever may make software "
        "environments can then reach what the server can.",
    )
    kubernetes_in_web: bool = Field(
        False,
        description="Offer Kubernetes in the web pages; by command line and API it is always there.",
    )
    kubernetes_allow_insecure: bool = Field(
        False,
        description="Accept kubeconfigs that use plain HTTP or do not verify the API server's certificate: their keys "
        "can be read on the way.",
    )

    @field_validator("aws_endpoint_url")
    @classmethod
    def _endpoint(cls, value: str | None) -> str | None:
        return None if value is None else cls._web_address(value)

    @field_validator("oidc_issuer")
    @classmethod
    def _issuer(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        safe = parts.scheme == "https" or (parts.scheme == "http" and _is_local(parts.hostname or ""))
        if not safe or not parts.hostname or parts.query or parts.fragment or "@" in parts.netloc:
            raise ValueError("give an address that begins with https://, without a query")
        return value

    @field_validator("oidc_scopes")
    @classmethod
    def _scopes(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("openid must be one of them")
        return value

    @field_validator("oidc_operators")
    @classmethod
    def _claim(cls, value: str | None) -> str | None:
        if value is not None and not all(part.strip() for part in (*value.partition("="),)):
            raise ValueError("give claim=value, for example groups=ropewalk-operators")
        return value

    @field_validator("oidc_client_id")
    @classmethod
    def _client(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None and info.data.get("oidc_issuer") is not None:
            raise ValueError("it is needed where oidc_issuer is set")
        return value

    @field_validator("dashboard_domain")
    @classmethod
    def _domain(cls, value: str) -> str:
        if not _DOMAIN.fullmatch(value.lower()):
            raise ValueError("give a domain, for example dashboards.example.org")
        return value.lower()

    @field_validator("public_url")
    @classmethod
    def _web_address(cls, value: str) -> str:
        if not value.startswith(("http://", "https://")) or any(c.isspace() for c in value):
            raise ValueError("give an address that begins with http:// or https://")
        return value.rstrip("/")

    @field_validator("metrics_token")
    @classmethod
    def _strong(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and len(value.get_secret_value()) < 16:  # 16 random letters are over 70 bits
            raise ValueError("give at least 16 characters")
        return value

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings passes it
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - as above
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # load_settings merges the sources itself, since it must tell where each value came from.
        return (init_settings,)

    def on_port(self, port: int) -> Settings:
        """Return these settings with the port that was really taken; a default ``public_url`` follows it."""
        update: dict[str, Any] = {"port": port}
        if "public_url" not in self.model_fields_set:
            update["public_url"] = _url("http", self.host, port)
        return self.model_copy(update=update)

    def with_gateway(self, port: int) -> Settings:
        """Return these settings with the port that the gateway really took; ``gateway_address`` follows it."""
        update: dict[str, Any] = {"gateway_port": port}
        if self.gateway_address is None:
            host = urlsplit(self.public_url).hostname or "127.0.0.1"
            update["gateway_address"] = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        return self.model_copy(update=update)

    def dashboard_origin(self, cluster_id: str) -> str | None:
        """Return scheme, host and port of a cluster's dashboard; None: browsers could not reach it.

        That is so when users come from elsewhere, but the domain is the browser's own machine.
        """
        public = urlsplit(self.public_url)
        if _is_local(self.dashboard_domain) and not _is_local(public.hostname or ""):
            return None
        port = "" if public.port is None else f":{public.port}"
        return f"{public.scheme}://{cluster_id}.{self.dashboard_domain}{port}"

    def shown(self) -> dict[str, Any]:
        """Return all settings as JSON-serialisable values, with secrets hidden."""
        values = self.model_dump(mode="json")
        for name, value in values.items():
            if name in SECRET_SETTINGS and value is not None:
                values[name] = HIDDEN
        values["database_url"] = hide_password(self.database_url)
        return values


SECRET_SETTINGS = frozenset({"encryption_key", "metrics_token", "oidc_client_secret"})


def hide_password(url: str) -> str:
    """Return *url* of a database fit for people to see."""
    try:
        return make_url(url).render_as_string(hide_password=True).replace("***", HIDDEN)
    except ArgumentError:
        return HIDDEN


@dataclass(frozen=True)
class LoadedSettings:
    """Settings, and where each came from."""

    settings: Settings
    sources: Mapping[str, Source]
    file: Path | None
    """The TOML file that was read."""


def load_settings(flags: Mapping[str, Any] | None = None, *, config: Path | None = None) -> LoadedSettings:
    """Read all sources.

    Args:
        flags: Settings from the command line; None stands for one that was not given.
        config: The TOML file; None: ``ROPEWALK_CONFIG``, else ``ropewalk.toml`` in the data directory if it is there.

    Raises:
        SettingsError: Names the setting, its source and its value (but no secret).
    """
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    _refuse_unknown(given, "the command line")
    env = _environment()
    file = _file(config, given.get("data_dir") or env.get("data_dir") or default_data_dir())
    layers = ((Source.FILE, _read_toml(file) if file else {}), (Source.ENV, env), (Source.FLAG, given))
    values: dict[str, Any] = {}
    sources = dict.fromkeys(Settings.model_fields, Source.DEFAULT)
    for source, layer in layers:
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    try:
        settings = Settings(**values)
    except ValidationError as exc:
        raise _plain(exc, sources, file) from None
    for secret, what in (("encryption_key", "the encryption key"), ("oidc_client_secret", "the client secret")):
        if file is not None and sources[secret] is Source.FILE:
            refuse_readable_by_others(file, secret, what)
    return LoadedSettings(settings, sources, file)


def refuse_readable_by_others(path: Path, field: str, what: str = "the encryption key") -> None:
    """Raise SettingsError if the file of a secret may be read by other users of the machine."""
    if path.stat().st_mode & 0o077:
        raise SettingsError(
            f"The file {path} holds {what} and can be used by other users of this machine.",
            advice=f"Close it with: chmod 600 '{path}'",
            field=field,
        )


def _environment() -> dict[str, Any]:
    names = [name for name in os.environ if name.startswith(ENV_PREFIX) and name not in _OTHER_VARIABLES]
    _refuse_unknown([name.removeprefix(ENV_PREFIX) for name in names], "the environment", ENV_PREFIX)
    return EnvSettingsSource(Settings)()


def _refuse_unknown(names: Mapping[str, Any] | list[str], where: str, prefix: str = "") -> None:
    for name in names:
        if prefix and name.lower() in Settings.model_fields:
            continue
        if name not in Settings.model_fields:
            close = difflib.get_close_matches(name.lower(), Settings.model_fields, n=1)
            spelled = (prefix + close[0].upper() if prefix else close[0]) if close else None
            raise SettingsError(
                f"{prefix}{name} in {where} is not a setting.",
                advice=f"Did you mean {spelled}?" if spelled else "See all settings with: ropewalk server config",
                field=name.lower(),
            )


def _file(config: Path | None, data_dir: str | Path) -> Path | None:
    chosen = config or (Path(path) if (path := os.environ.get("ROPEWALK_CONFIG")) else None)
    if chosen is not None:
        return _absolute(chosen)
    usual = _absolute(Path(data_dir)) / "ropewalk.toml"
    try:
        return usual if usual.is_file() else None
    except OSError:
        return None  # an unusable data directory is told when it is used


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(
            f"The configuration file {path} cannot be read: {exc.strerror}.",
            advice="Give another file with --config or ROPEWALK_CONFIG.",
            field="config",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"The configuration file {path} is not valid TOML: {exc}.",
            advice="Correct that line; each line has the form: name = value",
            field="config",
        ) from None
    _refuse_unknown(values, str(path))
    return values


def _plain(error: ValidationError, sources: Mapping[str, Source], file: Path | None) -> SettingsError:
    first = error.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    origin = {
        Source.FLAG: f"the flag --{name.replace('_', '-')}",
        Source.ENV: f"the environment variable {ENV_PREFIX}{name.upper()}",
        Source.FILE: f"the file {file}",
        Source.DEFAULT: "its default",
    }[sources.get(name, Source.DEFAULT)]
    secret = name in SECRET_SETTINGS or name == "database_url"
    value = "its value" if secret else f"{first['input']!r:.100}"
    problem = first["msg"].removeprefix("Value error, ")
    return SettingsError(
        f"The setting {name}, from {origin}, is wrong: {value}: {problem[:1].lower()}{problem[1:]}.",
        advice="See what is in force with: ropewalk server config",
        field=name,
    )
