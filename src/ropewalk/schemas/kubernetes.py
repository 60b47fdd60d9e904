"""What a team says about its Kubernetes namespace."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, SecretStr

from ropewalk.schemas.common import Schema


class KubernetesCredentials(Schema):
    """What is kept of a kubeconfig: one context, one way to prove who we are. Never shown again."""

    server: str
    certificate_authority: str | None = Field(None, description="PEM; null: the system's authorities.")
    token: SecretStr | None = None
    client_certificate: SecretStr | None = None
    client_key: SecretStr | None = None
    tls_server_name: str | None = None
    insecure_skip_tls_verify: bool = False


class KubernetesSettings(Schema):
    """Where and how clusters run in one namespace."""

    namespace: str
    context: str | None = Field(None, description="The context of the kubeconfig that was kept.")
    server: str | None = Field(None, description="Address of the API server, to be shown.")
    reach: Literal["auto", "gateway", "load_balancer", "node_port"] = Field(
        "auto", description="How clients reach schedulers; auto: directly where a load balancer is given, else gateway."
    )
    image: str | None = Field(None, description="Image of nodes where a cluster names none (`container=`).")
    image_pull_secrets: list[str] = Field(default_factory=list)
