"""Asking kubectl, with the rights of the person who runs it."""

from __future__ import annotations

import json
import subprocess
import time
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ropewalk.errors import NotFoundError, PermissionDeniedError, RopewalkError, UnavailableError

TOKEN_SECONDS = 30.0
"""How long Kubernetes may take to fill a Secret with a token; it takes a second at most."""
CALL_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Grant:
    """A kubeconfig for a service account, and until when it is good."""

    account: str
    kubeconfig: str = field(repr=False)
    secret: str | None = None
    expires: str | None = None


class Kubectl:
    """kubectl, for one namespace."""

    def __init__(self, namespace: str, context: str | None = None) -> None:
        self._namespace = namespace
        self._context = ["--context", context] if context else []

    def grant(self, account: str, days: int | None) -> Grant:
        """Make a kubeconfig of a service account.

        Args:
            account: The service account's name.
            days: After how many days its token expires; None: it does not.

        Raises:
            RopewalkError: kubectl is missing, or may not.
        """
        cluster = self._cluster()
        self._run("get", "serviceaccount", account, "-o", "name")
        if days is None:
            secret = f"{account}-kubeconfig"
            return Grant(account, self._kubeconfig(cluster, self._kept_token(account, secret), account), secret)
        token, expires = self._short_token(account, days)
        return Grant(account, self._kubeconfig(cluster, token, account), expires=expires)

    def _cluster(self) -> Mapping[str, Any]:
        shown = json.loads(self._run("config", "view", "--minify", "--flatten", "--raw", "-o", "json"))
        clusters = shown.get("clusters") or []
        if not clusters:
            raise NotFoundError("kubectl has no current context.", advice="Name one of them: --context NAME.")
        found: Mapping[str, Any] = clusters[0]["cluster"]
        return found

    def _short_token(self, account: str, days: int) -> tuple[str, str]:
        request = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": days * 24 * 3600},
        }
        path = f"/api/v1/namespaces/{self._namespace}/serviceaccounts/{account}/token"
        status = json.loads(self._run("create", "--raw", path, "-f", "-", text=json.dumps(request)))["status"]
        return status["token"], status["expirationTimestamp"]

    def _kept_token(self, account: str, name: str) -> str:
        secret = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/service-account-token",
            "metadata": {
                "name": name,
                "namespace": self._namespace,
                "annotations": {"kubernetes.io/service-account.name": account},
                "labels": {"app.kubernetes.io/managed-by": "ropewalk"},
            },
        }
        self._run("apply", "-f", "-", text=json.dumps(secret))
        deadline = time.monotonic() + TOKEN_SECONDS
        while time.monotonic() < deadline:
            data = json.loads(self._run("get", "secret", name, "-o", "json")).get("data") or {}
            if data.get("token"):
                return b64decode(data["token"]).decode("ascii")
            time.sleep(0.2)
        raise UnavailableError(
            f"Kubernetes did not put a token into the Secret {name}.",
            advice="Try again, or use a token that expires: --days 90.",
        )

    def _kubeconfig(self, cluster: Mapping[str, Any], token: str, account: str) -> str:
        kept = {
            key: cluster[key]
            for key in ("server", "certificate-authority-data", "tls-server-name", "insecure-skip-tls-verify")
            if cluster.get(key)
        }
        context = {"cluster": "ropewalk", "user": account, "namespace": self._namespace}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "ropewalk",
            "contexts": [{"name": "ropewalk", "context": context}],
            "clusters": [{"name": "ropewalk", "cluster": kept}],
            "users": [{"name": account, "user": {"token": token}}],
        }
        return yaml.safe_dump(config, sort_keys=False)

    def _run(self, *arguments: str, text: str | None = None) -> str:
        command = ["kubectl", *self._context, "--namespace", self._namespace, *arguments]
        try:
            done = subprocess.run(  # noqa: S603 - kubectl from PATH is what the user asks for
                command, input=text, capture_output=True, text=True, check=False, timeout=CALL_SECONDS
            )
        except FileNotFoundError:
            raise UnavailableError(
                "kubectl was not found.",
                advice="Install it, or let somebody who administers the Kubernetes cluster run this command.",
            ) from None
        except subprocess.TimeoutExpired:
            raise UnavailableError(f"kubectl did not answer within {CALL_SECONDS:.0f} seconds.") from None
        if done.returncode == 0:
            return done.stdout
        raise _refusal(done.stderr.strip()[:500], arguments[0], self._namespace)


def _refusal(said: str, verb: str, namespace: str) -> RopewalkError:
    if "(NotFound)" in said:
        return NotFoundError(
            f"kubectl: {said}",
            advice=f"Apply first: ropewalk kubernetes manifest --namespace {namespace} | kubectl apply -f -",
        )
    if "(Forbidden)" in said or "(Unauthorized)" in said:
        return PermissionDeniedError(
            f"kubectl: {said}", advice="Let somebody who administers the namespace run this command."
        )
    return RopewalkError(f"kubectl {verb} failed: {said}")
