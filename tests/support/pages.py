"""Follows pages as a person does, without a browser: opens them, and fills in forms with what is hidden in them."""

from __future__ import annotations

import html
import re
from typing import Self

import httpx
from sqlalchemy import select

from ropewalk.server.db.models import User
from ropewalk.server.identity import sessions
from tests.support.api import Api


class Visitor:
    """A browser's tab: the cookies of *client*, and the page that it shows."""

    def __init__(self, api: Api, client: httpx.AsyncClient) -> None:
        self.api = api
        self.client = client
        self.page = httpx.Response(200)

    @classmethod
    async def make(cls, api: Api, username: str | None = None) -> Self:
        """Return somebody who is signed in as *username*; None: as nobody."""
        made = cls(api, await api.connect())
        if username is not None:
            await made.enter(username)
        return made

    async def enter(self, username: str) -> None:
        """Begin a session, without the form."""
        async with self.api.context.db.read() as session:
            user_id = (await session.scalars(select(User.id).where(User.username == username))).one()
        cookie = await sessions.begin(self.api.context, user_id)
        self.client.cookies.set("ropewalk_session", cookie, domain=self.client.base_url.host)

    async def open(self, path: str, **headers: str) -> httpx.Response:
        """Go to a page."""
        self.page = await self.client.get(path, follow_redirects=True, headers={"Accept": "text/html", **headers})
        return self.page

    def fields(self, action: str) -> dict[str, str]:
        """Return what is hidden in the page's form for *action*."""
        form = re.search(
            rf'<form method="post" action="{re.escape(action)}"[^>]*>.*?</form>', self.page.text, re.DOTALL
        )
        assert form, f"no form {action} in: {self.page.text}"
        hidden = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[0])
        return {name: html.unescape(value) for name, value in hidden}

    async def submit(self, action: str, **fields: str) -> httpx.Response:
        """Send the page's form for *action*, and go where that leads."""
        data = self.fields(action) | fields
        self.page = await self.client.post(action, data=data, follow_redirects=True)
        return self.page

    @property
    def text(self) -> str:
        """What the page says, without tags."""
        inside = re.sub(r"<[^>]+>", " ", self.page.text.partition("<main")[2])
        return re.sub(r"\s+", " ", html.unescape(inside))
