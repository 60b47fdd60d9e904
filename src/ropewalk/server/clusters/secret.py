"""What a cluster keeps secret: its certificates and its users' environment variables, in one encrypted column."""

from __future__ import annotations

import json
from dataclasses import dataclass

from ropewalk.server.clusters.certificates import ClusterCertificates
from ropewalk.server.db.models import Cluster
from ropewalk.server.secrets import Vault


@dataclass(frozen=True, slots=True, repr=False)
class ClusterSecret:
    certificates: ClusterCertificates
    environ: dict[str, str]

    def encrypt(self, vault: Vault, cluster_id: str) -> bytes:
        """Return the ciphertext for the column ``clusters.secret``."""
        plain = json.dumps({"certificates": self.certificates.dump(), "environ": self.environ}).encode()
        return vault.encrypt(plain, table="clusters", row=cluster_id, field="secret")


def open_secret(vault: Vault, cluster: Cluster) -> ClusterSecret:
    """Read the column ``clusters.secret``.

    Raises:
        SecretsError: the key that it was encrypted with is not configured.
    """
    stored = json.loads(vault.decrypt(cluster.secret, table="clusters", row=cluster.id, field="secret"))
    return ClusterSecret(ClusterCertificates.load(stored["certificates"]), stored["environ"])
