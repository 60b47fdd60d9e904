"""Where clusters run: what the page offers, and going from one cloud account to another."""

from __future__ import annotations

import itertools

from sqlalchemy import select

from ropewalk.backends.memory import MemoryCloud
from ropewalk.server.db.models import Account
from tests.server.cloud_accounts.conftest import KEY, World
from tests.server.cloud_accounts.test_setting import KUBECONFIG
from tests.server.web.cloud.conftest import HOME, Page
from tests.support.pages import Visitor
from tests.support.waiting import eventually


def offer_kubernetes(world: World) -> None:
    context = world.api.context
    context.settings = context.settings.model_copy(update={"kubernetes_in_web": True})


async def test_at_first_clusters_run_on_the_hosted_one_and_aws_is_offered(page: Page) -> None:
    text = await page.open()
    assert "Hosted: on this server's own machines" in text
    assert "Set up AWS" in text
    assert 'aria-current="page">Cloud account' in page.html
    assert 'sse-connect="/accounts/ada/cloud-account/live"' in page.html


async def test_kubernetes_is_hidden_until_the_operator_offers_it(page: Page, world: World) -> None:
    assert "Kubernetes" not in await page.open()
    for path in ("/kubernetes", "/kubernetes/contexts"):
        method = "POST" if path.endswith("contexts") else "GET"
        answer = await page.visitor.client.request(method, f"{HOME}{path}")
        assert answer.status_code == 404
        assert "kubernetes_in_web" in answer.text
    offer_kubernetes(world)
    assert "Set up Kubernetes" in await page.open()
    assert "kubectl apply -f -" in await page.open("/kubernetes")


async def test_what_was_set_by_the_api_is_shown_and_can_be_left_also_where_kubernetes_is_hidden(
    page: Page, world: World
) -> None:
    assert (await world.set(page.person, kind="kubernetes", kubeconfig=KUBECONFIG)).status_code == 200
    text = await page.open()
    assert "https://k8s.example.org:6443" in text
    assert "Set by ada" in text
    assert "Change the kubeconfig" not in text
    await page.open("/use?kind=hosted")
    assert "New clusters run there from now on" in await page.submit("/use")
    assert "Use Kubernetes again" in page.visitor.text
    await page.open("/use?kind=kubernetes")
    await page.submit("/use")
    assert "k8s.example.org" in page.visitor.text


async def test_back_to_hosted_says_what_stays_and_the_former_one_is_still_looked_after(
    page: Page, world: World, aws: MemoryCloud
) -> None:
    shown = await world.prepared(page.person)
    assert "with its cost of $32.85 a month" in await page.open("/use?kind=hosted")
    text = await page.submit("/use")
    assert "Hosted: on this server's own machines" in text
    assert "AWS 111 : 3 resources" in text
    former = f"?id={shown['id']}"
    assert "About a former cloud account" in await page.open(former)
    assert "memory-nat" in page.visitor.text
    await page.open(f"/check{former}")
    await page.submit("/check")
    assert page.visitor.page.url.params["id"] == shown["id"]
    await page.open(f"/teardown{former}")
    await page.submit("/teardown", {"typed": "ada"})
    await eventually(lambda: not aws.estate)
    assert "Use AWS again" in await page.open()


async def test_using_again_what_the_cloud_no_longer_accepts_is_told_and_changes_nothing(
    page: Page, world: World, aws: MemoryCloud
) -> None:
    await world.set(page.person, credentials=KEY)
    await world.set(page.person, kind="hosted")
    await page.open("/use?kind=aws")
    assert aws.keys is not None
    aws.keys.pop(KEY["access_key_id"])
    assert "is not valid" in await page.submit("/use", status=422)
    assert (await world.show(page.person))["kind"] == "hosted"


async def test_members_see_everything_and_can_check_but_find_no_way_to_change_it(world: World) -> None:
    await world.admin("boss")
    await world.admin("mia")
    account = await world.api.team("team", boss="admin", mia="member")
    assert account
    mia = await Visitor.make(world.api, "mia")
    home = "/accounts/team/cloud-account"
    await mia.open(home)
    assert "Administrators of team can change it" in mia.text
    assert "Set up" not in mia.text
    await mia.submit(f"{home}/check")
    assert "It was checked just now" in mia.text
    csrf = mia.fields(f"{home}/check")["csrf"]
    for path in ("/use", "/aws/set", "/prepare", "/teardown", "/forget"):
        answer = await mia.client.post(f"{home}{path}", data={"csrf": csrf, "kind": "hosted", "typed": "team"})
        assert answer.status_code == 403, path
    for path in ("/use?kind=hosted", "/aws", "/aws/set", "/aws/policy.json", "/prepare", "/teardown", "/forget"):
        assert (await mia.client.get(f"{home}{path}")).status_code == 403, path


async def test_forms_of_others_change_nothing(page: Page, world: World) -> None:
    offer_kubernetes(world)
    await world.set(page.person, credentials=KEY)
    before = await world.show(page.person)
    paths = ("/use", "/aws/set", "/check", "/prepare", "/teardown", "/forget", "/kubernetes", "/kubernetes/contexts")
    for path, csrf in itertools.product(paths, ("", "x")):
        data = {"csrf": csrf, "kind": "hosted", "typed": "ada", "cost": "99"}
        assert (await page.visitor.client.post(f"{HOME}{path}", data=data)).status_code == 403, path
    assert await world.show(page.person) == before


async def test_whoever_follows_the_account_learns_of_another_cloud_account_too(page: Page, world: World) -> None:
    account_id = await _account_id(world)
    with world.api.context.wakeups.subscribe(f"clouds:{account_id}") as changed:
        for wish in ({"credentials": KEY}, {"kind": "hosted"}, {}):
            changed.clear()
            assert (await world.set(page.person, **wish)).status_code == 200
            assert changed.is_set(), wish
        for method, path in (("POST", "/check"), ("POST", "/teardown")):
            changed.clear()
            await world.ask(page.person, method, path)
            assert changed.is_set(), path
        await page.until("removed")
        changed.clear()
        await world.ask(page.person, "DELETE")
        assert changed.is_set()


async def _account_id(world: World) -> str:
    async with world.api.context.db.read() as session:
        return (await session.scalars(select(Account.id).where(Account.slug == "ada"))).one()
