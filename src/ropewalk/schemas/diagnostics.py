"""What an operator sees of a server; secrets are hidden."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pydantic import Field

from ropewalk.schemas.cloud_accounts import CheckReport
from ropewalk.schemas.common import Schema


class DatabaseDiagnostics(Schema):
    kind: str = Field(description="sqlite or postgresql")
    version: str | None
    seconds: float | None = Field(description="For a trivial question; null: it did not answer.")


class LoopDiagnostics(Schema):
    name: str
    running: bool
    last_success: datetime | None = Field(description="When it last did its work; null: not yet since the start.")
    failures: int = Field(default=0, description="Rounds that failed since the start.")
    problem: str | None = Field(default=None, description="Why its last round failed; null: it did not.")


class LeaseDiagnostics(Schema):
    owner: str
    mine: bool = Field(description="Of the server that answers.")
    clusters: int
    expires_at: datetime | None = Field(description="The latest, by the owner's clock.")


class BackendDiagnostics(Schema):
    cloud_account: str
    kind: str
    backend: str
    report: CheckReport | None
    problem: str | None = Field(description="Why there is no report.")


class OrphanNode(Schema):
    """A node in a cloud, with this installation's tag, that no cluster knows."""

    name: str
    cloud_id: str | None = Field(description="What the cloud calls it.")
    cloud_account: str
    seen_at: datetime = Field(description="When it was first seen.")
    removed_at: datetime = Field(description="When it will be removed, if it is still there and unknown.")


class ServerDiagnostics(Schema):
    """The state of the server that answers; of several on one database, ask each."""

    version: str
    python: str
    platform: str
    packages: dict[str, str]
    settings: dict[str, Any] = Field(description="With secrets hidden.")
    time: datetime
    database: DatabaseDiagnostics
    loops: list[LoopDiagnostics]
    leases: list[LeaseDiagnostics]
    working_on: int = Field(description="Clusters that this server works on.")
    linked: int = Field(description="Those of them whose scheduler it hears.")
    orphans: int = Field(description="Nodes in a cloud that no cluster knew at the last sweep.")
    orphan_nodes: list[OrphanNode] = Field(default_factory=list, description="These, as this server saw them.")
    backends: list[BackendDiagnostics]
