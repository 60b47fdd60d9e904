"""The HTTP client: what it sends, what it repeats, and what its errors say."""

from __future__ import annotations

import json
import logging
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import httpx
import pytest

from ropewalk.client import calls
from ropewalk.client.calls import Call
from ropewalk.client.exchange import USER_AGENT, RetryPolicy, check_server_url
from ropewalk.client.http import Api, AsyncApi
from ropewalk.errors import (
    AuthenticationError,
    InputError,
    InternalError,
    LimitExceededError,
    RateLimitedError,
    RopewalkError,
    ServerUnreachableError,
    SettingsError,
    UnavailableError,
    VersionMismatchError,
)
from ropewalk.schemas.clusters import ClusterCreate, ClusterScale
from ropewalk.schemas.identity import PasswordLogin, TokenCreate
from tests.support.client import ME, SERVER, TOKEN, cluster, event

STEADY = RetryPolicy(jitter=lambda: 0.5)


class Script:
    """Answers one request after the other; an exception is raised in place of an answer. The last one stays."""

    def __init__(self, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def api(self, server: str = SERVER, token: str | None = TOKEN) -> Api:
        return Api(server, token, retry=STEADY, transport=httpx.MockTransport(self), sleep=self.waits.append)

    def async_api(self) -> AsyncApi:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return AsyncApi(SERVER, TOKEN, retry=STEADY, transport=httpx.MockTransport(self), sleep=sleep)


def ok(body: object = ME) -> httpx.Response:
    return httpx.Response(200, json=body)


def refused(status: int, code: str, **fields: Any) -> httpx.Response:
    body = {"code": code, "message": "It is so.", "advice": None, "field": None, "details": {}, **fields}
    return httpx.Response(status, json={"error": body}, headers={"X-Request-Id": "r-1"})


def failure(script: Script, call: Call[Any] | None = None) -> RopewalkError:
    with script.api() as api, pytest.raises(RopewalkError) as caught:
        api(call or calls.me())
    assert TOKEN not in str(caught.value)
    return caught.value


# What is sent.


def test_a_call_goes_out_with_token_and_user_agent_and_comes_back_as_a_schema() -> None:
    script = Script(ok())
    with script.api("http://ropewalk.test/base/") as api:
        me = api(calls.me())
    assert me.default_account == "ada"
    request = script.requests[0]
    assert str(request.url) == "http://ropewalk.test/base/api/v1/me"
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["User-Agent"] == USER_AGENT


def test_only_fields_that_were_set_are_sent_so_that_templates_fill_in_the_rest() -> None:
    script = Script(ok(cluster()))
    with script.api() as api:
        api(calls.create_cluster("ada", ClusterCreate(name="mine", n_workers=(1, 3), idle_timeout=None)))
    assert json.loads(script.requests[0].content) == {"name": "mine", "n_workers": [1, 3], "idle_timeout": None}
    assert script.requests[0].url.params["reattach"] == "true"


def test_secrets_of_requests_are_sent_but_not_shown_and_login_needs_no_token() -> None:
    answer = {"id": "t", "name": "n", "created_at": "2026-01-02T03:04:05Z", "expires_at": None, "last_used_at": None}
    script = Script(ok({**answer, "token": "new"}))
    call = calls.password_login(PasswordLogin.model_validate({"username": "ada", "password": "hunter2-canary"}))
    with script.api() as api:
        assert api(call).token == "new"
    assert json.loads(script.requests[0].content)["password"] == "hunter2-canary"
    assert "Authorization" not in script.requests[0].headers
    assert "hunter2" not in repr(call)


def test_names_cannot_leave_their_part_of_the_path() -> None:
    script = Script(ok(cluster()))
    with script.api() as api:
        api(calls.get_cluster("ada", "../tokens?x=1"))
    assert script.requests[0].url.raw_path == b"/api/v1/accounts/ada/clusters/..%2Ftokens%3Fx%3D1"


def test_what_is_not_json_is_refused_before_it_is_sent() -> None:
    script = Script(ok())
    error = failure(script, calls.create_cluster("ada", ClusterCreate(worker_options={"x": object()})))
    assert isinstance(error, InputError)
    assert "cannot be written as JSON" in str(error)
    assert script.requests == []


def test_a_token_that_cannot_be_sent_is_not_quoted() -> None:
    with Script(ok()).api(token="tökën") as api, pytest.raises(SettingsError) as caught:
        api(calls.me())
    assert "tökën" not in str(caught.value)


def test_the_token_is_in_no_log_and_no_representation(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Script(ok()).api() as api:
        api(calls.me())
        assert TOKEN not in repr(api)
        assert TOKEN not in repr(api._client.headers)
    assert TOKEN not in repr(Script(ok()).async_api())
    assert TOKEN not in caplog.text


# What is repeated.


@pytest.mark.parametrize(
    "fault", [httpx.Response(503), httpx.Response(502), httpx.ConnectError("x"), httpx.ReadError("x")]
)
def test_a_repeatable_call_is_repeated_over_a_restart_of_the_server(fault: httpx.Response | Exception) -> None:
    script = Script(fault, fault, ok())
    with script.api() as api:
        assert api(calls.me()).user.username == "ada"
    assert script.waits == pytest.approx([0.2, 0.4])


def test_a_call_that_is_not_repeatable_is_made_once() -> None:
    script = Script(httpx.ReadError("x"))
    failure(script, calls.create_token(TokenCreate(name="x")))
    assert len(script.requests) == 1


@pytest.mark.parametrize(
    ("call", "repeatable"),
    [
        (calls.create_cluster("a", ClusterCreate(name="x")), True),
        (calls.create_cluster("a", ClusterCreate()), False),
        (calls.create_cluster("a", ClusterCreate(name="x"), reattach=False), False),
        (calls.scale_cluster("a", "x", ClusterScale(n_workers=2)), True),
        (calls.stop_cluster("a", "x"), True),
    ],
)
def test_which_calls_are_repeatable(call: Call[Any], repeatable: bool) -> None:
    assert call.repeatable is repeatable


def test_it_gives_up_after_four_attempts() -> None:
    script = Script(httpx.Response(503))
    assert isinstance(failure(script), UnavailableError)
    assert script.waits == pytest.approx([0.2, 0.4, 0.8])


def test_it_waits_as_long_as_the_server_asks() -> None:
    began = datetime.now(UTC)
    soon = format_datetime(began + timedelta(seconds=25), usegmt=True)
    script = Script(
        httpx.Response(429, headers={"Retry-After": "7"}), httpx.Response(503, headers={"Retry-After": soon}), ok()
    )
    with script.api() as api:
        api(calls.me())
    assert script.waits[0] == 7
    took = (datetime.now(UTC) - began).total_seconds()
    assert 24 - took <= script.waits[1] <= 25


def test_a_server_that_asks_to_wait_for_long_is_reported_at_once() -> None:
    limited = refused(429, "rate_limited")
    limited.headers["Retry-After"] = "3600"
    script = Script(limited)
    assert isinstance(failure(script), RateLimitedError)
    assert script.waits == []


def test_an_unreadable_retry_after_is_passed_over() -> None:
    script = Script(httpx.Response(503, headers={"Retry-After": "soon"}), ok())
    with script.api() as api:
        api(calls.me())
    assert script.waits == pytest.approx([0.2])


# What errors say.


def test_an_error_of_the_server_is_raised_as_its_class_with_everything_it_said() -> None:
    answer = refused(409, "limit_exceeded", advice="Ask.", field="n_workers", details={"limit": 4})
    error = failure(Script(answer))
    assert isinstance(error, LimitExceededError)
    assert (error.message, error.advice, error.field) == ("It is so.", "Ask.", "n_workers")
    assert error.details == {"limit": 4, "request_id": "r-1"}


@pytest.mark.parametrize("answer", [refused(401, "not_authenticated"), httpx.Response(401)])
def test_a_token_that_is_not_accepted_says_how_to_log_in(answer: httpx.Response) -> None:
    error = failure(Script(answer))
    assert isinstance(error, AuthenticationError)
    assert f"ropewalk login --server {SERVER}" in str(error)


def connect_error(text: str, cause: Exception | None = None) -> httpx.ConnectError:
    error = httpx.ConnectError(text)
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (connect_error("x", ConnectionRefusedError()), "nothing listens there"),
        (connect_error("[Errno -2] Name or service not known"), "not known to DNS"),
        (httpx.ConnectTimeout("x"), "no connection within 10 s"),
        (httpx.ReadTimeout("x"), "no answer within 30 s"),
        (httpx.RemoteProtocolError("Server disconnected"), "broke off (Server disconnected)"),
        (httpx.ProxyError("407 Proxy"), "the proxy said: 407 Proxy"),
        (connect_error("odd"), "odd"),
    ],
)
def test_an_unreachable_server_is_told_with_address_cause_and_what_to_check(fault: Exception, text: str) -> None:
    error = failure(Script(fault))
    assert isinstance(error, ServerUnreachableError)
    for part in (SERVER, text, "ropewalk server start", "DASK_ROPEWALK__SERVER"):
        assert part in str(error)


@pytest.mark.parametrize(
    ("reason", "advice"),
    [
        ("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate", "SSL_CERT_FILE"),
        ("[SSL: WRONG_VERSION_NUMBER] wrong version number", "http://"),
        ("[SSL: TLSV1_ALERT_PROTOCOL_VERSION] x", "Check the certificate"),
    ],
)
def test_a_tls_failure_says_what_to_do(reason: str, advice: str) -> None:
    error = failure(Script(connect_error(reason, ssl.SSLError(1, reason))))
    assert isinstance(error, ServerUnreachableError)
    assert "TLS" in str(error)
    assert advice in str(error)


def test_html_is_not_taken_for_a_ropewalk_server() -> None:
    error = failure(Script(httpx.Response(200, html="<html>Welcome to the hotel</html>")))
    assert isinstance(error, ServerUnreachableError)
    assert "is not a Ropewalk server (HTTP 200, text/html)" in str(error)


def test_a_plain_request_to_an_https_port_is_told() -> None:
    error = failure(Script(httpx.Response(400, html="The plain HTTP request was sent to HTTPS port")))
    assert "It expects https://" in str(error)


def test_a_redirect_is_not_followed_since_the_token_would_go_along() -> None:
    script = Script(httpx.Response(302, headers={"Location": "https://sso.example.com/?back=secret"}))
    error = failure(script)
    assert "https://sso.example.com" in str(error)
    assert "secret" not in str(error)
    assert len(script.requests) == 1


@pytest.mark.parametrize("status", [404, 405])
def test_a_server_that_does_not_know_the_call_is_of_another_version(status: int) -> None:
    error = failure(Script(httpx.Response(status, json={"detail": "Not Found"})))
    assert isinstance(error, VersionMismatchError)
    assert "GET /api/v1/me" in str(error)


def test_an_answer_that_lacks_something_is_of_another_version() -> None:
    error = failure(Script(ok({"user": {}})))
    assert isinstance(error, VersionMismatchError)
    assert "user.username" in str(error)


def test_fields_of_a_newer_server_are_passed_over() -> None:
    with Script(ok({**ME, "new_in_2030": 1})).api() as api:
        assert api(calls.me()).default_account == "ada"


def test_a_crash_of_the_server_without_our_error_body_is_told() -> None:
    assert isinstance(failure(Script(httpx.Response(500, json={"detail": "x"}))), InternalError)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "ropewalk.example.com",
        "ftp://x",
        "http://",
        "http://x:port",
        "http://[::1",
        "http://x?y",
        None,
        7,
        "http://x#y",
    ],
)
def test_what_is_not_an_address_is_refused(url: object) -> None:
    with pytest.raises(SettingsError, match="is not the address of a server"):
        check_server_url(url)


def test_an_address_with_a_password_is_refused_without_showing_it() -> None:
    with pytest.raises(SettingsError) as caught:
        check_server_url("https://ada:hunter2@example.com")
    assert "hunter2" not in str(caught.value)
    assert caught.value.field == "ropewalk.server"


def test_proxies_of_the_environment_are_not_used_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Script(ok()).api("http://localhost:8780")._client._trust_env is False
    assert Script(ok()).api("http://example.com")._client._trust_env is True


# The asynchronous client.


async def test_the_asynchronous_client_does_the_same_and_tells_status_and_attempts() -> None:
    script = Script(httpx.Response(503), httpx.ConnectError("x"), httpx.Response(201, json=cluster()))
    async with script.async_api() as api:
        full = await api.full(calls.create_cluster("ada", ClusterCreate(name="mine")))
    assert (full.answer.name, full.status, full.attempts) == ("mine", 201, 3)
    assert script.waits == pytest.approx([0.2, 0.4])


async def test_the_asynchronous_client_translates_errors() -> None:
    async with Script(httpx.ConnectError("x")).async_api() as api:
        with pytest.raises(ServerUnreachableError):
            await api(calls.me())


async def test_the_asynchronous_client_can_be_used_after_it_was_closed() -> None:
    api = Script(ok()).async_api()
    await api(calls.me())
    await api.aclose()
    assert (await api(calls.me())).default_account == "ada"
    await api.aclose()


# Several calls.


def _two_steps() -> Any:
    me = yield calls.me()
    try:
        yield calls.get_cluster(me.default_account, "none")
    except RopewalkError as exc:
        return f"{me.user.username}: {exc.code}"


def test_steps_are_driven_with_answers_and_errors() -> None:
    with Script(ok(), refused(404, "not_found")).api() as api:
        assert api.drive(_two_steps()) == "ada: not_found"


async def test_steps_are_driven_by_the_asynchronous_client_too() -> None:
    async with Script(ok(), refused(404, "not_found")).async_api() as api:
        assert await api.drive(_two_steps()) == "ada: not_found"


# Events.


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off after *parts*."""

    def __init__(self, *parts: str, error: Exception | None = None) -> None:
        self._parts = [part.encode() for part in parts]
        self._error = error

    def __iter__(self) -> Iterator[bytes]:
        yield from self._parts
        if self._error:
            raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self:
            yield part


def sse(number: int, **fields: Any) -> str:
    return f"id: {number}\nevent: node.ready\ndata: {json.dumps(event(number, **fields))}\n\n"


def stream(*parts: str, error: Exception | None = None) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, stream=Broken(*parts, error=error))


class Server:
    """Streams on the events route, a cluster's state elsewhere."""

    def __init__(self, streams: list[httpx.Response | Exception], states: list[str]) -> None:
        self.streams = Script(*streams)
        self.states = states
        self.waits: list[float] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/events"):
            return self.streams(request)
        return ok(cluster(self.states.pop(0) if len(self.states) > 1 else self.states[0]))

    def afters(self) -> list[str | None]:
        return [request.url.params.get("after") for request in self.streams.requests]

    def follow(self, **options: Any) -> list[int]:
        with Api(SERVER, TOKEN, retry=STEADY, transport=httpx.MockTransport(self), sleep=self.waits.append) as api:
            return [found.id for found in api.follow_events("ada", "c-1", **options)]

    async def follow_later(self) -> list[int]:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        async with AsyncApi(SERVER, TOKEN, retry=STEADY, transport=httpx.MockTransport(self), sleep=sleep) as api:
            return [found.id async for found in api.follow_events("ada", "c-1")]


def broken_streams() -> Server:
    broke = httpx.ReadError("gone")
    streams: list[httpx.Response | Exception] = [
        stream(sse(1), sse(2)[:9], sse(2)[9:], error=broke),
        httpx.ConnectError("restarting"),
        httpx.Response(503),
        stream(": still here\n\n" + sse(3)),
        stream(sse(4)),
    ]
    return Server(streams, ["ready", "stopped"])


def test_events_are_followed_over_broken_connections_from_the_last_one_seen() -> None:
    server = broken_streams()
    assert server.follow() == [1, 2, 3, 4]
    assert server.afters() == [None, "2", "2", "2", "3"]
    assert server.waits == pytest.approx([0.2, 0.4, 0.8, 0.2])


async def test_events_are_followed_asynchronously_too() -> None:
    server = broken_streams()
    assert await server.follow_later() == [1, 2, 3, 4]
    assert server.afters() == [None, "2", "2", "2", "3"]


def test_following_begins_after_what_was_seen_and_ends_with_the_cluster() -> None:
    server = Server([stream(sse(9))], ["stopped"])
    assert server.follow(after=8) == [9]
    assert server.afters() == ["8"]


def test_following_gives_up_after_a_minute_of_failures() -> None:
    server = Server([httpx.ConnectError("x")], ["ready"])
    with pytest.raises(ServerUnreachableError):
        server.follow()
    assert 60 <= sum(server.waits) < 66


def test_following_is_refused_like_any_call() -> None:
    with pytest.raises(AuthenticationError):
        Server([refused(401, "not_authenticated")], ["ready"]).follow()


@pytest.mark.parametrize("text", ["data: {\n\n", "data: {}\n\n"])
def test_an_event_that_cannot_be_read_is_of_another_version(text: str) -> None:
    server = Server([stream(text)], ["ready"])
    with pytest.raises(VersionMismatchError, match="an event cannot be read"):
        server.follow()


# Clock.


@pytest.mark.parametrize(("ahead", "expected"), [(0, 0), (90, 90), (-30, -30)])
def test_the_servers_clock_is_compared_with_ours(ahead: float, expected: float) -> None:
    began = datetime.now(UTC)
    date = format_datetime(began + timedelta(seconds=ahead), usegmt=True)
    with Script(httpx.Response(200, headers={"Date": date})).api() as api:
        skew = api.clock_skew()
    took = (datetime.now(UTC) - began).total_seconds()
    assert skew is not None
    assert expected - 1 - took <= skew <= expected + 1


def test_a_server_without_a_date_tells_no_time() -> None:
    with Script(httpx.Response(200)).api() as api:
        assert api.clock_skew() is None
