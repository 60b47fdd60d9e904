"""A cluster reached through the gateway against the same one reached directly: bytes per second, and round trips.

Then what Kubernetes adds, whose pods the gateway reaches by port-forward: see :mod:`benchmarks.forward`.
"""

from __future__ import annotations

import resource
import socket
import ssl
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import psutil
from distributed import Client, Security

from benchmarks import forward
from benchmarks.measure import Result, alternate
from benchmarks.program import server, wait_warm
from ropewalk import Cluster
from ropewalk.client import calls
from ropewalk.client.connect import security_of
from ropewalk.client.http import Api

BLOB = bytes(bytearray(range(256))) * 2**18
"""64 MiB, there and back."""
ROUND_TRIPS = 200
CONNECTIONS = 1000
"""At once through the gateway; its default limit is 5,000."""
CONNECT_SECONDS = 30.0


def run(runs: int) -> list[Result]:
    """Measure both ways into one cluster."""
    with server() as here, ExitStack() as stack:
        wait_warm(here)
        cluster = stack.enter_context(
            Cluster(1, server=here.url, token=here.token, quiet=True, wait_for_workers=True, worker_memory="2 GiB")
        )
        with Api(here.url, here.token) as api:
            connection = api(calls.get_connection("bench", cluster.name))
        security = security_of(connection)
        assert connection.gateway_address is not None  # noqa: S101 - the server was started with one
        direct = stack.enter_context(_client(connection.scheduler_address, security))
        through = stack.enter_context(_client(connection.gateway_address, security))
        for client in (direct, through):
            once(client)
        bulk, trip = alternate(lambda: once(through), lambda: once(direct), runs)
        seconds, memory = hold(connection.gateway_address, security, here.pid)
    return [
        bulk.ratio("gateway_bulk_vs_direct", None),
        trip.ratio("gateway_round_trip_vs_direct", None),
        Result("gateway_throughput", "MiB/s", None, bulk.ours, value=_rate(bulk.ours)),
        Result("gateway_direct_throughput", "MiB/s", None, bulk.theirs, value=_rate(bulk.theirs)),
        Result("gateway_round_trip", "ms", None, trip.ours, value=1000 * statistics.median(trip.ours)),
        Result("gateway_direct_round_trip", "ms", None, trip.theirs, value=1000 * statistics.median(trip.theirs)),
        Result(f"gateway_{CONNECTIONS}_connections", "s", None, [seconds], value=seconds),
        Result("gateway_connection_memory", "KiB", None, [memory], value=memory),
        *forward.measure(runs),
    ]


def _rate(seconds: Sequence[float]) -> float:
    return 2 * len(BLOB) / 2**20 / statistics.median(seconds)


def hold(address: str, security: Security, server: int) -> tuple[float, float]:
    """Return the seconds that opening many connections takes, one after the other, and the server's KiB for each."""
    wanted = security.get_connection_args("client")
    name, context = str(wanted["server_hostname"]), wanted["ssl_context"]
    assert isinstance(context, ssl.SSLContext)  # noqa: S101 - so that types are known
    host, _, port = address.removeprefix("tls://").rpartition(":")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    process = psutil.Process(server)
    before, began = process.memory_info().rss, time.perf_counter()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            raw = stack.enter_context(socket.create_connection((host, int(port)), CONNECT_SECONDS))
            stack.enter_context(context.wrap_socket(raw, server_hostname=name))
        took = time.perf_counter() - began
        return took, (process.memory_info().rss - before) / 1024 / CONNECTIONS


def once(client: Client) -> Sequence[float]:
    """Return the seconds of sending and fetching the blob, and of one round trip."""
    began = time.perf_counter()
    (future,) = client.scatter([BLOB], hash=False)
    assert len(client.gather(future)) == len(BLOB)  # noqa: S101 - a benchmark of nothing would be fast
    bulk = time.perf_counter() - began
    del future
    began = time.perf_counter()
    for _ in range(ROUND_TRIPS):
        client.ncores()
    return bulk, (time.perf_counter() - began) / ROUND_TRIPS


@contextmanager
def _client(address: str, security: object) -> Iterator[Client]:
    client = Client(address, security=security, set_as_default=False)
    try:
        yield client
    finally:
        client.close()
