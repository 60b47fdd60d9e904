"""Numbers about this process, for Prometheus. Each application has a registry of its own, so that tests do not mix."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from ropewalk._version import __version__

LATENCY_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds; Prometheus's own choice for web requests."""


class Metrics:
    """The metrics of the web platform; other parts register theirs with :attr:`registry`."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        labels = ("method", "route", "status")
        self.requests = Counter("ropewalk_http_requests", "HTTP requests answered.", labels, registry=self.registry)
        self.latency = Histogram(
            "ropewalk_http_request_seconds",
            "Time from the request to the end of the answer.",
            ("method", "route"),
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.in_progress = Gauge(
            "ropewalk_http_requests_in_progress", "HTTP requests being answered.", registry=self.registry
        )
        self.reconcile_passes = Counter(
            "ropewalk_reconcile_passes", "Looks at a cluster to decide what to do next.", registry=self.registry
        )
        self.reconcile_errors = Counter(
            "ropewalk_reconcile_errors", "Passes and calls that failed.", ("error",), registry=self.registry
        )
        self.reconcile_lag = Histogram(
            "ropewalk_reconcile_lag_seconds",
            "Time from the news about a cluster to the look at it.",
            buckets=LATENCY_BUCKETS,
            registry=self.registry,
        )
        self.retries = Counter(
            "ropewalk_retries",
            "Tries that will be made again after an error, by loop.",
            ("loop",),
            registry=self.registry,
        )
        self.leases = Gauge("ropewalk_leases", "Clusters that this server holds the lease of.", registry=self.registry)
        self.renew_failures = Counter(
            "ropewalk_lease_renew_failures", "Renewals of leases that failed.", registry=self.registry
        )
        self.leases_lost = Counter("ropewalk_leases_lost", "Leases that another server took.", registry=self.registry)
        self.looks = Counter(
            "ropewalk_observer_looks", "Looks at the nodes of a cloud account.", ("result",), registry=self.registry
        )
        self.links = Gauge("ropewalk_links", "Schedulers that this server hears.", registry=self.registry)
        self.loop_runs = Gauge(
            "ropewalk_loop_last_success_seconds",
            "When a loop of the server last did its work (seconds since 1970).",
            ("loop",),
            registry=self.registry,
        )
        self.clusters = Gauge(
            "ropewalk_clusters", "Live clusters that this server works on.", ("state",), registry=self.registry
        )
        self.orphans = Gauge("ropewalk_orphans", "Nodes in a cloud that no cluster knows.", registry=self.registry)
        self.gateway_connections = Gauge(
            "ropewalk_gateway_connections", "Connections that the gateway carries.", registry=self.registry
        )
        self.gateway_refused = Counter(
            "ropewalk_gateway_refused",
            "Connections that the gateway refused or ended, by reason.",
            ("reason",),
            registry=self.registry,
        )
        self.gateway_bytes = Counter(
            "ropewalk_gateway_bytes",
            "Bytes carried to (in) and from (out) clusters.",
            ("direction",),
            registry=self.registry,
        )
        self.environment_bytes = Gauge(
            "ropewalk_environment_bytes",
            "Bytes of software environments on the server's disk.",
            ("part",),
            registry=self.registry,
        )
        self.environment_free = Gauge(
            "ropewalk_environment_free_bytes", "Bytes that are free on that disk.", registry=self.registry
        )
        build = Gauge("ropewalk_build_info", "The version that runs.", ("version",), registry=self.registry)
        build.labels(__version__).set(1)

    def request_done(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one answered request. *route* is the path template, so that there are few different ones."""
        self.requests.labels(method, route, str(status)).inc()
        self.latency.labels(method, route).observe(seconds)

    def glance(self) -> dict[str, float]:
        """Return the few numbers that say how this process has fared, by what they are called for people."""
        totals: dict[str, float] = {}
        broken = 0.0
        for family in self.registry.collect():
            for sample in family.samples:
                totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
                if sample.name == "ropewalk_http_requests_total" and sample.labels["status"].startswith("5"):
                    broken += sample.value
        looks = totals.get("ropewalk_reconcile_lag_seconds_count", 0.0)
        return {
            "Requests answered": totals.get("ropewalk_http_requests_total", 0.0),
            "of them with an error of the server": broken,
            "Looks at clusters": totals.get("ropewalk_reconcile_passes_total", 0.0),
            "Faults met meanwhile": totals.get("ropewalk_reconcile_errors_total", 0.0),
            "Milliseconds from news to a look, on average": 1000
            * (totals.get("ropewalk_reconcile_lag_seconds_sum", 0.0) / looks if looks else 0.0),
            "Leases lost to other servers": totals.get("ropewalk_leases_lost_total", 0.0),
            "Connections through the gateway now": totals.get("ropewalk_gateway_connections", 0.0),
            "GiB of software environments on the server's disk": totals.get("ropewalk_environment_bytes", 0.0) / 2**30,
            "GiB free there": totals.get("ropewalk_environment_free_bytes", 0.0) / 2**30,
            "MiB of memory": totals.get("process_resident_memory_bytes", 0.0) / 2**20,
        }

    def render(self) -> bytes:
        """Return everything in Prometheus's text format."""
        return generate_latest(self.registry)
