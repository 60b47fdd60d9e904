"""Sends requests to the application in this process, as nobody or as people that it makes."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Self, cast

import httpx
from fastapi import FastAPI
from sqlalchemy import select

from ropewalk.server.context import Context
from ropewalk.server.db.models import Account, Member, User, new_id
from ropewalk.server.identity.tokens import issue_token
from ropewalk.server.identity.users import add_user

NO_PASSWORD = "!"
"""Hash of no password: hashing one takes a tenth of a second, and most tests need none."""


@dataclass(frozen=True)
class Person:
    """A user, their token, and a client that sends it."""

    username: str
    token: str
    client: httpx.AsyncClient


class Api:
    """``client`` sends no token. Use as an async context manager."""

    def __init__(self, app: FastAPI, *, address: str = "127.0.0.1") -> None:
        self.app = app
        self._address = address
        self._stack = AsyncExitStack()
        self._client: httpx.AsyncClient | None = None

    async def __aenter__(self) -> Self:
        self._client = await self.connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def context(self) -> Context:
        return cast("Context", self.app.state.context)

    @property
    def client(self) -> httpx.AsyncClient:
        assert self._client is not None
        return self._client

    async def connect(self, token: str | None = None, *, address: str | None = None) -> httpx.AsyncClient:
        """Return a client that sends *token* and seems to come from *address*."""
        client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app, client=(address or self._address, 40000)),
            base_url=self.context.settings.public_url,
            headers={"Authorization": f"Bearer {token}"} if token else None,
        )
        return await self._stack.enter_async_context(client)

    async def person(self, username: str = "ada", *, operator: bool = False) -> Person:
        """Make a user with a personal account and a token that does not expire."""
        async with self.context.db.transaction() as session:
            user = await add_user(
                self.context, session, username, NO_PASSWORD, email=None, operator=operator, by="tests"
            )
            await session.flush()
            token = (await issue_token(self.context, session, user, "tests", None)).token
        return Person(username, token, await self.connect(token))

    async def operator(self, username: str = "root") -> Person:
        """Make an operator."""
        return await self.person(username, operator=True)

    async def team(self, slug: str, **members: str) -> str:
        """Make a team account; *members* are ``user name="member" | "admin"``; return its id."""
        now = self.context.clock.now()
        async with self.context.db.transaction() as session:
            account = Account(id=new_id("a"), slug=slug, kind="team", created_at=now)
            session.add(account)
            await session.flush()
            for username, role in members.items():
                user_id = (await session.scalars(select(User.id).where(User.username == username))).one()
                session.add(Member(account_id=account.id, user_id=user_id, role=role, added_at=now))
        return account.id
