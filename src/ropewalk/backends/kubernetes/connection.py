"""One connection pool to an API server, made by hand from credentials: nothing is read from files or environment.

The client's own ``config`` module is never used: it runs the programs that a kubeconfig names.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator
from typing import Any

from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.client.rest import RESTClientObject

from ropewalk.errors import FixItError
from ropewalk.schemas.kubernetes import KubernetesCredentials


def open_pool(credentials: KubernetesCredentials) -> RESTClientObject:
    """Return a client that trusts and proves what *credentials* say. Needs a running event loop.

    Raises:
        FixItError: a certificate or key is unusable.
    """
    configuration = Configuration(host=credentials.server)
    configuration.verify_ssl = not credentials.insecure_skip_tls_verify
    configuration.tls_server_name = credentials.tls_server_name
    # Python 3.13 became strict about extensions that authorities of many clusters lack (kubeadm's have no key id).
    configuration.disable_strict_ssl_verification = True
    # No limit: watches and port-forwards hold theirs for hours, and the default of 100 would stop the rest.
    configuration.connection_pool_maxsize = 0
    with contextlib.ExitStack() as files:
        if credentials.certificate_authority is not None:
            configuration.ssl_ca_cert = files.enter_context(_in_memory(credentials.certificate_authority))
        if credentials.client_certificate is not None and credentials.client_key is not None:
            pair = credentials.client_certificate.get_secret_value() + "\n" + credentials.client_key.get_secret_value()
            configuration.cert_file = files.enter_context(_in_memory(pair))
        try:
            return _end_what_is_forgotten(RESTClientObject(configuration))
        except (ssl.SSLError, ValueError):
            raise FixItError(
                "The kubeconfig's certificates cannot be used: they are damaged, or the key is not the certificate's.",
                field="kubeconfig",
                advice="Set the cloud account again, with a new kubeconfig.",
            ) from None


def _end_what_is_forgotten(pool: RESTClientObject) -> RESTClientObject:
    """Let a connection whose answer was a refusal end with the pool, or after two seconds.

    aiohttp says goodbye on it and forgets it, so that it stays open until the other side answers. What ends those is
    an option of aiohttp's connector (``enable_cleanup_closed``), which this client makes without options.
    """
    connector: Any = pool.pool_manager.connector
    connector._cleanup_closed_disabled = False  # noqa: SLF001 - what the option sets
    connector._cleanup_closed()  # noqa: SLF001 - what the option begins
    return pool


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[str]:
    """Yield a path under which *text* can be read: the ssl module takes files only, and no disk should hold a key."""
    number = os.memfd_create("ropewalk", os.MFD_CLOEXEC)
    try:
        os.write(number, text.encode())
        yield f"/proc/self/fd/{number}"
    finally:
        os.close(number)
