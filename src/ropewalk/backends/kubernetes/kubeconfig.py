"""Reading a kubeconfig as data: nothing in it is ever executed, opened or followed.

A kubeconfig may name programs to run (``exec``, ``auth-provider``) and files to read. Every Kubernetes client does both
when it is handed one, and this one comes from a user and is read by a server: so only what is written in it counts.
"""

from __future__ import annotations

import base64
import binascii
import re
import ssl
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import SecretStr

from ropewalk.errors import InputError
from ropewalk.schemas.kubernetes import KubernetesCredentials, KubernetesSettings

MAX_BYTES = 2**20
"""The largest kubeconfig that is read: one with hundreds of contexts has some 100 KiB."""

_MAKE_ONE = "Make one that a server can use with: ropewalk kubernetes kubeconfig."

_REFUSED_USER = {
    "exec": f"It names a program to run, which a server must not do. {_MAKE_ONE}",
    "auth-provider": f"It needs a plug-in that runs programs or refreshes tokens on disk. {_MAKE_ONE}",
    "tokenFile": f"It names a file of your machine. Put the token itself into `token`. {_MAKE_ONE}",
    "client-certificate": "It names a file of your machine. `kubectl config view --flatten --raw` puts its content in.",
    "client-key": "It names a file of your machine. `kubectl config view --flatten --raw` puts its content in.",
    "username": f"Kubernetes gave up passwords in version 1.19. {_MAKE_ONE}",
    "password": f"Kubernetes gave up passwords in version 1.19. {_MAKE_ONE}",
    "as": f"Acting as somebody else is not supported. {_MAKE_ONE}",
    "as-uid": f"Acting as somebody else is not supported. {_MAKE_ONE}",
    "as-groups": f"Acting as somebody else is not supported. {_MAKE_ONE}",
    "as-user-extra": f"Acting as somebody else is not supported. {_MAKE_ONE}",
}
_REFUSED_CLUSTER = {
    "certificate-authority": "It names a file of your machine. "
    "`kubectl config view --flatten --raw` puts its content in.",
    "proxy-url": "Proxies are the operator's to choose: he sets HTTPS_PROXY for the server.",
}
_USER_FIELDS = frozenset({"token", "client-certificate-data", "client-key-data", "extensions"})
_CLUSTER_FIELDS = frozenset(
    {
        *("server", "certificate-authority-data", "tls-server-name", "insecure-skip-tls-verify"),
        *("disable-compression", "extensions"),
    }
)
_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def parse_kubeconfig(
    text: str,
    context: str | None = None,
    namespace: str | None = None,
    allow_insecure: bool = False,
) -> tuple[KubernetesCredentials, KubernetesSettings]:
    """Return what is kept of the kubeconfig *text*: one context's address, authority and credentials.

    Args:
        text: The file's content, YAML or JSON.
        context: Which context; None: its current one.
        namespace: Where clusters will run; None: the context's namespace.
        allow_insecure: Whether the operator allows plain http, and certificates that are not checked.

    Raises:
        InputError: it is not a kubeconfig, or asks for something that is refused; names the field.
    """
    config = _load(text)
    name = context or config.get("current-context")
    if not isinstance(name, str) or not name:
        raise InputError(
            "The kubeconfig has no current-context.",
            field="context",
            advice=f"Name one of its contexts: {_names(config, 'contexts')}.",
        )
    chosen = _entry(config, "contexts", name, "context")
    cluster_name, user_name = str(chosen.get("cluster")), str(chosen.get("user"))
    cluster = _entry(config, "clusters", cluster_name, "cluster")
    user = _entry(config, "users", user_name, "user")
    where_cluster, where_user = f"clusters[{cluster_name}].cluster", f"users[{user_name}].user"
    _refuse(cluster, where_cluster, _REFUSED_CLUSTER, _CLUSTER_FIELDS)
    _refuse(user, where_user, _REFUSED_USER, _USER_FIELDS)
    credentials = KubernetesCredentials(
        server=_server(cluster, where_cluster, allow_insecure=allow_insecure),
        tls_server_name=_text(cluster, "tls-server-name", where_cluster),
        **_verification(cluster, where_cluster, allow_insecure=allow_insecure),
        **_proof(user, where_user),
    )
    settings = KubernetesSettings(
        namespace=_namespace(namespace, chosen.get("namespace")), context=name[:253], server=credentials.server
    )
    return credentials, settings


def contexts(text: str) -> list[dict[str, Any]]:
    """Return name, namespace and server of each context of a kubeconfig, and whether it is the current one: no secret.

    Raises:
        InputError: it is not a kubeconfig.
    """
    config = _load(text)
    servers = {name: part.get("server") for name, part in _parts(config, "clusters", "cluster")}
    return [
        {
            "name": name,
            "namespace": str(part.get("namespace") or "") or None,
            "server": str(servers.get(str(part.get("cluster"))) or "") or None,
            "current": name == config.get("current-context"),
        }
        for name, part in _parts(config, "contexts", "context")
    ]


def _parts(config: Mapping[str, Any], section: str, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and isinstance(entry.get(key), dict):
            yield entry["name"], entry[key]


def _load(text: str) -> Mapping[str, Any]:
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise InputError(
            "The kubeconfig is larger than 1 MiB.",
            field="kubeconfig",
            advice="Send one context only: kubectl config view --minify --flatten --raw.",
        )
    try:
        config = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):
        # The parser's own message quotes the text, which holds secrets.
        config = None
    if not isinstance(config, dict):
        raise InputError(
            "This is not a kubeconfig: it is not a YAML or JSON mapping.",
            field="kubeconfig",
            advice="Send the output of: kubectl config view --minify --flatten --raw.",
        )
    return config


def _names(config: Mapping[str, Any], section: str) -> str:
    entries = config.get(section)
    named = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return ", ".join(str(entry.get("name"))[:63] for entry in named[:10]) or "it has none"


def _entry(config: Mapping[str, Any], section: str, name: str, key: str) -> Mapping[str, Any]:
    entries = config.get(section)
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and entry.get("name") == name:
            content = entry.get(key)
            if isinstance(content, dict):
                return content
    raise InputError(
        f"The kubeconfig has no {key} {name[:63]!r} in its {section}.",
        field="context" if section == "contexts" else section,
        advice=f"Its {section} are: {_names(config, section)}.",
    )


def _refuse(part: Mapping[str, Any], where: str, refused: Mapping[str, str], known: frozenset[str]) -> None:
    for key, advice in refused.items():
        if part.get(key):
            raise InputError(f"The kubeconfig's {where}.{key} is refused.", field=f"{where}.{key}", advice=advice)
    for key in part:
        if key not in known and key not in refused:
            # What is not understood might change what the rest means.
            raise InputError(
                f"The kubeconfig's {where}.{str(key)[:63]} is not known to this server.",
                field=f"{where}.{str(key)[:63]}",
                advice=f"Remove it. {_MAKE_ONE}",
            )


def _text(part: Mapping[str, Any], key: str, where: str) -> str | None:
    value = part.get(key)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise InputError(f"The kubeconfig's {where}.{key} is not a text.", field=f"{where}.{key}")
    return value


def _server(cluster: Mapping[str, Any], where: str, *, allow_insecure: bool) -> str:
    server = _text(cluster, "server", where) or ""
    field = f"{where}.server"
    try:
        parts = urlsplit(server)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError(f"The kubeconfig's {field} is not an address.", field=field) from None
    if parts.scheme != "https" and not (allow_insecure and parts.scheme == "http"):
        raise InputError(
            f"The kubeconfig's {field} does not begin with https://: credentials would be sent in plain text.",
            field=field,
            advice="Use the API server's https address.",
        )
    if not host or parts.username or parts.password or parts.query or parts.fragment:
        raise InputError(f"The kubeconfig's {field} is not a plain address such as https://host:6443.", field=field)
    return server.rstrip("/")


def _verification(cluster: Mapping[str, Any], where: str, *, allow_insecure: bool) -> dict[str, Any]:
    authority = _pem(cluster, "certificate-authority-data", where)
    if authority is not None:
        try:
            ssl.create_default_context(cadata=authority)
        except (ssl.SSLError, ValueError):
            field = f"{where}.certificate-authority-data"
            raise InputError(f"The kubeconfig's {field} holds no usable certificate.", field=field) from None
    insecure = bool(cluster.get("insecure-skip-tls-verify"))
    if insecure and not allow_insecure:
        raise InputError(
            f"The kubeconfig's {where}.insecure-skip-tls-verify is refused: anybody on the way could take the "
            "credentials.",
            field=f"{where}.insecure-skip-tls-verify",
            advice="Put the API server's authority into certificate-authority-data, or ask an operator to allow this.",
        )
    return {"certificate_authority": authority, "insecure_skip_tls_verify": insecure}


def _proof(user: Mapping[str, Any], where: str) -> dict[str, Any]:
    token = _text(user, "token", where)
    certificate = _pem(user, "client-certificate-data", where)
    key = _pem(user, "client-key-data", where)
    if token is not None:
        if not token.isascii() or not token.isprintable() or " " in token:
            raise InputError(f"The kubeconfig's {where}.token is not a token.", field=f"{where}.token")
        return {"token": SecretStr(token)}  # as for kubectl, a token wins over a certificate
    if certificate and key:
        return {"client_certificate": SecretStr(certificate), "client_key": SecretStr(key)}
    missing = "client-key-data" if certificate else "client-certificate-data" if key else "token"
    raise InputError(
        f"The kubeconfig's {where}.{missing} is missing: it has neither a token nor a certificate with its key.",
        field=f"{where}.{missing}",
        advice=_MAKE_ONE,
    )


def _pem(part: Mapping[str, Any], key: str, where: str) -> str | None:
    encoded = _text(part, key, where)
    if encoded is None:
        return None
    try:
        text = base64.b64decode(encoded, validate=False).decode("ascii")
    except (binascii.Error, ValueError):
        text = ""
    if "-----BEGIN " not in text:
        raise InputError(
            f"The kubeconfig's {where}.{key} is not base64 of a PEM text.",
            field=f"{where}.{key}",
            advice="Send the output of: kubectl config view --minify --flatten --raw.",
        )
    return text


def _namespace(asked: str | None, of_context: object) -> str:
    namespace = asked or of_context
    if not isinstance(namespace, str) or not _NAMESPACE.fullmatch(namespace):
        raise InputError(
            "The kubeconfig's context names no namespace." if not namespace else "That is not a namespace's name.",
            field="namespace",
            advice="Say in which namespace clusters will run: --namespace NAME.",
        )
    return namespace
