"""Where an account's clusters run."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, computed_field

from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.common import Schema
from ropewalk.schemas.kubernetes import KubernetesSettings


class CloudKind(StrEnum):
    HOSTED = "hosted"
    AWS = "aws"
    KUBERNETES = "kubernetes"


class CheckStatus(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    UNKNOWN = "unknown"


class CheckItem(Schema):
    """One thing that a check looked at."""

    name: str
    status: CheckStatus
    message: str = Field(description="What was found, and what breaks without it.")
    advice: str | None = None
    details: dict[str, Any] = Field(default_factory=dict, description="Facts for programs: action, identity, quota.")


class CheckReport(Schema):
    """What a check found; it changes nothing in the cloud."""

    checked_at: datetime
    items: list[CheckItem]
    policy: dict[str, Any] | None = Field(
        None, description="IAM policy with just the statements that are missing; null: none is, or not AWS."
    )

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return all(item.status is not CheckStatus.FAILED for item in self.items)


class CloudState(StrEnum):
    """How far a cloud account is."""

    NEW = "new"
    """Set, but not prepared: no cluster can run there."""
    PREPARING = "preparing"
    READY = "ready"
    ATTENTION = "attention"
    """It does not go on by itself: `reason` says what a person must do."""
    TEARING_DOWN = "tearing_down"
    REMOVED = "removed"
    """Torn down; `prepare` makes everything anew."""

    @property
    def under_way(self) -> bool:
        """Whether it changes without anybody doing anything."""
        return self in (CloudState.PREPARING, CloudState.TEARING_DOWN)


class CloudIdentity(Schema):
    """Who the stored credentials are, as the cloud said when they were set."""

    owner: str = Field(description="Id of the AWS account; address and namespace of Kubernetes.")
    name: str = Field(description="ARN of the user or role; name of the service account.")
    warning: str | None = None


class CloudResource(Schema):
    """One thing in the cloud that `prepare` made or was given."""

    kind: str
    id: str
    details: dict[str, Any] = Field(default_factory=dict)


class PlannedResource(Schema):
    """One thing that `prepare` makes, unless it is there."""

    kind: str
    what: str = Field(description="For a person: how many, where, what for.")
    monthly_cost: float = Field(0.0, description="Price of having it for 730 hours, whether or not a cluster runs.")


class PreparePlan(Schema):
    """What a cloud account consists of once it is prepared, and what that costs while no cluster runs."""

    resources: list[PlannedResource]
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    notes: list[str] = Field(default_factory=list, description="Where prices come from, what they leave out.")

    @computed_field(description="What all of it costs a month.")  # type: ignore[prop-decorator] # pydantic's documented use
    @property
    def monthly_cost(self) -> float:
        return round(sum(resource.monthly_cost for resource in self.resources), 2)


class CloudAccount(Schema):
    """A cloud account without its credentials, which no API returns."""

    kind: CloudKind
    backend: str = Field(description="The code that drives it: local, aws or kubernetes.")
    id: str | None = Field(None, description="Part of the names and tags of everything that belongs to it.")
    settings: dict[str, Any]
    has_credentials: bool
    state: CloudState = CloudState.READY
    reason: str | None = Field(None, description="Why it needs attention, or what is being tried again.")
    work: Literal["prepare", "teardown"] | None = Field(None, description="What was asked for and is not done yet.")
    set_by: str | None = Field(None, description="Who set or changed it last; null: nobody but this server.")
    set_at: datetime | None = Field(None, description="When that was.")
    identity: CloudIdentity | None = None
    external_id: str | None = Field(
        None, description="Made by Ropewalk: what the trust policy of a role for this account must ask for."
    )
    resources: list[CloudResource] = Field(default_factory=list)
    monthly_cost: float = Field(0.0, description="Of the resources, in USD, whether or not a cluster runs.")
    notes: list[str] = Field(default_factory=list, description="What a person should know about the settings.")
    others: list[FormerCloudAccount] = Field(
        default_factory=list, description="Other cloud accounts of the account that were not forgotten."
    )
    last_check: CheckReport | None
    last_event: int = Field(0, description="Its newest event; pass it as `after` to see only what follows.")
    updated_at: datetime


class FormerCloudAccount(Schema):
    """A cloud account of the account where no new clusters start; what it holds is still looked after."""

    id: str
    kind: CloudKind
    owner: str | None = Field(None, description="As in its identity.")
    resources: int = Field(description="How many resources it still owns.")
    clusters: list[str] = Field(description="Names of the clusters that still run there.")


class SetHosted(Schema):
    """Run new clusters on the operator's hosted cloud account."""

    kind: Literal["hosted"]


class SetAws(Schema):
    """Run new clusters in an AWS account. What is left out stays as it is."""

    kind: Literal["aws"]
    settings: AwsSettings = Field(default_factory=AwsSettings)
    credentials: AwsCredentials | None = Field(None, description="Null: those that are stored.")
    session_token: SecretStr | None = Field(None, description="Refused with an explanation: keys must be long-lived.")


class SetKubernetes(Schema):
    """Run new clusters in a namespace of Kubernetes. What is left out stays as it is."""

    kind: Literal["kubernetes"]
    settings: KubernetesSettings = Field(
        default_factory=KubernetesSettings, description="`context` and `namespace` choose from the kubeconfig."
    )
    kubeconfig: SecretStr | None = Field(
        None, max_length=2**18, description="YAML; of it only one context is kept. Null: what is stored."
    )


CloudAccountSet = Annotated[SetHosted | SetAws | SetKubernetes, Field(discriminator="kind")]


class PrepareRequest(Schema):
    """Consent to what `prepare` costs."""

    accept_monthly_cost: float = Field(
        0.0, ge=0, description="The plan's monthly cost that was shown to whoever asks; more is refused."
    )


Price = Annotated[float, Field(ge=0, le=10_000)]


class Isolate(StrEnum):
    """Whether each account's nodes run as a user of their own."""

    AUTO = "auto"
    REQUIRED = "required"
    OFF = "off"


class HostedSettings(Schema):
    """What the operator decides about hosted clusters on this machine (backend `local`).

    Prices are what accounts are shown as cost: an internal rate of the operator's choosing, 0 by default.
    """

    listen_host: str = Field(
        "127.0.0.1", description="Address that schedulers and workers listen on (always with mutual TLS)."
    )
    contact_host: str | None = Field(
        None, description="Host name or address that clients use to reach schedulers; null: the listen address."
    )
    core_hour_price: Price = Field(0.0, description="Per CPU core and hour, in `currency`.")
    gib_hour_price: Price = Field(0.0, description="Per GiB of memory and hour, in `currency`.")
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "USD"
    log_retention_days: Annotated[float, Field(gt=0, le=3660)] = Field(
        30.0, description="How long logs of ended nodes are kept."
    )
    log_limit_mib: Annotated[int, Field(ge=2, le=2**20)] = Field(
        64, description="MiB of one node's log on disk; of a longer one, the beginning is dropped."
    )
    isolation: Isolate = Field(
        Isolate.AUTO,
        description="Each account's nodes run as a user of their own: where possible (auto), or not at all without "
        "that (required), or never (off).",
    )
    uid_base: Annotated[int, Field(ge=1000, lt=2**31)] = Field(
        2_100_000_000,
        description="First of the user ids for accounts. The default is above what systemd, useradd's subordinate ids "
        "and sssd give out, and below 2**31.",
    )
    uid_count: Annotated[int, Field(ge=2, le=2**24)] = Field(
        65_536, description="How many user ids there are for accounts; one is never given to a second account."
    )
    process_limit: Annotated[int, Field(ge=32, le=2**22)] = Field(
        1024, description="Processes and threads of one node at the most, where control groups can limit them."
    )
    cpu_quota: bool = Field(
        False,
        description="A node never uses more than its cores, also when others idle; otherwise cores are its share "
        "when the machine is busy.",
    )
