"""Configurations in the browser."""

from __future__ import annotations

import pytest

from ropewalk.server.clusters import configurations
from ropewalk.server.clusters.configurations import check_fields
from ropewalk.server.web.configuration_form import FIELDS, parse, typed
from tests.support.api import Api
from tests.support.pages import Visitor

PATH = "/accounts/ada/configurations"
NEW = "/accounts/ada/new-configuration"


async def opened(api: Api, path: str) -> Visitor:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open(path)
    return ada


async def test_one_is_made_changed_used_and_deleted(api: Api) -> None:
    ada = await opened(api, PATH)
    assert "There is none yet" in ada.text
    await ada.open(NEW)
    given = {"minimum": "2", "maximum": "8", "worker_memory": "6 GiB", "idle_timeout": "never", "tags": "a=<b>\nc=d"}
    await ada.submit(NEW, name="training", **given)
    assert "The configuration was saved" in ada.text
    for part in ("2 to 8", "6 GiB", "never", 'Cluster(configuration="training", account="ada")', "a=<b> c=d"):
        assert part in ada.text, part
    assert "<b>" not in ada.page.text
    page = await ada.open(f"{PATH}/training")
    assert 'id="maximum" name="maximum" value="8"' in page.text
    await ada.submit(f"{PATH}/training", minimum="3", worker_options='{"lifetime": "1 hour"}')
    stored = await (await api.connect((await api.operator()).token)).get("/api/v1/accounts/ada/configurations/training")
    assert stored.json()["spec"] == {"n_workers": 3, "worker_options": {"lifetime": "1 hour"}}, "as the form said"
    await ada.open(f"{PATH}/training/delete")
    await ada.submit(f"{PATH}/training/delete")
    assert "There is none yet" in ada.text
    assert (await ada.open(f"{PATH}/training")).status_code == 404


async def test_what_is_wrong_is_marked_and_the_rest_is_kept(api: Api) -> None:
    ada = await opened(api, NEW)
    for wrong, field in (
        ({"name": "No Name"}, "name"),
        ({"minimum": "many"}, "minimum"),
        ({"minimum": "8", "maximum": "2"}, "maximum"),
        ({"worker_memory": "lots"}, "worker_memory"),
        ({"worker_cpu": "1.5"}, "worker_cpu"),
        ({"idle_timeout": "soon"}, "idle_timeout"),
        ({"tags": "lonely"}, "tags"),
        ({"backend_options": "{"}, "backend_options"),
        ({"worker_options": "[]"}, "worker_options"),
        ({"spot_policy": "gift"}, "spot_policy"),
    ):
        page = await ada.submit(NEW, **{"name": "fine", "container": "kept:1", **wrong})
        assert page.status_code == 422, wrong
        before = page.text.split("aria-invalid")[0]
        assert before.rpartition('id="')[2].startswith(f'{field}"'), (wrong, before[-200:])
        assert 'value="kept:1"' in page.text


async def test_making_one_does_not_replace_another_by_accident(api: Api) -> None:
    ada = await opened(api, NEW)
    await ada.submit(NEW, name="one", minimum="1")
    await ada.open(NEW)
    page = await ada.submit(NEW, name="one", minimum="2")
    assert page.status_code == 409
    assert "There is a configuration &#39;one&#39; already" in page.text
    await ada.open(PATH)
    assert "Workers 1" in ada.text


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"n_workers": 3, "worker_cpu": 0.5, "worker_memory": 2**30 + 1, "scheduler_memory": 2**29},
        {"n_workers": [0, 9], "idle_timeout": 1200.0, "no_client_timeout": 45.5, "cluster_timeout": None},
        {"tags": {"a": "b=c"}, "backend_options": {"x": [1, {"y": None}]}, "spot_policy": "spot", "worker_gpu": 2},
    ],
)
def test_what_the_form_shows_is_what_it_stores(spec: dict[str, object]) -> None:

    stored = check_fields(spec)
    assert check_fields(parse(typed(stored))) == stored


def test_the_form_has_every_field_that_a_configuration_can_hold() -> None:

    names = {field.name for field in FIELDS} - {"minimum", "maximum"} | {"n_workers"}
    assert names == set(configurations.FIELDS)
