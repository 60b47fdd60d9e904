"""What every page says to the browser, and what it weighs."""

from __future__ import annotations

import gzip
import re

import pytest

from ropewalk.server.web import assets
from tests.server.test_permissions import PARAMETERS
from tests.server.web.test_clusters import create
from tests.support.api import Api
from tests.support.pages import Visitor
from tests.support.routes import pages

MAX_KB = 300


async def everything(api: Api) -> tuple[Visitor, list[str]]:
    """Return an operator, and the addresses of all pages, of which most are about something that is there."""
    ada = await api.operator("ada")
    cluster = await create(ada, "etl")
    path = "/api/v1/accounts/ada/configurations/training"
    assert (await ada.client.put(path, json={"spec": {"n_workers": 2}})).status_code == 200
    there = {"account": "ada", "cluster": cluster, "name": "training", "username": "ada"}
    return await Visitor.make(api, "ada"), pages(api.app, **{**PARAMETERS, **there})


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # pages are the same on both
async def test_no_page_loads_or_runs_what_is_not_a_file_of_this_server(api: Api) -> None:
    ada, paths = await everything(api)
    assert len(paths) > 25
    for path in paths:
        page = await ada.open(path)
        assert page.status_code < 500, path
        policy = page.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["X-Frame-Options"] == "DENY"
        assert page.headers["X-Content-Type-Options"] == "nosniff"
        assert page.headers["Referrer-Policy"] == "same-origin"
        assert page.headers["Cache-Control"] == "no-store"
        assert not re.search(r"<script(?! src=)|<style|\son\w+=|\sstyle=|javascript:", page.text), path
        assert not re.search(r'<(script|link|img|iframe|form)\b[^>]*="(https?:)?//', page.text), path


async def test_files_are_kept_for_ever_at_addresses_with_their_hash(api: Api) -> None:
    address = assets.url("tabler.css")
    found = await api.client.get(address)
    assert found.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert found.headers["Content-Encoding"] == "gzip"
    assert found.headers["Content-Type"] == "text/css; charset=utf-8"
    plain = await api.client.get(address, headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    assert plain.text == found.text
    digest = address.split("/")[2]
    assert (await api.client.get(f"/static/{'0' * 16}/tabler.css")).status_code == 404
    assert (await api.client.get(f"/static/{digest}/icons.json")).status_code == 404


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # pages are the same on both
async def test_a_page_with_all_its_files_weighs_little(api: Api) -> None:
    ada, paths = await everything(api)
    for path in paths:
        page = await ada.open(path)
        total = len(gzip.compress(page.content))
        for address in re.findall(r'(?:href|src)="(/static/[^"]+)"', page.text):
            _, _, digest, name = address.split("/")
            total += len(assets.get(digest, name).packed)
        assert total <= MAX_KB * 1000, path


def test_licences_of_what_is_shipped_are_shipped() -> None:
    text = assets.licences()
    for name in ("@tabler/core", "@tabler/icons", "htmx.org", "htmx-ext-sse"):
        assert name in text
    assert "Permission is hereby granted" in text
    assert "Zero-Clause BSD" in text


async def test_people_get_a_page_and_programs_json_where_there_is_nothing(api: Api) -> None:
    for path in ("/nowhere", "/accounts"):
        page = await api.client.get(path, headers={"Accept": "text/html,*/*"})
        assert page.status_code == 404
        assert "There is nothing here" in page.text
        assert (await api.client.get(path)).json()["error"]["code"] == "not_found"
    told = await api.client.get("/api/v1/nowhere", headers={"Accept": "text/html"})
    assert told.json()["error"]["code"] == "not_found"


async def test_a_defect_is_told_with_a_number_and_without_its_text(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")

    async def broken(*_: object) -> None:
        raise RuntimeError("the inside")

    monkeypatch.setattr("ropewalk.server.identity.tokens.list_tokens", broken)
    page = await ada.open("/profile/tokens")
    assert page.status_code == 500
    assert page.headers["X-Request-Id"] in page.text
    assert "the inside" not in page.text


@pytest.mark.parametrize("path", ["/profile/password", "/profile/tokens", "/profile/tokens/revoke", "/sign-out"])
async def test_every_change_needs_the_sessions_own_form(api: Api, path: str) -> None:
    await api.person("ada")
    await api.person("eve")
    ada, eve = await Visitor.make(api, "ada"), await Visitor.make(api, "eve")
    await eve.open("/profile/tokens")
    for csrf in ("", eve.fields("/profile/tokens")["csrf"]):
        answer = await ada.client.post(path, data={"csrf": csrf, "token": "tests", "session": "x"})
        assert answer.status_code == 403, csrf
    assert (await ada.open("/profile")).url.path == "/profile"
