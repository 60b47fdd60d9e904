"""The pages in a real Chromium: they work by keyboard and mouse, follow what happens, and keep nobody out."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from ropewalk.client import calls
from ropewalk.schemas.clusters import ClusterCreate, ConfigurationSet
from ropewalk.schemas.environments import IndexCredentialsSet
from ropewalk.schemas.identity import UserCreate
from ropewalk.server.app import create_app
from ropewalk.server.settings import Settings
from tests.browser.conftest import ARTEFACTS, LiveServer, new_context
from tests.server.test_permissions import PARAMETERS
from tests.support.filling import end_sessions, ended_clusters, software_environment
from tests.support.routes import pages
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(600)  # a server, clusters and a browser, on a busy machine

AXE = Path(__file__).parents[2] / ".cache" / "axe.js"
"""Put there by the build of a working copy, scripts/web_assets.py."""
PASSWORD = "correct horse battery"
PATIENCE = 60_000
"""Milliseconds: the machine may be busy."""
BUILD = 4 * PATIENCE
"""For a build with packages from the index."""
expect.set_options(timeout=PATIENCE)
SMALL = {"worker_cpu": 1, "worker_memory": "1 GiB", "scheduler_memory": "1 GiB"}


INDEX = IndexCredentialsSet(url="https://packages.example.org/simple", password=PASSWORD)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose operator, ada, has a password, and the user mia."""
    made = LiveServer(tmp_path_factory.mktemp("server"))
    try:
        made.start()
        yield made
        made.stop_clusters()
    finally:
        made.kill_everything()


@pytest.fixture(scope="module")
def ready(server: LiveServer, chromium: Browser) -> LiveServer:
    """The server after its first run, which was done in the browser."""
    context = new_context(chromium)
    page = context.new_page()
    page.goto(server.url)
    expect(page.get_by_role("heading", name="Set up this server")).to_be_visible()
    look(page, "set-up")
    page.get_by_label("Set-up code").fill((server.data / "setup-code").read_text().strip())
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Make the operator").click()
    expect(page.get_by_role("heading", name="No cluster runs")).to_be_visible(timeout=PATIENCE)
    look(page, "clusters-empty")
    page.goto(f"{server.url}/profile/tokens")
    page.get_by_label("Name").fill("tests")
    page.get_by_role("button", name="Make the token").click()
    server.token = page.locator("#secret").inner_text()
    look(page, "token")
    context.close()
    with server.api() as api:
        api(calls.create_user(UserCreate.model_validate({"username": "mia", "password": PASSWORD})))
    return server


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A tab in which no error of a script, or of the content policy, goes unseen."""
    made = context.new_page()
    problems: list[str] = []
    made.on("pageerror", lambda error: problems.append(str(error)))
    made.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
    yield made
    assert not problems


def look(page: Page, name: str) -> None:
    """Keep pictures: light, dark, and on a telephone."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    for scheme, width in (("light", 1280), ("dark", 1280), ("light", 400)):
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        page.set_viewport_size({"width": width, "height": 800})
        page.screenshot(path=ARTEFACTS / f"{name}-{scheme}-{width}.png", full_page=True, animations="disabled")
        wide = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        assert not wide, f"{name} is wider than a screen of {width}"
    page.emulate_media(color_scheme="light", reduced_motion="reduce")
    if size is not None:
        page.set_viewport_size(size)


def sign_in(page: Page, server: LiveServer, username: str = "ada") -> None:
    page.goto(f"{server.url}/sign-in")
    page.get_by_label("User name").fill(username)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/clusters")


def create(server: LiveServer, name: str) -> None:
    with server.api() as api:
        wish = ClusterCreate.model_validate({"name": name, "n_workers": 1, **SMALL})
        api(calls.create_cluster("ada", wish, reattach=False))


def violations(page: Page, *, only: str | None = None) -> list[dict[str, Any]]:
    """Return what axe finds serious, by all rules or *only* one; run by the debugger, which the content policy lets."""
    if page.evaluate("window.axe === undefined"):
        page.evaluate(AXE.read_text())
    # Of all that is right, of which there is much more, nobody needs to be told.
    wish = {"resultTypes": ["violations"]} | ({} if only is None else {"runOnly": [only]})
    found: list[dict[str, Any]] = page.evaluate(f"axe.run({json.dumps(wish)}).then(found => found.violations)")
    serious = [each for each in found if each["impact"] in ("serious", "critical")]
    return [{"id": each["id"], "where": [node["html"][:200] for node in each["nodes"][:3]]} for each in serious]


def test_a_cluster_appears_becomes_ready_and_is_stopped_without_a_reload(ready: LiveServer, page: Page) -> None:
    sign_in(page, ready)
    page.evaluate("window.loadedOnce = true")
    create(ready, "etl")
    row = page.get_by_role("row", name="etl")
    expect(row).to_be_visible(timeout=PATIENCE)
    expect(row.locator(".state")).to_have_text("ready", timeout=PATIENCE)
    expect(row).to_contain_text("1 of 1", timeout=PATIENCE)
    assert page.evaluate("window.loadedOnce"), "the page itself was never loaded again"
    look(page, "clusters")
    assert violations(page) == []
    row.get_by_role("link", name="etl", exact=True).click()
    expect(page.get_by_text("1 ready of 1")).to_be_visible()
    look(page, "cluster")
    assert violations(page) == []
    page.get_by_label("Workers", exact=True).fill("2")
    page.get_by_role("button", name="Scale").click()
    expect(page.get_by_text("2 ready of 2")).to_be_visible(timeout=PATIENCE)
    with page.expect_popup() as opened:
        page.get_by_role("button", name="Open the dashboard").click()
    opened.value.wait_for_url("**/status")
    opened.value.close()
    page.get_by_role("link", name="Stop etl").click()
    look(page, "stop")
    assert violations(page) == []
    page.get_by_role("button", name="Stop it").dblclick()
    expect(page.get_by_text("The cluster was asked to stop")).to_be_visible()
    expect(page.get_by_role("heading", name="No cluster runs")).to_be_visible(timeout=PATIENCE)
    assert "done=" not in page.url, "a reload does not say it again"


def test_the_table_follows_again_after_a_restart_of_the_server(ready: LiveServer, page: Page) -> None:
    sign_in(page, ready)
    ready.stop()
    expect(page.get_by_text("The server cannot be reached")).to_be_visible(timeout=PATIENCE)
    look(page, "server-lost")
    ready.start()
    expect(page.get_by_text("The server cannot be reached")).to_be_hidden(timeout=PATIENCE)
    create(ready, "after")
    expect(page.get_by_role("row", name="after")).to_be_visible(timeout=PATIENCE)
    with ready.api() as api:
        api(calls.stop_cluster("ada", "after"))
        wait_until(lambda: not api(calls.get_cluster("ada", "after")).state.live)
    expect(page.get_by_role("row", name="after")).to_have_count(0, timeout=PATIENCE)


@pytest.fixture(scope="module")
def busy(ready: LiveServer) -> LiveServer:
    """The server after a month of work: a thousand clusters that ended, a configuration, and prices."""
    with ready.api() as api:
        wish = {"n_workers": [2, 8], "worker_memory": "8 GiB", "idle_timeout": "1 hour", "tags": {"project": "apollo"}}
        api(calls.set_configuration("ada", "training", ConfigurationSet(spec=wish)))
    ended_clusters(ready.data, 1000)
    return ready


@pytest.mark.timeout(1200)  # two seconds a page, and five times that on a busy machine
def test_nothing_serious_keeps_people_from_using_any_page(busy: LiveServer, page: Page, tmp_path: Path) -> None:
    """Every page of the site, as an operator, in light and in dark."""
    app = create_app(Settings(data_dir=tmp_path / "never-opened"))
    with busy.api() as api:
        cluster = api(calls.list_clusters("ada", state="all", limit=1))[0].id
        api(calls.set_index_credentials("ada", "training", INDEX))
    build = software_environment(busy.data, "training")
    values = {"account": "ada", "cluster": cluster, "name": "training", "username": "mia", "build": build}
    sign_in(page, busy)
    wrong: dict[str, Any] = {}
    for path in pages(app, **{**PARAMETERS, **values}):
        page.emulate_media(color_scheme="light", reduced_motion="reduce")
        page.goto(busy.url + path)
        expect(page.locator("html")).to_have_attribute("data-bs-theme", "light")
        found = violations(page)
        page.emulate_media(color_scheme="dark", reduced_motion="reduce")
        expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
        if found := found + violations(page, only="color-contrast"):
            wrong[path] = found
        look(
            page, "page" + path.partition("?")[0].replace("/", "-").replace(cluster, "cluster").replace(build, "build")
        )
    assert wrong == {}


def test_an_environment_is_made_by_upload_watched_changed_compared_and_deleted(ready: LiveServer, page: Page) -> None:
    """With real builds, from the package index."""
    sign_in(page, ready)
    page.get_by_role("link", name="Environments", exact=True).click()
    page.get_by_role("link", name="New environment").click()
    file = b"dask[distributed]\nsix==1.16.0\n"
    upload = {"name": "requirements.txt", "mimeType": "text/plain", "buffer": file}
    page.get_by_label("requirements.txt or environment.yml").set_input_files(upload)  # type: ignore[arg-type] # as documented
    page.get_by_role("button", name="Read the file").click()
    expect(page.get_by_label("Packages from pip")).to_have_value("dask[distributed]\nsix==1.16.0")
    page.get_by_label("Name", exact=True).fill("etl")
    look(page, "environment-form")
    page.keyboard.press("Enter")
    page.wait_for_url("**/builds/*")
    expect(page.get_by_text("Version 1 is ready")).to_be_visible(timeout=BUILD)
    expect(page.locator("#lines").get_by_text("+ six==1.16.0")).to_be_attached()
    expect(page.get_by_text("The build is over: this is all.")).to_be_visible()
    look(page, "environment-build")
    page.get_by_role("link", name="See its packages").click()
    page.get_by_label("Packages that have").press_sequentially("six")
    expect(page.locator("#packages tbody tr")).to_have_count(1)
    look(page, "environment-packages")
    page.get_by_role("link", name="etl", exact=True).click()
    page.get_by_role("link", name="New version").click()
    page.get_by_label("Packages from pip").fill("dask[distributed]\nsix==99")
    page.get_by_role("button", name="Build it").last.click()
    expect(page.get_by_text("It could not be built")).to_be_visible(timeout=BUILD)
    expect(page.locator("#failed")).to_contain_text("there is no version of six==99")
    look(page, "environment-failed")
    page.get_by_role("link", name="Change it").click()
    expect(page.get_by_label("Packages from pip")).to_have_attribute("aria-invalid", "true")
    page.get_by_label("Packages from pip").fill("dask[distributed]\nsix==1.17.0\nidna")
    page.get_by_role("button", name="Build it").last.click()
    page.get_by_role("link", name="What changed").click(timeout=BUILD)
    expect(page.get_by_role("row", name="six 1.16.0 1.17.0")).to_be_visible()
    look(page, "environment-diff")
    page.get_by_role("link", name="etl", exact=True).click()
    look(page, "environment")
    page.get_by_role("link", name="Delete").click()
    page.get_by_role("button", name="Delete it").click()
    expect(page.get_by_text("It was deleted.")).to_be_visible()


def test_a_thousand_clusters_can_be_looked_through_on_a_slow_network(busy: LiveServer, page: Page) -> None:
    sign_in(page, busy)
    slow = {"offline": False, "latency": 300, "downloadThroughput": 60_000, "uploadThroughput": 30_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.goto(f"{busy.url}/accounts/ada/clusters?state=all&rows=1000")
    rows = page.locator("tbody tr")
    expect(rows).to_have_count(1000)
    page.get_by_label("Name has").fill("old-77")
    page.keyboard.press("Enter")
    expect(rows).to_have_count(11)
    assert "name=old-77" in page.url
    assert "rows=1000" in page.url
    rows.get_by_role("link", name="old-777", exact=True).click()
    expect(page.get_by_role("heading", name="old-777")).to_be_visible()
    page.go_back()
    expect(rows).to_have_count(11)
    expect(page.get_by_label("Name has")).to_have_value("old-77")


def test_usage_is_drawn_in_the_readers_zone_and_filtered(busy: LiveServer, chromium: Browser) -> None:
    context = new_context(chromium, timezone_id="Asia/Tokyo")
    page = context.new_page()
    dialogs: list[str] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog.message))
    sign_in(page, busy)
    page.get_by_role("link", name="Usage").click()
    expect(page.get_by_label("Time zone of days")).to_have_value("Asia/Tokyo")
    chart = page.get_by_role("img", name="Cost per day")
    expect(chart.locator("canvas")).to_be_visible()
    expect(chart.get_by_text("mia")).to_be_visible()
    page.get_by_label("By the tag").fill("project")
    page.get_by_label("Charts show each").select_option("tag")
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_role("heading", name="By the tag project")).to_be_visible()
    expect(chart.get_by_text("apollo")).to_be_visible()
    expect(page.get_by_role("rowheader", name="<img src=x onerror=alert(1)>")).to_be_visible()
    assert "zone=Asia%2FTokyo" in page.url
    look(page, "usage")
    with page.expect_download() as told:
        page.get_by_role("link", name="Download as CSV").click()
    assert "tag:project" in told.value.path().read_text()
    assert dialogs == []
    context.close()


def test_two_browsers_see_the_same_and_one_stops_by_keyboard_what_the_other_watches(
    busy: LiveServer, page: Page, chromium: Browser
) -> None:
    context = new_context(chromium)
    other = context.new_page()
    for each in (page, other):
        sign_in(each, busy)
    create(busy, "both")
    for each in (page, other):
        expect(each.get_by_role("row", name="both")).to_be_visible(timeout=PATIENCE)
    for _ in range(60):
        page.keyboard.press("Tab")
        if str(page.evaluate("document.activeElement.id")).startswith("stop-"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Stop both?")).to_be_visible()
    page.get_by_role("button", name="Stop it").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("The cluster was asked to stop")).to_be_visible()
    for each in (page, other):
        expect(each.get_by_role("row", name="both")).to_have_count(0, timeout=PATIENCE)
    page.go_back()
    page.get_by_role("button", name="Stop it").click()
    expect(page.get_by_text("The cluster was asked to stop")).to_be_visible()
    context.close()


def test_an_open_page_leads_to_the_sign_in_when_its_session_ends_and_back_again(busy: LiveServer, page: Page) -> None:
    sign_in(page, busy)
    page.goto(f"{busy.url}/accounts/ada/clusters?name=old")
    end_sessions(busy.data)
    page.wait_for_url("**/sign-in?next=*", timeout=PATIENCE)  # within the time of a comment on the quiet stream
    page.get_by_label("User name").fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/clusters?name=old")


def test_the_sign_in_page_is_fine_too_and_works_by_keyboard(ready: LiveServer, page: Page) -> None:
    page.goto(f"{ready.url}/profile")
    assert violations(page) == []
    look(page, "sign-in")
    page.keyboard.type("ada")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    page.wait_for_url("**/profile")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()


def test_times_are_in_the_readers_zone(ready: LiveServer, chromium: Browser) -> None:
    context = new_context(chromium, timezone_id="Asia/Kolkata", locale="en-GB")
    page = context.new_page()
    sign_in(page, ready)
    page.goto(f"{ready.url}/profile")
    moment = page.locator("time").first
    hour = json.loads(page.evaluate("JSON.stringify(new Date(document.querySelector('time').dateTime).getHours())"))
    assert f"{hour:02}:" in moment.inner_text()
    assert "UTC" in str(moment.get_attribute("title"))
    context.close()


def test_pages_can_be_read_and_used_without_scripts(ready: LiveServer, chromium: Browser) -> None:
    context = new_context(chromium, java_script_enabled=False)
    page = context.new_page()
    sign_in(page, ready)
    expect(page.get_by_role("heading", name="Clusters", exact=True)).to_be_visible()
    page.locator("summary").last.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out")).to_be_visible()
    context.close()


def test_a_stranger_gets_a_page_that_says_nothing(ready: LiveServer, page: Page) -> None:
    sign_in(page, ready, "mia")
    answer = page.goto(f"{ready.url}/accounts/ada/clusters")
    assert answer is not None
    assert answer.status == 404
    expect(page.get_by_role("heading", name="There is nothing here")).to_be_visible()
    assert violations(page) == []


def test_after_signing_out_the_back_button_shows_nothing(ready: LiveServer, page: Page) -> None:
    sign_in(page, ready)
    page.goto(f"{ready.url}/profile")
    page.locator("summary").last.click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Sign in to Ropewalk")).to_be_visible()


def test_dark_can_be_chosen_and_is_remembered(ready: LiveServer, page: Page) -> None:
    sign_in(page, ready)
    page.get_by_role("button", name="Switch between light and dark").click()
    page.goto(f"{ready.url}/profile")
    expect(page.locator("html")).to_have_attribute("data-bs-theme", "dark")
    expect(page.get_by_role("heading", name="Profile")).to_be_visible()
