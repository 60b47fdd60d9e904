"""Writes a history of clusters into the database of a server that runs: making so many would take hours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.db.models import Account, Cluster, Node, User, WebSession, new_id

PROJECTS = ("apollo", "gemini", "<img src=x onerror=alert(1)>")


def ended_clusters(data: Path, count: int, *, days: int = 30) -> None:
    """Write down *count* clusters of ada's account, by her and mia, that ended, evenly spread over the last *days*."""
    now = datetime.now(UTC)
    engine = create_engine(f"sqlite:///{data / 'ropewalk.db'}")
    with Session(engine) as session, session.begin():
        account = session.scalars(select(Account.id).where(Account.slug == "ada")).one()
        people = {name: session.scalars(select(User.id).where(User.username == name)).one() for name in ("ada", "mia")}
        for number in range(count):
            began = now - timedelta(days=days * (number + 1) / count)
            # A wave, so that a chart of it looks like one of a team.
            ended = min(now, began + timedelta(hours=1 + number % 7))
            cluster = _cluster(account, people["mia" if number % 3 else "ada"], number, began, ended)
            session.execute(insert(Cluster), [cluster])
            session.execute(insert(Node), [_node(str(cluster["id"]), each, began, ended) for each in range(3)])
    engine.dispose()


def _cluster(account: str, user: str, number: int, began: datetime, ended: datetime) -> dict[str, object]:
    return {
        "id": new_id("c"),
        "account_id": account,
        "creator_id": user,
        "cloud_account_id": HOSTED_ID,
        "name": f"old-{number}",
        "spec": {},
        "secret": b"",
        "tags": {"project": PROJECTS[number % len(PROJECTS)]},
        "n_workers": 2,
        "desired_changed_at": began,
        "reserved_cores": 3.0,
        "state": "stopped",
        "reason": "It had no work for 20 minutes.",
        "versions": {},
        "created_at": began,
        "ready_at": began,
        "stopped_at": ended,
    }


def _node(cluster: str, number: int, began: datetime, ended: datetime) -> dict[str, object]:
    return {
        "name": f"{cluster}-{number}",
        "cluster_id": cluster,
        "role": "worker" if number else "scheduler",
        "state": "stopped",
        "cpu": 4.0 if number else 1.0,
        "memory": 16 * 2**30,
        "hourly_price": 0.2 if number else 0.05,
        "currency": "USD",
        "created_at": began,
        "started_at": began,
        "ready_at": began,
        "stopped_at": ended,
    }


def end_sessions(data: Path) -> None:
    """Let all sessions in browsers be over, as if their time had passed."""
    engine = create_engine(f"sqlite:///{data / 'ropewalk.db'}")
    with Session(engine) as session, session.begin():
        for row in session.scalars(select(WebSession)):
            session.delete(row)
    engine.dispose()
