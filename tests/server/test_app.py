from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

import httpx
import pytest
import structlog
from fastapi import FastAPI, Query
from fastapi.responses import StreamingResponse
from pydantic import Field, SecretStr
from starlette.middleware import Middleware
from structlog.testing import capture_logs

from ropewalk.errors import RateLimitedError, SecretsError, TryAgainError, UnavailableError
from ropewalk.schemas.clusters import ClusterCreate
from ropewalk.schemas.common import ErrorBody, Schema
from ropewalk.server.api.errors import add_handlers
from ropewalk.server.api.middleware import MAX_BODY, BodyLimit, Requests
from ropewalk.server.app import create_app
from ropewalk.server.metrics import Metrics
from ropewalk.server.settings import Settings
from tests.support.api import Api


class Nested(Schema):
    size: int
    names: list[str] = Field(default_factory=list)


class Wish(Schema):
    nested: Nested
    password: SecretStr | None = None


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def client(metrics: Metrics) -> AsyncIterator[httpx.AsyncClient]:
    """The layers around routes that misbehave in every way."""
    layers = [Middleware(Requests, metrics=metrics, secure=False), Middleware(BodyLimit, limit=1000)]
    app = FastAPI(redirect_slashes=False, middleware=layers)
    add_handlers(app)

    @app.get("/things/{name}")
    async def thing(name: str, count: Annotated[int, Query(le=5)] = 1) -> dict[str, object]:
        structlog.contextvars.bind_contextvars(user="ada")
        return {"name": name, "count": count}

    @app.post("/wishes")
    async def wish(wish: Wish) -> dict[str, str]:
        return {"ok": "yes"}

    @app.post("/clusters")
    async def cluster(wish: ClusterCreate) -> dict[str, str]:
        return {"ok": "yes"}

    @app.get("/defect")
    async def defect() -> None:
        raise RuntimeError("the password is hunter2")

    @app.get("/half")
    async def half() -> StreamingResponse:
        async def parts() -> AsyncIterator[str]:
            yield "first"
            raise RuntimeError("hunter2")

        return StreamingResponse(parts())

    @app.get("/errors/{kind}")
    async def errors(kind: str) -> None:
        raise {
            "down": UnavailableError("The database is down."),
            "busy": TryAgainError("The cloud is busy.", delay=7.2),
            "often": RateLimitedError("Too often.", details={"retry_after": 30}),
            "key": SecretsError("The key is missing."),
        }[kind]

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as made:
        yield made


def error_of(response: httpx.Response) -> ErrorBody:
    assert set(response.json()) == {"error"}
    error = ErrorBody.model_validate(response.json()["error"])
    assert error.request_id == response.headers["X-Request-Id"]
    return error


async def test_every_answer_has_a_request_id_and_each_its_own(client: httpx.AsyncClient) -> None:
    ids = {(await client.get("/things/a")).headers["X-Request-Id"] for _ in range(3)}
    assert len(ids) == 3


async def test_a_sane_request_id_of_the_client_is_kept(client: httpx.AsyncClient) -> None:
    response = await client.get("/nowhere", headers={"X-Request-Id": "job-17.a_b"})
    assert error_of(response).request_id == "job-17.a_b"


@pytest.mark.parametrize("wrong", ["", "a" * 65, "two words", 'x"y', "é".encode()])
async def test_other_request_ids_are_replaced(client: httpx.AsyncClient, wrong: str | bytes) -> None:
    headers: dict[str, Any] = {"X-Request-Id": wrong}
    given = (await client.get("/things/a", headers=headers)).headers["X-Request-Id"]
    assert len(given) == 16
    assert given.isalnum()


@pytest.mark.parametrize("path", ["/things/a", "/nowhere", "/defect", "/errors/key"])
async def test_every_answer_has_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Strict-Transport-Security" not in headers
    assert "server" not in headers


async def test_404_and_405_have_the_errors_shape(client: httpx.AsyncClient) -> None:
    response = await client.get("/nowhere")
    assert (response.status_code, error_of(response).code) == (404, "not_found")
    response = await client.delete("/things/a")
    assert (response.status_code, error_of(response).code) == (405, "method_not_allowed")
    assert response.headers["Allow"] == "GET"
    assert (await client.get("/things/a/")).status_code == 404


async def test_a_defect_tells_the_request_id_and_nothing_else(client: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        response = await client.get("/defect")
    error = error_of(response)
    assert (response.status_code, error.code) == (500, "internal_error")
    assert str(error.request_id) in str(error.advice)
    assert "hunter2" not in response.text
    assert "Traceback" not in response.text
    (defect,) = [entry for entry in logs if entry["event"] == "request.defect"]
    assert defect["exc_info"]


async def test_a_defect_in_the_middle_of_an_answer_breaks_the_connection(client: httpx.AsyncClient) -> None:
    with pytest.raises(RuntimeError):
        await client.get("/half")


@pytest.mark.parametrize(
    ("kind", "status", "wait"), [("down", 503, "2"), ("busy", 503, "8"), ("often", 429, "30"), ("key", 500, None)]
)
async def test_errors_that_pass_say_when_to_try_again(
    client: httpx.AsyncClient, kind: str, status: int, wait: str | None
) -> None:
    response = await client.get(f"/errors/{kind}")
    assert (response.status_code, response.headers.get("Retry-After")) == (status, wait)
    error_of(response)


async def test_invalid_input_names_every_field_in_plain_words(client: httpx.AsyncClient) -> None:
    response = await client.post("/wishes", json={"nested": {"size": "big", "names": ["a", 3]}, "colour": "red"})
    error = error_of(response)
    assert (response.status_code, error.code, error.field) == (422, "invalid_input", "nested.size")
    problems = {p["field"]: p["message"] for p in error.details["problems"]}
    assert set(problems) == {"nested.size", "nested.names.1", "colour"}
    assert problems["colour"] == "is not a known field"
    assert all(field in error.message for field in problems)


async def test_a_missing_field_is_named(client: httpx.AsyncClient) -> None:
    error = error_of(await client.post("/wishes", json={"nested": {}}))
    assert (error.field, error.details["problems"][0]["message"]) == ("nested.size", "is missing")


async def test_values_of_the_input_are_not_echoed(client: httpx.AsyncClient) -> None:
    response = await client.post("/wishes", json={"nested": {"size": 1}, "password": ["hunter2"]})
    assert response.status_code == 422
    assert "hunter2" not in response.text


async def test_choices_of_a_union_are_told_as_one_problem(client: httpx.AsyncClient) -> None:
    error = error_of(await client.post("/clusters", json={"n_workers": "many"}))
    (problem,) = error.details["problems"]
    assert problem["field"] == "n_workers"
    assert " or " in problem["message"]


async def test_our_own_messages_arrive_as_they_were_written(client: httpx.AsyncClient) -> None:
    error = error_of(await client.post("/clusters", json={"name": "Not A Name", "worker_memory": "lots"}))
    assert "'Not A Name' is not a valid name" in error.message
    assert "'lots' is not a size" in error.message
    assert "Value error" not in error.message


async def test_a_query_parameter_is_named(client: httpx.AsyncClient) -> None:
    error = error_of(await client.get("/things/a?count=6"))
    assert error.field == "count"


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ({"content": b"{nope", "headers": {"Content-Type": "application/json"}}, "not JSON"),
        ({"content": b"\xff\xfe", "headers": {"Content-Type": "application/json"}}, ""),
        ({"content": b"[]", "headers": {"Content-Type": "application/json"}}, "must be a JSON object"),
        ({"content": b"a=b", "headers": {"Content-Type": "text/plain"}}, "sent as application/json"),
        ({}, "the body is missing"),
    ],
)
async def test_what_is_no_json_object_is_told(client: httpx.AsyncClient, sent: dict[str, Any], words: str) -> None:
    response = await client.post("/wishes", **sent)
    assert response.status_code in {400, 422}
    error = error_of(response)
    assert error.code == "invalid_input"
    assert words in error.message


async def test_only_the_first_problems_of_many_are_told(client: httpx.AsyncClient) -> None:
    error = error_of(await client.post("/wishes", json={f"field{n}": n for n in range(50)}))
    assert len(error.details["problems"]) == 10
    assert "and 41 more" in error.message


async def test_a_large_body_is_refused_before_and_while_it_is_read(client: httpx.AsyncClient) -> None:
    response = await client.post("/wishes", content=b"x" * 1001)
    assert (response.status_code, error_of(response).code) == (413, "too_large")

    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100_000:
            sent += 100
            yield b"x" * 100

    response = await client.post("/wishes", content=endless())
    assert (response.status_code, error_of(response).code) == (413, "too_large")
    assert MAX_BODY == 2**20


async def test_each_request_is_one_line_in_the_log(client: httpx.AsyncClient) -> None:
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        response = await client.get("/things/secret-name?token=hunter2")
    (line,) = [entry for entry in logs if entry["event"] == "request"]
    assert line["route"] == "/things/{name}"
    assert (line["method"], line["status"], line["user"]) == ("GET", 200, "ada")
    assert line["request_id"] == response.headers["X-Request-Id"]
    assert line["ms"] >= 0
    assert "hunter2" not in json.dumps(line)


async def test_what_one_request_binds_is_not_in_the_log_of_the_next(client: httpx.AsyncClient) -> None:
    await client.get("/things/a")
    with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as logs:
        await client.get("/nowhere")
    assert "user" not in logs[-1]


async def test_requests_are_counted_by_route_template(client: httpx.AsyncClient, metrics: Metrics) -> None:
    for path in ("/things/a", "/things/b", "/nowhere/1", "/nowhere/2"):
        await client.get(path)
    value = metrics.registry.get_sample_value
    things = {"method": "GET", "route": "/things/{name}", "status": "200"}
    assert value("ropewalk_http_requests_total", things) == 2
    assert value("ropewalk_http_requests_total", {"method": "GET", "route": "unmatched", "status": "404"}) == 2
    assert value("ropewalk_http_request_seconds_count", {"method": "GET", "route": "/things/{name}"}) == 2
    assert value("ropewalk_http_requests_in_progress") == 0


async def test_browsers_are_told_to_stay_with_https_where_users_come_by_it(settings: Settings) -> None:
    secure = settings.model_copy(update={"public_url": "https://dask.example.org"})
    app = create_app(secure)
    async with app.router.lifespan_context(app), Api(app) as api:
        assert "max-age" in (await api.client.get("/healthz")).headers["Strict-Transport-Security"]


async def test_the_description_of_the_api_tells_errors_and_how_to_authenticate(api: Api) -> None:
    described = (await api.client.get("/api/v1/openapi.json")).json()
    assert described["info"]["title"] == "Ropewalk"
    schemes = described["components"]["securitySchemes"].values()
    assert any(scheme["type"] == "http" and scheme["scheme"] == "bearer" for scheme in schemes)
    assert "HTTPValidationError" not in described["components"]["schemas"]
    tags = {tag["name"] for tag in described["tags"]}
    operations = [(path, one) for path, methods in described["paths"].items() for one in methods.values()]
    for path, operation in operations:
        assert "default" in operation["responses"], path
        assert set(operation["tags"]) <= tags, path
    ids = [operation["operationId"] for _, operation in operations]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
async def test_there_is_no_page_that_needs_a_cdn(api: Api, path: str) -> None:
    assert (await api.client.get(path)).status_code == 404


async def test_requests_at_the_same_time_keep_their_own_ids(client: httpx.AsyncClient) -> None:
    wanted = [f"id-{n}" for n in range(20)]
    answers = await asyncio.gather(*(client.get("/nowhere", headers={"X-Request-Id": one}) for one in wanted))
    assert [error_of(answer).request_id for answer in answers] == wanted
