"""Makes backends from what is stored of a cloud account. Each kind is imported when it is first used.

A server whose clusters all run on its own machine needs neither aiobotocore nor a Kubernetes client, and need not have
them installed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropewalk.backends.port import Resource
from ropewalk.errors import FixItError
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.schemas.kubernetes import KubernetesCredentials, KubernetesSettings

if TYPE_CHECKING:
    from pathlib import Path

    from ropewalk.backends.local import Spawner
    from ropewalk.backends.port import Backend
    from ropewalk.server.blueprint import Blueprint
    from ropewalk.server.db.models import CloudAccount

__all__ = ["Workshop", "load", "resources_of"]


@dataclass(slots=True)
class Workshop:
    """What backends of this process share."""

    local_dir: Path
    ended_dir: Path
    """Where logs of ended nodes are kept whose cloud forgets them."""
    aws_endpoint_url: str | None = None
    spawner: Spawner | None = None

    def make(self, plan: Blueprint) -> Backend:
        """Return a new backend, whose kind was loaded; no call is made.

        Raises:
            FixItError: There is no such kind, or credentials are missing.
        """
        match plan.backend:
            case "local":
                return self._local(plan)
            case "aws":
                return self._aws(plan)
            case "kubernetes":
                return _kubernetes(plan, self.ended_dir)
        raise FixItError(
            f"This server has no backend {plan.backend!r}, as the cloud account {plan.place.cloud_account!r} asks for.",
            advice="Choose another backend for this cloud account.",
            field="backend",
        )

    def _local(self, plan: Blueprint) -> Backend:
        from ropewalk.backends.local import LocalBackend, Spawner  # noqa: PLC0415 - see the module's docstring

        settings = HostedSettings.model_validate(plan.settings)
        # One for all: what is imported is the same, however the settings change.
        self.spawner = self.spawner or Spawner()
        backend: Backend = LocalBackend(self.local_dir, plan.place.installation, settings, spawner=self.spawner)
        return backend

    def _aws(self, plan: Blueprint) -> Backend:
        from ropewalk.backends.aws.backend import AwsBackend  # noqa: PLC0415 - see the module's docstring

        settings = AwsSettings.model_validate(plan.settings)
        credentials = AwsCredentials.model_validate(_given(plan))
        backend: Backend = AwsBackend(
            plan.place, settings, credentials, plan.resources, endpoint_url=self.aws_endpoint_url
        )
        return backend


def _kubernetes(plan: Blueprint, ended_dir: Path) -> Backend:
    from ropewalk.backends.kubernetes.backend import KubernetesBackend  # noqa: PLC0415 - see the module's docstring

    settings = KubernetesSettings.model_validate(plan.settings)
    credentials = KubernetesCredentials.model_validate(_given(plan))
    archive = ended_dir / plan.place.cloud_account
    backend: Backend = KubernetesBackend(plan.place, settings, credentials, plan.resources, archive=archive)
    return backend


def _given(plan: Blueprint) -> Mapping[str, Any]:
    if plan.credentials is None:
        raise FixItError(
            f"The cloud account {plan.place.cloud_account!r} has no credentials.",
            advice=f"An administrator of the account sets them: ropewalk cloud-account set {plan.backend}",
            field="credentials",
        )
    return plan.credentials


_NEEDS = {"aws": ("AWS", "aiobotocore"), "kubernetes": ("Kubernetes", "kubernetes_asyncio")}
"""What a backend is called, and the package of its extra that it cannot do without."""


def load(backend: str) -> None:
    """Import what a backend needs, which takes a second: in a thread, so that nobody waits for it.

    Raises:
        FixItError: It is not installed.
    """
    if backend not in _NEEDS:
        return
    kind, package = _NEEDS[backend]
    try:
        import_module(package)
        import_module(f"ropewalk.backends.{backend}.backend")
    except ModuleNotFoundError as exc:
        raise FixItError(
            f"This server cannot drive {kind}: no module {exc.name!r}.",
            advice=f"An operator runs, in the server's checkout of Ropewalk: pip install '.[server,{backend}]', "
            "and restarts it.",
            field="kind",
            details={"extra": backend},
        ) from None


def resources_of(row: CloudAccount) -> list[Resource]:
    """Return what the row says that exists in the cloud, in the order in which it was made."""
    stored = row.infrastructure.get("resources", [])
    return [Resource(item["kind"], item["id"], item.get("details", {})) for item in stored]
