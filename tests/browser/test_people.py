"""How people come in and what they do first: single sign-on, an invitation, a log that grows, a cluster that ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import BrowserContext, Page, expect

from ropewalk.client import calls
from ropewalk.schemas.clusters import ClusterCreate, ClusterScale
from ropewalk.schemas.identity import AccountCreate, InvitationCreate
from tests.browser.conftest import LiveServer
from tests.browser.test_pages import PATIENCE, SMALL, look, page, violations
from tests.support.oidc_provider import CLIENT, SECRET, Provider, provider

__all__ = ["page"]

pytestmark = pytest.mark.timeout(600)  # two servers, a cluster and a browser, on a busy machine


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with single sign-on; its operator is ada."""
    directory = tmp_path_factory.mktemp("server")
    with provider() as running:
        made = LiveServer(directory)
        made.data.mkdir()
        settings = made.data / "ropewalk.toml"
        settings.write_text(_settings(running))
        settings.chmod(0o600)
        try:
            made.start()
            made.set_up()
            yield made
            made.stop_clusters()
        finally:
            made.kill_everything()


def _settings(running: Provider) -> str:
    values = {"issuer": running.issuer, "client_id": CLIENT, "client_secret": SECRET, "name": "Example Identity"}
    return "".join(f'oidc_{name} = "{value}"\n' for name, value in values.items())


def test_a_person_comes_by_single_sign_on_joins_a_team_follows_a_log_and_sees_the_cluster_end(
    server: LiveServer, page: Page, context: BrowserContext
) -> None:
    with server.api() as api:
        api(calls.create_account(AccountCreate.model_validate({"slug": "physics"})))
        link = api(calls.invite("physics", InvitationCreate(note="Mia"))).url
        wish = ClusterCreate.model_validate({"name": "etl", "n_workers": 1, **SMALL})
        api(calls.create_cluster("physics", wish, reattach=False))
    page.goto(link)
    assert violations(page) == []
    look(page, "join")
    page.get_by_role("link", name="Continue with Example Identity").click()
    page.get_by_label("Who are you?").fill("mia")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_text("You are signed in as user")).to_be_visible(timeout=PATIENCE)
    look(page, "join-as")
    page.get_by_role("button", name="Join as user").click()
    expect(page.get_by_text("Welcome: you are a member")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="etl", exact=True).click()
    expect(page.get_by_text("1 ready of 1")).to_be_visible(timeout=PATIENCE)
    cluster = page.url
    page.get_by_role("link", name="Logs").click()
    expect(page.get_by_text("Registered to").first).to_be_visible(timeout=PATIENCE)
    with server.api() as api:
        api(calls.scale_cluster("physics", "etl", ClusterScale(n_workers=2)))
    expect(page.locator(".line-node", has_text="worker-2").first).to_be_attached(timeout=PATIENCE)
    rest = "log => log.scrollHeight - log.scrollTop - log.clientHeight"
    assert page.locator("#log").evaluate(rest) < 24, "the end is in view"
    assert violations(page) == []
    look(page, "logs")
    other = context.new_page()
    other.goto(cluster)
    other.get_by_label("Workers", exact=True).fill("7")
    with server.api() as api:
        api(calls.stop_cluster("physics", "etl"))
    expect(other.get_by_text("asked for it to stop")).to_be_visible(timeout=PATIENCE)
    expect(other.get_by_role("heading", name="Connect to it")).to_have_count(0, timeout=PATIENCE)
    expect(page.get_by_text("Everything has ended: this is all.")).to_be_visible(timeout=PATIENCE)
    page.goto(f"{server.url}/accounts/physics/team")
    look(page, "team-as-member")
