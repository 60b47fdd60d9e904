"""A server whose AWS and Kubernetes are clouds in memory, with keys that are known and revoked at will."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.backends.port import Identity
from ropewalk.server.blueprint import Blueprint
from ropewalk.server.cloud_accounts.registry import Backends
from tests.support.api import Api, Person
from tests.support.clock import FakeClock
from tests.support.waiting import eventually


def key(name: str) -> dict[str, str]:
    """Return a key of the right form."""
    return {
        "access_key_id": f"AKIA{name.upper():0<16}",
        "secret_access_key": f"canary/secret/of/{name}".ljust(40, "x"),
    }


KEY, ROTATED, STRANGER, ROOT = key("one"), key("two"), key("else"), key("root")
STEPS = {"network": 0.0, "role": 0.0, "nat": 32.85}


class World:
    """The clouds of a test, and people who set and use them."""

    def __init__(self, api: Api, aws: MemoryCloud, clock: FakeClock) -> None:
        self.api, self.aws, self.clock = api, aws, clock

    async def admin(self, username: str = "ada", address: str = "5.6.7.8") -> Person:
        person = await self.api.person(username)
        return Person(username, person.token, await self.api.connect(person.token, address=address))

    async def set(self, who: Person, account: str | None = None, **wish: Any) -> httpx.Response:
        body = {"kind": "aws", **wish}
        return await who.client.put(f"/api/v1/accounts/{account or who.username}/cloud-account", json=body)

    async def ask(self, who: Person, method: str, path: str = "", status: int = 200, **options: Any) -> Any:
        url = f"/api/v1/accounts/{who.username}/cloud-account{path}"
        answer = await who.client.request(method, url, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def show(self, who: Person) -> dict[str, Any]:
        shown: dict[str, Any] = await self.ask(who, "GET")
        return shown

    async def until(self, who: Person, state: str) -> dict[str, Any]:
        """Wait until the cloud account is in *state*."""

        async def there() -> dict[str, Any] | None:
            shown = await self.show(who)
            return shown if shown["state"] == state else None

        return await eventually(there)

    async def prepared(self, who: Person) -> dict[str, Any]:
        """Set a key and prepare."""
        answer = await self.set(who, credentials=KEY)
        assert answer.status_code == 200, answer.text
        await self.prepare(who)
        return await self.until(who, "ready")

    async def prepare(self, who: Person, status: int = 200) -> Any:
        return await self.ask(who, "POST", "/prepare", status, json={"accept_monthly_cost": 32.85})

    async def codes(self, who: Person, after: int = 0) -> list[str]:
        found = await self.ask(who, "GET", f"/events?after={after}")
        return [event["code"].removeprefix("cloud_account.") for event in found]

    @contextmanager
    def held(self, method: str, kind: str) -> Iterator[None]:
        """Let the next step of *method* that concerns *kind* take until the end of the block, however long that is."""
        gate, sleep = asyncio.Event(), self.aws.sleep

        async def wait(_seconds: float) -> None:
            await gate.wait()

        self.aws.sleep = wait
        self.aws.inject(method, node=kind, delay=0.01, effect=True)
        try:
            yield
        finally:
            self.aws.sleep = sleep
            gate.set()

    def tick(self, seconds: float) -> None:
        self.clock.advance(seconds)
        self.api.context.wakeups.wake("*")


@pytest.fixture
def aws() -> MemoryCloud:
    cloud = MemoryCloud(steps=STEPS)
    cloud.keys = {
        KEY["access_key_id"]: Identity("111", "arn:aws:iam::111:user/one"),
        ROTATED["access_key_id"]: Identity("111", "arn:aws:iam::111:user/two"),
        STRANGER["access_key_id"]: Identity("222", "arn:aws:iam::222:user/else"),
        ROOT["access_key_id"]: Identity("111", "arn:aws:iam::111:root", warning="This is the root user's key."),
    }
    return cloud


@pytest.fixture
def hosted() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
def blueprints() -> list[Blueprint]:
    """What backends were made from, in order."""
    return []


@pytest.fixture
def backends(aws: MemoryCloud, hosted: MemoryCloud, blueprints: list[Blueprint]) -> Backends:
    def make(plan: Blueprint) -> MemoryBackend:
        blueprints.append(plan)
        return MemoryBackend(aws, str((plan.credentials or {}).get("access_key_id")))

    def namespace(plan: Blueprint) -> MemoryBackend:
        blueprints.append(plan)
        return MemoryBackend(MemoryCloud(steps={}))

    return Backends({"local": MemoryBackend(hosted)}, {"aws": make, "kubernetes": namespace})


@pytest.fixture
async def world(app: FastAPI, aws: MemoryCloud, clock: FakeClock) -> AsyncIterator[World]:
    async with Api(app) as api:
        yield World(api, aws, clock)
