"""Writes a history into the database of a server that runs: clusters by the thousand, what would take long to build."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import create_engine, insert, select
from sqlalchemy.orm import Session

from ropewalk.schemas.environments import EnvironmentSpec, Lock, LockedPackage
from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.db.models import (
    Account,
    Cluster,
    Environment,
    EnvironmentBuild,
    EnvironmentVersion,
    Node,
    User,
    WebSession,
    new_id,
)

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


def software_environment(data: Path, name: str) -> str:
    """Write down an environment of ada's with a good version and one that failed; return the id of the good build."""
    engine = create_engine(f"sqlite:///{data / 'ropewalk.db'}")
    now, pip = datetime.now(UTC), ["dask[distributed]==2026.8.0", "six==99"]
    ids = {"environment": new_id("en"), "builds": [new_id("eb"), new_id("eb")]}
    with Session(engine) as session, session.begin():
        account = session.scalars(select(Account.id).where(Account.slug == "ada")).one()
        user = session.scalars(select(User.id).where(User.username == "ada")).one()
        times = {"created_at": now, "updated_at": now, "used_at": now}
        own = {"id": ids["environment"], "account_id": account, "creator_id": user, "name": name, **times}
        session.execute(insert(Environment), [{**own, "private": False, "managed": False, "good": 1, "latest": 2}])
        for number, state in ((1, "ready"), (2, "failed")):
            spec = EnvironmentSpec(pip=pip[:number], python="3.12")
            reason = "The packages could not be resolved. Loosen one." if state == "failed" else None
            version = {"id": new_id("ev"), "environment_id": ids["environment"], "number": number, "creator": "ada"}
            facts = {"spec_hash": spec.hash, "state": state, "reason": reason, "created_at": now}
            session.execute(insert(EnvironmentVersion), [{**version, **facts, "spec": spec.model_dump(mode="json")}])
            packages = [LockedPackage(name=f"package-{each}", version="1.2.3") for each in range(30)]
            lock = Lock(python="3.12", platform="linux/amd64", packages=packages).model_dump(mode="json")
            build = {"id": ids["builds"][number - 1], "version_id": version["id"], "account_id": account}
            place = {"cloud_account_id": HOSTED_ID, "target": "local", "platform": "linux/amd64", "attempts": 0}
            made = {"lock": lock if state == "ready" else None, "details": {"size": 2**28}, "started_at": now}
            done = {"finished_at": now, "spec_hash": spec.hash, "state": state, "reason": reason, "fence": 0}
            rest = {"created_at": now, "used_at": now, "fresh": False, "reused": False}
            session.execute(insert(EnvironmentBuild), [{**build, **place, **made, **done, **rest}])
    engine.dispose()
    return str(ids["builds"][0])


def end_sessions(data: Path) -> None:
    """Let all sessions in browsers be over, as if their time had passed."""
    engine = create_engine(f"sqlite:///{data / 'ropewalk.db'}")
    with Session(engine) as session, session.begin():
        for row in session.scalars(select(WebSession)):
            session.delete(row)
    engine.dispose()
