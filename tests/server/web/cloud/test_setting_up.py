"""The guided set-up of AWS and Kubernetes: what it costs, the key, errors that mark the field; no secret in a page."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws_policy import policy
from ropewalk.server.db.models import CloudAccount
from tests.server.cloud_accounts.conftest import KEY, ROTATED, STRANGER, World, key
from tests.server.cloud_accounts.test_setting import KUBECONFIG
from tests.server.web.cloud.conftest import HOME, Page
from tests.server.web.cloud.test_choosing import offer_kubernetes
from tests.support.pages import Visitor

FORM = {"region": "eu-central-1", "network": "public", **KEY}


@pytest.fixture(autouse=True)
async def no_page_has_a_secret(page: Page) -> Any:
    """Look at every page that a test of this module gets."""
    seen: list[httpx.Response] = []

    async def keep(answer: httpx.Response) -> None:
        await answer.aread()
        seen.append(answer)

    page.visitor.client.event_hooks = {"response": [keep]}
    yield
    assert seen
    for answer in seen:
        assert "canary" not in answer.text + str(answer.headers), answer.url


# What it is, what it costs, what it may do.


async def test_prices_are_shown_before_anything_is_chosen_and_follow_the_region(page: Page) -> None:
    text = await page.open("/aws?region=eu-central-1")
    assert "Europe (Frankfurt) · eu-central-1 · $0.072" in text.replace("$0.0720", "$0.072")
    assert "Public subnets: $0.00 a month" in text
    assert "Private subnets: $41.61 a month" in text
    assert "While no cluster runs $0.00" in text
    assert "NAT gateway, through" not in text


async def test_what_costs_money_is_named_with_its_price(page: Page) -> None:
    text = await page.open("/aws?region=us-east-1&network=private")
    assert "A NAT gateway, through which nodes without public addresses reach the internet. $32.85" in text
    assert "While no cluster runs $36.50" in text
    assert "/aws/set?region=us-east-1&amp;network=private" in page.html


async def test_the_policy_to_copy_is_that_of_the_command_line(page: Page) -> None:
    await page.open("/aws?region=eu-west-1&scoped=yes")
    for query, wanted in (("", policy()), ("?scoped=yes&region=eu-west-1", policy(scoped=True, region="eu-west-1"))):
        answer = await page.visitor.client.get(f"{HOME}/aws/policy.json{query}")
        assert answer.json() == wanted
        assert "attachment" in answer.headers["Content-Disposition"]
    assert json.dumps(wanted, indent=2) in page.html.replace("&#34;", '"')
    assert 'data-copy="policy"' in page.html


async def test_a_region_without_prices_is_told_and_kept(page: Page) -> None:
    text = await page.open("/aws?region=me-south-1")
    assert "is not in the price list" in text
    await page.open("/aws/set?region=me-south-1")
    assert '<option value="me-south-1" selected>' in page.html


async def test_a_role_to_assume_comes_with_the_external_id_and_what_it_must_trust(page: Page, world: World) -> None:
    external_id = (await world.show(page.person))["external_id"]
    text = await page.open("/aws/set")
    assert external_id in text
    assert '"sts:ExternalId": "' + external_id in text
    await world.set(page.person, credentials=KEY)
    assert '"AWS": "arn:aws:iam::111:user/one"' in await page.open("/aws/set")


# The key.


async def test_a_key_is_stored_and_checked_and_shown_no_more(page: Page, world: World) -> None:
    await page.open("/aws/set?region=eu-central-1")
    text = await page.submit(
        "/aws/set", {**FORM, "vpc_cidr": "10.9.0.0/16", "log_retention_days": "7", "subnet_ids": ""}
    )
    assert "Clusters can run there" in text
    assert "Go on: prepare" in text
    shown = await world.show(page.person)
    assert (shown["kind"], shown["identity"]["owner"], shown["set_by"]) == ("aws", "111", "ada")
    facts = ("region", "vpc_cidr", "log_retention_days", "subnet_ids", "allow_ingress_from")
    assert [shown["settings"][name] for name in facts] == ["eu-central-1", "10.9.0.0/16", 7, [], []]
    text = await page.open()
    assert "arn:aws:iam::111:user/one" in text
    assert "The key may do all that is needed" in text
    assert "10.9.0.0/16" in await page.open("/aws/set") or 'value="10.9.0.0/16"' in page.html


WRONG = [
    (key("wrong"), "access_key_id", "AKIAWRONG00000000000 is not valid"),
    ({"access_key_id": "ASIATEMPORARY0000000"}, "access_key_id", "long-lived"),
    ({"access_key_id": KEY["secret_access_key"]}, "access_key_id", ""),
    ({"secret_access_key": "canary"}, "secret_access_key", ""),
    ({"secret_access_key": ""}, "secret_access_key", ""),
    ({"access_key_id": "", "secret_access_key": ""}, "access_key_id", "No credentials are stored"),
    ({"vpc_cidr": "canyon"}, "vpc_cidr", "For example: 10.77.0.0/16"),
    ({"log_retention_days": "many"}, "log_retention_days", "valid integer"),
    ({"peering": "vpc-1"}, "peering", "needs its addresses"),
    ({"peering": "vpc-1 nowhere"}, "peering", "not of that form"),
    ({"architecture": "Z80"}, "architecture", "not of that form"),
]
"""What is typed, which field that marks, and what is said."""


async def test_a_wrong_field_is_marked_and_nothing_but_the_secret_is_lost(page: Page, world: World) -> None:
    await page.open("/aws/set")
    for wrong, field, said in WRONG:
        typed = {**FORM, "image": "registry/<b>dask</b>", **wrong}
        text = await page.submit("/aws/set", typed, status=422)
        assert page.marked() == [field], wrong
        assert said in text
        assert 'value="registry/&lt;b&gt;dask&lt;/b&gt;"' in page.html
        assert '<option value="eu-central-1" selected>' in page.html
        assert "Type it again: it was not kept" in text
    assert (await world.show(page.person))["kind"] == "hosted"


async def test_an_outage_is_told_and_stores_nothing(page: Page, world: World, aws: MemoryCloud) -> None:
    await page.open("/aws/set")
    aws.inject("identity", TryAgainError("AWS is away."))
    assert "nothing was stored: AWS is away" in await page.submit("/aws/set", FORM, status=503)
    assert "Clusters can run there" in await page.submit("/aws/set", FORM), "the same form, once more"


async def test_a_wrong_secret_is_to_be_typed_here_and_not_at_a_command_line(page: Page, aws: MemoryCloud) -> None:
    await page.open("/aws/set")
    advice = "Set both again with `ropewalk cloud-account set aws`; check for characters lost when copying."
    aws.inject("identity", FixItError("The secret is another key's.", advice=advice, field="secret_access_key"))
    text = await page.submit("/aws/set", FORM, status=422)
    assert "The secret is another key's. Set both again here; check for characters" in text
    assert page.marked() == ["secret_access_key"]


async def test_a_key_is_rotated_with_the_settings_as_they_are(page: Page, world: World) -> None:
    await world.set(page.person, credentials=KEY, settings={"region": "eu-west-1", "repository": "mine"})
    text = await page.open("/aws/set")
    assert "Leave both empty to keep the one that is stored" in text
    assert 'value="mine"' in page.html
    await page.submit("/aws/set", {"region": "eu-west-1", "repository": "mine", **ROTATED})
    shown = await world.show(page.person)
    assert (shown["identity"]["name"], shown["settings"]["repository"]) == ("arn:aws:iam::111:user/two", "mine")
    await page.open("/aws/set")
    await page.submit(
        "/aws/set", {"region": "eu-west-1", "repository": "", "access_key_id": "", "secret_access_key": ""}
    )
    shown = await world.show(page.person)
    assert (shown["identity"]["name"], shown["settings"]["repository"]) == ("arn:aws:iam::111:user/two", None)


async def test_a_key_of_another_aws_account_is_refused_while_something_exists(page: Page, world: World) -> None:
    await world.prepared(page.person)
    await page.open("/aws/set")
    text = await page.submit("/aws/set", {"region": "us-east-1", **STRANGER}, status=409)
    assert "of 222, not of 111" in text
    assert page.marked() == ["access_key_id"]


async def test_a_form_that_is_sent_twice_is_done_once(page: Page, world: World, aws: MemoryCloud) -> None:
    await page.open("/aws/set")
    data = page.visitor.fields(f"{HOME}/aws/set") | FORM
    aws.inject("identity", delay=0.2, times=2)
    first = page.visitor.client.post(f"{HOME}/aws/set", data=data)
    second = page.visitor.client.post(f"{HOME}/aws/set", data=data)
    answers = await asyncio.gather(first, second)
    assert [answer.status_code for answer in answers] == [303, 303]
    async with world.api.context.db.read() as session:
        mine = select(func.count()).select_from(CloudAccount).where(CloudAccount.account_id.is_not(None))
        assert await session.scalar(mine) == 1
    events = await world.ask(page.person, "GET", "/events")
    assert [event["code"] for event in events].count("cloud_account.updated") == 1


async def test_after_the_end_of_a_session_the_form_comes_back_without_the_secret(page: Page, world: World) -> None:
    await page.open("/aws/set")
    data = page.visitor.fields(f"{HOME}/aws/set") | FORM | {"vpc_id": "vpc-1", "subnet_ids": "subnet-1\nsubnet-2"}
    page.visitor.client.cookies.clear()
    answer = await page.visitor.client.post(f"{HOME}/aws/set", data=data)
    assert answer.status_code == 303
    wanted = httpx.URL(answer.headers["Location"]).params["next"]
    assert data["csrf"] not in wanted
    again = await Visitor.make(world.api, "ada")
    await again.open(wanted)
    for part in (
        'value="vpc-1"',
        "subnet-1\nsubnet-2",
        f'value="{KEY["access_key_id"]}"',
        'value="eu-central-1" selected',
    ):
        assert part in again.page.text
    assert '<details class="fold card mb-3" open>' in again.page.text, "what is unusual is not hidden"
    assert "canary" not in again.page.text
    data["access_key_id"] = KEY["secret_access_key"]
    answer = await page.visitor.client.post(f"{HOME}/aws/set", data=data)
    assert "canary" not in httpx.URL(answer.headers["Location"]).params["next"], "in the wrong field, too"


# Kubernetes.


@pytest.fixture
def kubernetes(world: World) -> None:
    offer_kubernetes(world)


@pytest.mark.usefixtures("kubernetes")
async def test_a_kubeconfig_is_pasted_checked_and_kept(page: Page, world: World) -> None:
    await page.open("/kubernetes")
    text = await page.submit("/kubernetes", {"kubeconfig": KUBECONFIG, "reach": "gateway", "run_as_user": ""})
    assert "Clusters can run there" in text
    shown = await world.show(page.person)
    facts = ("namespace", "context", "reach", "run_as_user")
    assert [shown["settings"][name] for name in facts] == ["team", "one", "gateway", None]
    text = await page.open("/kubernetes")
    assert "keep the one that is stored, for team" in text
    assert "--namespace team" in text
    await page.submit("/kubernetes", {"image": "registry/dask", "service_annotations": "a/b=c"})
    shown = await world.show(page.person)
    assert (shown["settings"]["image"], shown["settings"]["namespace"]) == ("registry/dask", "team")
    assert shown["settings"]["service_annotations"] == {"a/b": "c"}


@pytest.mark.usefixtures("kubernetes")
async def test_an_uploaded_kubeconfig_shows_its_contexts_and_one_is_chosen(page: Page, world: World) -> None:
    await page.open("/kubernetes")
    data = page.visitor.fields(f"{HOME}/kubernetes")
    files = {"file": ("kubeconfig", KUBECONFIG.encode())}
    client = page.visitor.client
    part = await client.post(f"{HOME}/kubernetes/contexts", data=data, files=files)
    assert part.status_code == 200
    assert "<html" not in part.text
    assert '<option value="one" selected>one: namespace team at k8s.example.org</option>' in part.text
    assert '<option value="two">two: namespace other at k8s.example.org</option>' in part.text
    odd = await client.post(f"{HOME}/kubernetes/contexts", data=data, files={"file": ("x", b"canary: \xff")})
    assert "is not a text" in odd.text
    answer = await client.post(f"{HOME}/kubernetes", data={**data, "context": "two"}, files=files)
    assert answer.status_code == 303
    assert (await world.show(page.person))["settings"]["namespace"] == "other"


@pytest.mark.usefixtures("kubernetes")
async def test_a_kubeconfig_that_cannot_be_used_marks_the_field(page: Page, world: World) -> None:
    runs_a_program = KUBECONFIG.replace("token: canary", "exec: {command: canary}, token: canary")
    await page.open("/kubernetes")
    for typed, field in (
        ({"kubeconfig": runs_a_program}, "kubeconfig"),
        ({"kubeconfig": "canary"}, "kubeconfig"),
        ({"kubeconfig": KUBECONFIG, "context": "three"}, "context"),
        ({"kubeconfig": KUBECONFIG, "namespace": "No!"}, "namespace"),
        ({"kubeconfig": KUBECONFIG, "service_annotations": "odd"}, "service_annotations"),
        ({"kubeconfig": KUBECONFIG, "allow_ingress_from": "everybody"}, "allow_ingress_from"),
        ({}, "kubeconfig"),
    ):
        await page.submit("/kubernetes", {"image": "kept", **typed}, status=422)
        assert field in page.marked(), typed
        assert 'value="kept"' in page.html
    assert (await world.show(page.person))["kind"] == "hosted"
