"""A team's cloud account in a real Chromium, on the double of AWS: from the first look to nothing being left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from ropewalk.client import calls
from ropewalk.client.http import Api
from ropewalk.schemas.aws import AwsCredentials
from ropewalk.schemas.identity import SetupRequest
from tests.browser.conftest import LiveServer, new_context
from tests.browser.test_pages import PASSWORD, PATIENCE, look, page, sign_in, violations
from tests.server.cloud_accounts.test_setting import KUBECONFIG
from tests.support.ministack import REGION, Double

__all__ = ["page"]

pytestmark = pytest.mark.timeout(600)  # a server, a browser and AWS's double, on a busy machine


LABELS = """button => {
    const label = button.querySelector("span");
    window.labels = [];
    new MutationObserver(() => window.labels.push(label.textContent)).observe(label, {childList: true});
}"""
"""Keeps what a button says: looking at it, one may come too late."""


@pytest.fixture
def server(tmp_path: Path, aws: Double) -> Iterator[LiveServer]:
    """A server on the double, whose operator ada has a password."""
    made = LiveServer(tmp_path)
    made.settings["ROPEWALK_AWS_ENDPOINT_URL"] = aws.endpoint
    try:
        made.start()
        code = (made.data / "setup-code").read_text().strip()
        with Api(made.url) as api:
            wish = SetupRequest.model_validate({"code": code, "username": "ada", "password": PASSWORD})
            made.token = api(calls.setup(wish)).token
        yield made
    finally:
        made.kill_everything()


def seen(page: Page, name: str) -> None:
    """Keep pictures, and find nothing serious that keeps people from using the page, light or dark."""
    for scheme in ("dark", "light"):
        # Without motion: colours are those of the scheme at once.
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light", reduced_motion="reduce")
        assert violations(page) == [], scheme
    look(page, f"cloud-{name}")


def copied(page: Page, button: str) -> Any:
    """Copy by a button, which says for a moment that it did; return what was copied."""
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    found = page.get_by_role("button", name=button)
    found.evaluate(LABELS)
    found.click()
    expect(page.locator("#said")).to_have_text("Copied")
    assert page.evaluate("window.labels")[0] == "Copied"
    return json.loads(page.evaluate("navigator.clipboard.readText()"))


def test_an_aws_account_is_set_up_prepared_torn_down_and_forgotten(
    server: LiveServer, aws: Double, page: Page, chromium: Browser
) -> None:
    sign_in(page, server)
    allowed = _explained(page)
    key = aws.make_user(allowed)
    _key(page, key)
    _rights(page, aws, allowed)
    _prepared(page, aws, _second(chromium, page, server))
    _removed(page)
    _offered_by_the_operator(server, page)


def _explained(page: Page) -> list[str]:
    """Read what AWS costs; return all actions of the policy that is copied there, but one."""
    page.get_by_role("link", name="Cloud account").click()
    expect(page.get_by_role("heading", name="Hosted")).to_be_visible()
    expect(page.get_by_text("Kubernetes")).to_have_count(0)
    seen(page, "hosted")

    page.get_by_role("link", name="Set up AWS").click()
    page.get_by_label("Private subnets").check()
    expect(page.locator("#monthly")).to_have_text("$36.50")
    page.get_by_label("Region").select_option(REGION)
    expect(page.locator("#monthly")).to_have_text("$41.61")
    seen(page, "explained")
    page.get_by_label("Public subnets").check()
    expect(page.locator("#monthly")).to_have_text("$0.00")
    policy = copied(page, "Copy the policy")
    (statement,) = policy["Statement"]
    return [action for action in statement["Action"] if action != "ec2:CreateVpc"]


def _key(page: Page, key: AwsCredentials) -> None:
    """Give the key, with a wrong secret first."""
    page.get_by_role("link", name="I have a key").click()
    page.get_by_label("Access key id").fill(key.access_key_id)
    page.get_by_label("Secret access key").fill("x" * 40)
    page.get_by_role("button", name="Store the key").click()
    secret = page.get_by_label("Secret access key")
    expect(secret).to_have_attribute("aria-invalid", "true", timeout=PATIENCE)
    expect(secret).to_have_value("")
    expect(page.get_by_label("Access key id")).to_have_value(key.access_key_id)
    seen(page, "key")
    secret.fill(key.secret_access_key.get_secret_value())
    page.get_by_role("button", name="Store the key").click()


def _rights(page: Page, aws: Double, allowed: list[str]) -> None:
    """See what is missing, give the policy that is copied there to the user, and check again."""
    expect(page.get_by_text("Clusters cannot run there yet")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("listitem").filter(has_text="ec2:CreateVpc")).to_contain_text("cannot make a VPC")
    seen(page, "rights")
    missing = copied(page, "Copy the policy")
    aws.set_policy([*allowed, *missing["Statement"][0]["Action"]])
    page.get_by_role("button", name="Check again").click()
    expect(page.get_by_role("heading", name="Clusters can run there")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Go on: prepare").click()
    seen(page, "consent")


def _prepared(page: Page, aws: Double, other: Page) -> None:
    """Prepare, with AWS in trouble for a while; two who look see the same, without a reload."""
    aws.inject("logs:CreateLogGroup", code="ServiceUnavailable", status=503, times=None)
    page.evaluate("window.loadedOnce = true")
    page.get_by_role("button", name="Make it").dblclick()
    page.wait_for_url("**/cloud-account*")
    page.evaluate("window.loadedOnce = true")
    for each in (page, other):
        expect(each.get_by_role("heading", name="It is tried again by itself")).to_be_visible(timeout=PATIENCE)
        expect(each.get_by_role("listitem").filter(has_text="VPC").first).to_contain_text("vpc-", timeout=PATIENCE)
    seen(page, "preparing")
    aws.heal()
    for each in (page, other):
        expect(each.locator(".state-ready")).to_be_visible(timeout=PATIENCE)
        expect(each.get_by_role("row", name="VPC")).to_contain_text("vpc-")
        assert each.evaluate("window.loadedOnce"), "the page itself was never loaded again"
    other.context.close()
    seen(page, "ready")


def _removed(page: Page) -> None:
    """Remove everything and forget the key; the way back does not lead to a page about what is gone."""
    page.get_by_role("link", name="Remove what was made").click()
    seen(page, "teardown")
    page.get_by_label("type the account's name").fill("ada")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Everything that Ropewalk made is gone; the key")).to_be_visible(timeout=PATIENCE)
    page.get_by_role("link", name="Forget it").click()
    seen(page, "forget")
    page.get_by_role("button", name="Forget it").click()
    expect(page.get_by_role("heading", name="Hosted")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Hosted")).to_be_visible(timeout=PATIENCE)
    expect(page.get_by_role("button", name="Forget it")).to_have_count(0)


def _second(chromium: Browser, page: Page, server: LiveServer) -> Page:
    """Return the same person in another browser, who looks at the cloud account."""
    other = new_context(chromium, storage_state=page.context.storage_state()).new_page()
    other.goto(f"{server.url}/accounts/ada/cloud-account")
    expect(other.get_by_role("heading", name="What to do")).to_be_visible(timeout=PATIENCE)
    other.evaluate("window.loadedOnce = true")
    return other


def _offered_by_the_operator(server: LiveServer, page: Page) -> None:
    """Kubernetes is there once the operator says so; an uploaded kubeconfig shows its contexts."""
    server.stop()
    server.settings["ROPEWALK_KUBERNETES_IN_WEB"] = "true"
    server.start()
    page.goto(f"{server.url}/accounts/ada/cloud-account")
    page.get_by_role("link", name="Set up Kubernetes").click()
    page.get_by_label("File").set_input_files(
        {"name": "kubeconfig", "mimeType": "application/yaml", "buffer": KUBECONFIG.encode()}
    )
    context = page.get_by_role("combobox", name="Context")
    expect(context).to_have_value("one", timeout=PATIENCE)
    context.select_option("two")
    seen(page, "kubernetes")
