"""The page of one cluster."""

from __future__ import annotations

import pytest

from ropewalk.server.events import EventCode, record
from ropewalk.server.web.cluster import EVENTS
from tests.server.web.test_clusters import create
from tests.support.api import Api
from tests.support.pages import Visitor
from tests.support.waiting import eventually


async def opened(api: Api) -> tuple[Visitor, str]:
    """Return ada on the page of her cluster, and its address."""
    path = f"/accounts/ada/clusters/{await create(await api.person('ada'), 'etl')}"
    ada = await Visitor.make(api, "ada")
    await ada.open(path)
    return ada, path


async def test_it_shows_state_events_cost_and_the_code_to_connect(api: Api) -> None:
    ada, path = await opened(api)
    for part in ("etl", "ada asked for etl with 1 workers", "per hour now", 'Cluster(name="etl", account="ada")'):
        assert part in ada.text
    assert f'sse-connect="{path}/live"' in ada.page.text
    assert "http://c-" in ada.page.headers["Content-Security-Policy"], "the form may lead to the dashboard's origin"


async def test_it_is_found_by_name_too_and_an_unknown_one_is_a_404_page(api: Api) -> None:
    ada, _ = await opened(api)
    assert (await ada.open("/accounts/ada/clusters/etl")).status_code == 200
    page = await ada.open("/accounts/ada/clusters/nix")
    assert page.status_code == 404
    assert "has no cluster" in ada.text


@pytest.mark.parametrize(("workers", "maximum", "shown"), [("3", "", "ready of 3"), ("2", "5", "ready of 2 to 5")])
async def test_it_is_scaled(api: Api, workers: str, maximum: str, shown: str) -> None:
    ada, path = await opened(api)
    await ada.submit(f"{path}/scale", workers=workers, maximum=maximum)
    assert "The new number of workers was written down" in ada.text
    assert shown in ada.text


@pytest.mark.parametrize(("workers", "maximum"), [("many", ""), ("5", "2"), ("", ""), ("", "4"), ("-1", "")])
async def test_a_size_that_is_none_is_told_and_changes_nothing(api: Api, workers: str, maximum: str) -> None:
    ada, path = await opened(api)
    page = await ada.submit(f"{path}/scale", workers=workers, maximum=maximum)
    assert page.status_code == 422
    assert "Give whole numbers" in ada.text
    assert "ready of 1" in ada.text


async def test_the_button_leads_to_the_dashboards_own_origin_with_a_ticket(api: Api) -> None:
    ada, path = await opened(api)
    form = ada.fields(f"{path}/dashboard")

    async def ticket() -> str | None:
        answer = await ada.client.post(f"{path}/dashboard", data=form)
        return answer.headers["Location"] if answer.status_code == 303 else None

    address = await eventually(ticket)
    assert address is not None
    assert address.startswith(f"http://{path.rpartition('/')[2]}.localhost")
    assert "ticket=" in address


async def test_of_many_events_the_newest_are_shown_and_the_earlier_are_a_link_away(api: Api) -> None:
    ada, path = await opened(api)
    now = api.context.clock.now()
    async with api.context.db.transaction() as session:
        for number in range(EVENTS + 5):
            what = f"number {number} happened."
            record(session, now, EventCode.CLUSTER_SCALED, what, cluster_id=path.rpartition("/")[2])
            await session.flush()
    await ada.open(path)
    assert f"number {EVENTS + 4} happened" in ada.text
    assert "number 4 happened" not in ada.text
    earlier = ada.page.text.partition("Earlier events")[0].rpartition('href="')[2].partition('"')[0]
    await ada.open(earlier.partition("#")[0])
    assert "number 4 happened" in ada.text
    assert "ada asked for etl" in ada.text
    assert "Earlier events" not in ada.text
    assert "sse-connect" not in ada.page.text, "what is past does not change"


async def test_a_dashboards_page_leads_to_the_cluster_and_a_stranger_nowhere(api: Api) -> None:
    ada, path = await opened(api)
    cluster = path.rpartition("/")[2]
    assert (await ada.open(f"/clusters/{cluster}")).url.path == path
    await api.person("eve")
    eve = await Visitor.make(api, "eve")
    assert (await eve.open(f"/clusters/{cluster}")).status_code == 404
    host = f"{cluster}.{api.context.settings.dashboard_domain}"
    expired = await ada.client.get("/status", headers={"Host": host})
    assert expired.status_code == 401
    assert f'href="{api.context.settings.public_url}/clusters/{cluster}"' in expired.text


@pytest.mark.parametrize("change", ["scale", "dashboard"])
async def test_a_forged_form_is_refused(api: Api, change: str) -> None:
    ada, path = await opened(api)
    answer = await ada.client.post(f"{path}/{change}", data={"csrf": "x", "workers": "9"})
    assert answer.status_code == 403
