"""What the page of clusters costs: its time on the server against that of the same data as JSON, and its weight."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

from benchmarks.measure import Result, alternate
from benchmarks.program import PASSWORD, REQUEST_SECONDS, Server, server
from benchmarks.server import CLUSTERS, MANY, client, fill, timed
from ropewalk.server.db.models import Base, Cluster, Node, new_id

PAGE_VS_JSON, PAGE_KB = 3.0, 300.0
LEASE_SECONDS = 3600
"""So long the server leaves copied clusters alone: the longest that it can be told."""


def run(runs: int, clusters: int = CLUSTERS) -> list[Result]:
    """Measure a server that has many clusters."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml", prefix="ropewalk-bench-") as settings:
        settings.write(f"lease_seconds = {LEASE_SECONDS}\n")
        settings.flush()
        with server("--log-level", "warning", "--config", settings.name, command=MANY) as here, browser(here) as page:
            fill(here, 1)
            copy(here, clusters - 1)
            return [against_json(here, page, runs, clusters), weight(page, clusters)]


def copy(here: Server, count: int) -> None:
    """Write down *count* more clusters that run, like the one that there is: making so many takes minutes."""
    engine = create_engine(f"sqlite:///{Path(here.data) / 'ropewalk.db'}")
    with Session(engine) as session, session.begin():
        cluster = session.scalars(select(Cluster)).one()
        nodes = session.scalars(select(Node)).all()
        held = {"lease_owner": "benchmark", "lease_expires_at": datetime.now(UTC) + timedelta(seconds=LEASE_SECONDS)}
        for number in range(count):
            own = new_id("c")
            session.execute(insert(Cluster).values({**_like(cluster), **held, "id": own, "name": f"copy-{number}"}))
            names = [{"name": node.name.replace(cluster.id, own), "cluster_id": own} for node in nodes]
            session.execute(insert(Node), [{**_like(node), **new} for node, new in zip(nodes, names, strict=True)])
    engine.dispose()


def _like(row: Base) -> dict[str, Any]:
    return {column.key: getattr(row, column.key) for column in row.__table__.columns}


@contextmanager
def browser(here: Server) -> Iterator[httpx.Client]:
    """Give a client with the session of a person, who signed in by the form."""
    with httpx.Client(base_url=here.url, timeout=REQUEST_SECONDS, follow_redirects=True) as page:
        form = page.get("/sign-in").text
        found = re.search(r'name="csrf" value="([^"]+)"', form)
        csrf = found[1] if found else ""
        page.post("/sign-in", data={"username": "bench", "password": PASSWORD, "csrf": csrf}).raise_for_status()
        yield page


def against_json(here: Server, page: httpx.Client, runs: int, clusters: int) -> Result:
    """Return the time of the page in that of the API's answer, neither of them compressed: both have all clusters."""
    plain = {"Accept-Encoding": "identity"}
    with client(here) as api:

        def ours() -> None:
            answer = page.get("/accounts/bench/clusters", params={"rows": clusters}, headers=plain)
            assert answer.text.count('<th scope="row">') == clusters, answer.text[:200]  # noqa: S101 - otherwise it measures nothing

        def theirs() -> None:
            answer = api.get("/accounts/bench/clusters", params={"limit": clusters}, headers=plain)
            assert len(answer.json()) == clusters, answer.text[:200]  # noqa: S101 - otherwise it measures nothing

        (sides,) = alternate(lambda: [timed(ours, [])], lambda: [timed(theirs, [])], runs)
    return sides.ratio("page_vs_json", PAGE_VS_JSON)


def weight(page: httpx.Client, clusters: int) -> Result:
    """Return what crosses the network for the page with all that it loads, at its first visit, in kB (1000 bytes)."""
    address = f"/accounts/bench/clusters?rows={clusters}"
    files = re.findall(r'(?:href|src)="(/static/[^"]+)"', page.get(address).text)
    sizes = [received(page, path) / 1000 for path in (address, *files)]
    return Result("page_kb", "kB", PAGE_KB, sizes, value=sum(sizes))


def received(page: httpx.Client, path: str) -> int:
    """Return the bytes of a body as they come, compressed."""
    with page.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        return sum(len(part) for part in answer.iter_raw())
