"""What a team says about its Kubernetes namespace."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SecretStr

from ropewalk.schemas.common import Schema

Reach = Literal["auto", "gateway", "load_balancer", "node_port"]

Cidr = Annotated[str, Field(pattern=r"^[0-9a-fA-F.:]+/[0-9]{1,3}$")]


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

    namespace: str = Field("default", description="Unset: that of the kubeconfig's context.")
    context: str | None = Field(None, description="The context of the kubeconfig that was kept.")
    server: str | None = Field(None, description="Address of the API server, to be shown.")
    reach: Reach = Field(
        "auto",
        description="How clients reach schedulers; auto: by a load balancer where its annotations are given, else by "
        "the gateway, which needs nothing but the kubeconfig.",
    )
    service_annotations: dict[str, str] = Field(
        default_factory=dict, description="Annotations of schedulers' Services, by which clouds set up load balancers."
    )
    allow_ingress_from: list[Cidr] = Field(
        default_factory=list, description="Who may reach schedulers by a load balancer; empty: as the cloud decides."
    )
    image: str | None = Field(None, description="Image of nodes where a cluster names none (`container=`).")
    image_pull_secrets: list[str] = Field(default_factory=list)
    image_registry: Annotated[str, Field(min_length=1, max_length=300, pattern=r"^\S+$")] | None = Field(
        None, description="Repository for images of software environments: `registry.example.com/team/dask`."
    )
    image_registry_credentials: str | None = Field(
        None, description="Name of the stored credentials (`ropewalk env credentials set`) that may push there."
    )
    run_as_user: Annotated[int, Field(ge=1, lt=2**31)] | None = Field(
        1000, description="User id of nodes' processes; null where the cluster gives one itself, as OpenShift does."
    )
    core_hour_price: Annotated[float, Field(ge=0, le=10_000)] = Field(0.0, description="Per CPU core and hour.")
    gib_hour_price: Annotated[float, Field(ge=0, le=10_000)] = Field(0.0, description="Per GiB of memory and hour.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"

    @property
    def direct(self) -> Literal["load_balancer", "node_port"] | None:
        """How schedulers are reached without the gateway; None: they are not."""
        if self.reach in ("load_balancer", "node_port"):
            return self.reach
        return "load_balancer" if self.reach == "auto" and self.service_annotations else None
