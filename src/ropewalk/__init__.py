"""Ropewalk: Dask clusters from your own control plane.

::

    import ropewalk

    ropewalk.login()                            # once
    with ropewalk.Cluster(n_workers=4) as cluster, cluster.get_client() as client:
        ...                                     # Dask as usual

Everything below is loaded when it is first used, so that `import ropewalk` costs nothing and the command line is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ropewalk._version import __version__

if TYPE_CHECKING:
    from ropewalk.client.cloud_accounts import (
        check_cloud_account,
        forget_cloud_account,
        get_cloud_account,
        plan_cloud_account,
        prepare_cloud_account,
        set_cloud_account,
        teardown_cloud_account,
    )
    from ropewalk.client.cluster import Cluster
    from ropewalk.client.diagnostics import diagnostics
    from ropewalk.client.environment.functions import (
        create_software_environment,
        delete_software_environment,
        inspect_software_environment,
        list_software_environments,
    )
    from ropewalk.client.functions import (
        cluster_cost_estimate,
        cluster_logs,
        create_cluster_configuration,
        delete_cluster,
        delete_cluster_configuration,
        list_cluster_configurations,
        list_clusters,
    )
    from ropewalk.client.login import login
    from ropewalk.client.usage import usage
    from ropewalk.client.versions import VersionMismatchWarning
    from ropewalk.errors import (
        AuthenticationError,
        BackendError,
        ClusterError,
        ClusterGoneError,
        ClusterStartError,
        ClusterUnreachableError,
        ConflictError,
        DatabaseError,
        FixItError,
        InputError,
        InternalError,
        LimitExceededError,
        NotFoundError,
        PermissionDeniedError,
        RateLimitedError,
        RopewalkError,
        SecretsError,
        ServerUnreachableError,
        SettingsError,
        TryAgainError,
        UnavailableError,
        VersionMismatchError,
    )

__all__ = [
    "AuthenticationError",
    "BackendError",
    "Cluster",
    "ClusterError",
    "ClusterGoneError",
    "ClusterStartError",
    "ClusterUnreachableError",
    "ConflictError",
    "DatabaseError",
    "FixItError",
    "InputError",
    "InternalError",
    "LimitExceededError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RopewalkError",
    "SecretsError",
    "ServerUnreachableError",
    "SettingsError",
    "TryAgainError",
    "UnavailableError",
    "VersionMismatchError",
    "VersionMismatchWarning",
    "__version__",
    "check_cloud_account",
    "cluster_cost_estimate",
    "cluster_logs",
    "create_cluster_configuration",
    "create_software_environment",
    "delete_cluster",
    "delete_cluster_configuration",
    "delete_software_environment",
    "diagnostics",
    "forget_cloud_account",
    "get_cloud_account",
    "inspect_software_environment",
    "list_cluster_configurations",
    "list_clusters",
    "list_software_environments",
    "login",
    "plan_cloud_account",
    "prepare_cloud_account",
    "set_cloud_account",
    "teardown_cloud_account",
    "usage",
]

_CLOUD_ACCOUNTS = (
    "check_cloud_account",
    "get_cloud_account",
    "forget_cloud_account",
    "plan_cloud_account",
    "prepare_cloud_account",
    "set_cloud_account",
    "teardown_cloud_account",
)

_ENVIRONMENTS = (
    "create_software_environment",
    "delete_software_environment",
    "inspect_software_environment",
    "list_software_environments",
)

_HOME = {
    **dict.fromkeys(_CLOUD_ACCOUNTS, "client.cloud_accounts"),
    **dict.fromkeys(_ENVIRONMENTS, "client.environment.functions"),
    "Cluster": "client.cluster",
    "VersionMismatchWarning": "client.versions",
    "diagnostics": "client.diagnostics",
    "login": "client.login",
    "usage": "client.usage",
}
"""Modules of the names that are neither errors nor in ``client.functions``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOME.get(name, "errors" if name.endswith("Error") else "client.functions")
    value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
