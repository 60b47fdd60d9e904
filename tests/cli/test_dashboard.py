"""``ropewalk cluster dashboard``."""

from __future__ import annotations

import pytest

from ropewalk.schemas.clusters import DashboardTicket
from tests.cli.conftest import NOW, FakeServer, Run

FLIGHTS = "/accounts/ada/clusters/flights"
TICKET = DashboardTicket(url="http://c-1.localhost:8780/_ropewalk/open?ticket=t", expires_at=NOW)


class Browser:
    """Notes what it is to open."""

    def __init__(self, *, works: bool) -> None:
        self.opened: list[str] = []
        self._works = works

    def __call__(self, url: str) -> bool:
        self.opened.append(url)
        return self._works


def test_dashboard_opens_a_link_that_works_once(run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    browser = Browser(works=True)
    monkeypatch.setattr("webbrowser.open", browser)
    server.answer("POST", f"{FLIGHTS}/dashboard", TICKET)
    result = run("cluster", "dashboard", "ada/flights")
    assert result.exit_code == 0
    assert browser.opened == [TICKET.url]
    assert "".join(result.stdout.split()) == TICKET.url


def test_dashboard_prints_the_link_where_no_browser_is_wanted_or_found(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = Browser(works=False)
    monkeypatch.setattr("webbrowser.open", browser)
    server.answer("POST", f"{FLIGHTS}/dashboard", TICKET)
    result = run("cluster", "dashboard", "ada/flights", "--no-browser")
    assert (browser.opened, "".join(result.stdout.split())) == ([], TICKET.url)
    assert "open the link within a minute" in run("cluster", "dashboard", "ada/flights").stderr
