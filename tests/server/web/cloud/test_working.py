"""Checking, preparing as it happens, mending, removing and forgetting, as one does it in a browser."""

from __future__ import annotations

import re

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.schemas.aws_permissions import BY_ACTION
from ropewalk.schemas.aws_policy import policy_of
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus
from tests.server.cloud_accounts.conftest import KEY, World
from tests.server.cloud_accounts.test_forgetting import cluster
from tests.server.web.cloud.conftest import HOME, Page, denied
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

# The report.


async def test_what_is_missing_is_shown_by_when_it_is_needed_with_the_policy_to_copy(
    page: Page, world: World, aws: MemoryCloud, clock: FakeClock
) -> None:
    await world.set(page.person, credentials=KEY)
    aws.report = denied(clock)
    await page.open()
    text = await page.submit("/check")
    assert "Clusters cannot run there yet" in text
    setup, _, teardown = text.partition("To remove what was made")
    assert "ec2:CreateVpc failed Denied. Without it: Ropewalk cannot make a VPC" in setup.partition("To check")[2]
    assert "ecr:DeleteRepository worth a look Denied. Without it: teardown leaves behind" in teardown
    assert "&lt;b&gt;somebody&lt;/b&gt;" in page.html
    missing = policy_of([BY_ACTION["ec2:CreateVpc"], BY_ACTION["ecr:DeleteRepository"]])
    assert (await page.visitor.client.get(f"{HOME}/check/policy.json")).json() == missing
    assert 'data-copy="policy"' in page.html
    assert "Go on: prepare" not in text
    aws.report = None
    text = await page.submit("/check")
    assert "Clusters can run there" in text
    assert "Go on: prepare" in text
    assert (await page.visitor.client.get(f"{HOME}/check/policy.json")).status_code == 404


async def test_a_setting_that_cannot_work_leads_to_its_field(
    page: Page, world: World, aws: MemoryCloud, clock: FakeClock
) -> None:
    await world.set(page.person, credentials=KEY)
    wrong = CheckItem(
        name="setting log_retention_days", status=CheckStatus.FAILED, message="31 days?", advice="Try `30` days."
    )
    aws.report = CheckReport(checked_at=clock.now(), items=[wrong])
    await page.open()
    await page.submit("/check")
    link = re.search(r'href="([^"]+)">Change that setting', page.html)
    assert link
    text = await page.open(link[1].removeprefix(HOME))
    assert page.marked() == ["log_retention_days"]
    assert "31 days? Try 30 days." in text


async def test_before_the_first_check_the_page_says_so(page: Page) -> None:
    assert "Nobody has checked yet" in await page.open("/check")


# Preparing.


async def test_what_it_costs_is_consented_to_before_it_is_made(page: Page, world: World) -> None:
    await world.set(page.person, credentials=KEY)
    text = await page.open("/prepare")
    assert "While no cluster runs $32.85" in text
    assert "Make it, for $32.85 a month" in text
    await page.submit("/prepare")
    assert page.visitor.page.url.path == HOME
    await page.until("ready")
    text = await page.open()
    for part in ("State ready", "Cost while idle $32.85 a month", "memory-nat", "Set by ada", "Signed in as arn:aws"):
        assert part in text
    assert "Everything that clusters need is there" in text


async def test_a_price_that_rose_meanwhile_is_asked_again(page: Page, world: World, aws: MemoryCloud) -> None:
    await world.set(page.person, credentials=KEY)
    await page.open("/prepare")
    aws.steps["nat"] = 50.0
    text = await page.submit("/prepare", status=409)
    assert "costs 50.00 USD a month" in text
    assert "Make it, for $50.00 a month" in text
    await page.submit("/prepare")
    await page.until("ready")


async def test_each_thing_is_shown_as_soon_as_it_is_made_to_all_who_look(
    page: Page, world: World, aws: MemoryCloud
) -> None:
    await world.set(page.person, credentials=KEY)
    aws.inject("prepare", TryAgainError("AWS is slow."), node="nat", times=1)
    await page.open("/prepare")
    await page.submit("/prepare")

    async def waits() -> bool:
        return "It is tried again by itself" in await page.open()

    await eventually(waits)
    assert "2 of 3 kinds of things are there" in page.visitor.text
    assert "AWS is slow. It is tried again in" in page.visitor.text
    assert 'max="3" value="2"' in page.html
    assert "There: Role A pretended role memory-role" in page.visitor.text
    assert "Not yet: Nat A pretended nat" in page.visitor.text
    assert page.html.count('aria-current="step"') == 1
    world.tick(60)
    await page.until("ready")
    assert "kinds of things" not in await page.open()


async def test_a_failure_says_why_leads_to_the_wrong_field_and_goes_on(
    page: Page, world: World, aws: MemoryCloud
) -> None:
    await world.set(page.person, credentials=KEY)
    error = FixItError("The addresses overlap.", advice="Choose others.", field="peering.0.cidr")
    aws.inject("prepare", error, node="role")
    await world.prepare(page.person)
    await page.until("attention")
    text = await page.open()
    assert "This needs you The addresses overlap. Choose others." in text
    link = re.search(r'id="mend" href="([^"]+)"', page.html)
    assert link
    text = await page.open(link[1].removeprefix(HOME).partition("#")[0])
    assert page.marked() == ["peering"]
    assert "The addresses overlap" in text
    await page.submit("/aws/set", {"region": "us-east-1", "vpc_cidr": "10.9.0.0/16"})
    await page.until("ready")


async def test_a_missing_right_is_mended_and_gone_on_with(page: Page, world: World, aws: MemoryCloud) -> None:
    await world.set(page.person, credentials=KEY)
    aws.inject("prepare", FixItError("The key may not use iam:CreateRole."), node="role")
    await world.prepare(page.person)
    await page.until("attention")
    text = await page.open()
    assert "The key may not use iam:CreateRole" in text
    assert "Go on" in text
    await page.open("/prepare")
    await page.submit("/prepare")
    await page.until("ready")


# Removing.


async def test_removing_asks_for_the_name_and_lists_what_goes(page: Page, world: World, aws: MemoryCloud) -> None:
    await world.prepared(page.person)
    text = await page.open("/teardown")
    assert "3 things go" in text
    assert "memory-network" in text
    text = await page.submit("/teardown", {"typed": "bob"}, status=422)
    assert page.marked() == ["typed"]
    assert "Nothing was done" in text
    aws.inject("teardown", TryAgainError("AWS is slow."), node="role", times=1)
    assert "Removing what was made" in await page.submit("/teardown", {"typed": "ada"})

    async def waits() -> bool:
        return "It is tried again by itself" in await page.open()

    await eventually(waits)
    assert "1 of 3 things are gone" in page.visitor.text
    assert "The nat memory-nat is gone" in page.visitor.text
    world.tick(60)
    await page.until("removed")
    assert "Everything that Ropewalk made is gone; the key is still stored" in await page.open()
    assert aws.estate == []


async def test_clusters_that_run_there_keep_it_from_being_removed_and_are_named(page: Page, world: World) -> None:
    await world.prepared(page.person)
    await cluster(page.person)
    await page.open("/teardown")
    text = await page.submit("/teardown", {"typed": "ada"}, status=409)
    assert "Clusters run there: etl. Stop it first: etl" in text
    assert 'href="/accounts/ada/clusters/etl"' in page.html
    assert "cluster etl" in await _refused(page)
    await page.person.client.delete("/api/v1/accounts/ada/clusters/etl")
    await cluster(page.person, "stopped")


async def _refused(page: Page) -> str:
    """Try to forget what holds something: the page has no form for that, but a former page may."""
    csrf = page.visitor.fields(f"{HOME}/teardown")["csrf"]
    answer = await page.visitor.client.post(f"{HOME}/forget", data={"csrf": csrf})
    assert answer.status_code == 409
    assert "still holds" in answer.text
    return answer.text


# Forgetting.


async def test_what_holds_nothing_is_forgotten(page: Page, world: World) -> None:
    await world.set(page.person, credentials=KEY)
    await page.open("/forget")
    text = await page.submit("/forget")
    assert "It was forgotten, with its credentials" in text
    assert "Hosted: on this server's own machines" in text
    assert "Set up AWS" in text


async def test_what_holds_something_is_abandoned_only_by_typing_the_name(
    page: Page, world: World, aws: MemoryCloud
) -> None:
    await world.prepared(page.person)
    text = await page.open("/forget")
    assert "It still holds something" in text
    assert "Nat memory-nat" in text
    text = await page.submit("/forget", {"typed": "bob"}, status=422)
    assert page.marked() == ["typed"]
    assert len((await world.show(page.person))["resources"]) == 3
    await page.submit("/forget", {"typed": "ada"})
    assert (await world.show(page.person))["kind"] == "hosted"
    assert len(aws.estate) == 3


async def test_the_operators_own_is_not_theirs_to_change(page: Page) -> None:
    await page.open("/use?kind=aws")
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.html)
    assert csrf
    for path in ("/prepare", "/teardown", "/forget"):
        answer = await page.visitor.client.post(f"{HOME}{path}", data={"csrf": csrf[1], "typed": "ada"})
        assert answer.status_code == 409, path
        assert "operator" in answer.text
        await page.open(path)
        assert page.visitor.page.url.path == HOME, "by the back button, after it was forgotten"
