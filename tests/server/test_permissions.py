"""Every route declares one permission; who may not see something learns nothing about it."""

from __future__ import annotations

import re
from typing import Any

import pytest

from ropewalk.errors import PermissionDeniedError
from ropewalk.schemas.identity import MemberRole
from ropewalk.server.api.deps import public, require
from ropewalk.server.identity.permissions import ROLE_PERMISSIONS, AccountCaller, Caller, Permission, Role, Scope
from tests.support.api import Api
from tests.support.routes import Declared, declared

PARAMETERS = {
    "name": "nothing",
    "username": "nobody",
    "cluster": "nothing",
    "node": "nothing",
    "token": "nothing",
    "tag": "nothing",
    "invitation": "nothing",
    "upload": "nothing",
    "build": "nothing",
    "number": "1",
    "sha256": "0" * 64,
    "filename": "x-1-py3-none-any.whl",
}
"""What stands for each path parameter but the account. A route with another one fails the tests until it is added."""


def account_routes(api: Api) -> list[Declared]:
    """Routes of the API; pages are asked the same in tests/server/web/test_page_permissions.py."""
    return [route for route in declared(api.app) if "{account}" in route.path and not route.page]


async def answer(client: Any, route: Declared, account: str) -> Any:
    return await client.request(route.method, route.url(account=account, **PARAMETERS))


# The table


def test_permissions_are_named_scope_resource_action() -> None:
    for permission in Permission:
        assert re.fullmatch(r"(public|self|account|installation):[a-z]+:[a-z_]+", permission.value)
        assert permission.name == permission.value.replace(":", "_").upper()


def test_each_role_has_all_that_the_one_below_it_has() -> None:
    below: frozenset[Permission] = frozenset()
    for role in (Role.ANONYMOUS, Role.USER, Role.MEMBER, Role.ADMIN, Role.OPERATOR):
        assert below < ROLE_PERMISSIONS[role]
        below = ROLE_PERMISSIONS[role]
    assert below == frozenset(Permission)


def test_roles_have_no_permission_outside_their_scope() -> None:
    assert {p.scope for p in ROLE_PERMISSIONS[Role.ANONYMOUS]} == {Scope.PUBLIC}
    assert {p.scope for p in ROLE_PERMISSIONS[Role.USER]} == {Scope.PUBLIC, Scope.SELF}
    assert Scope.INSTALLATION not in {p.scope for p in ROLE_PERMISSIONS[Role.ADMIN]}


def test_what_only_administrators_and_operators_may_is_what_we_decided() -> None:
    assert ROLE_PERMISSIONS[Role.ADMIN] - ROLE_PERMISSIONS[Role.MEMBER] == {
        Permission.ACCOUNT_MEMBERS_SET,
        Permission.ACCOUNT_MEMBERS_REMOVE,
        Permission.ACCOUNT_INVITATIONS_READ,
        Permission.ACCOUNT_INVITATIONS_CREATE,
        Permission.ACCOUNT_INVITATIONS_REVOKE,
        Permission.ACCOUNT_CLOUD_SET,
        Permission.ACCOUNT_CLOUD_FORGET,
        Permission.ACCOUNT_CLOUD_PREPARE,
        Permission.ACCOUNT_CLOUD_TEARDOWN,
        Permission.ACCOUNT_IMAGES_DELETE,
        Permission.ACCOUNT_ENVIRONMENTS_UPDATE_ANY,
        Permission.ACCOUNT_ENVIRONMENTS_DELETE_ANY,
        Permission.ACCOUNT_INDEXES_DELETE,
        Permission.ACCOUNT_CLUSTERS_SCALE_ANY,
        Permission.ACCOUNT_CLUSTERS_UPDATE_ANY,
        Permission.ACCOUNT_CLUSTERS_STOP_ANY,
    }
    only_operator = ROLE_PERMISSIONS[Role.OPERATOR] - ROLE_PERMISSIONS[Role.ADMIN]
    assert {p for p in only_operator if p.scope is Scope.ACCOUNT} == {Permission.ACCOUNT_LIMITS_SET}


def test_members_may_stop_their_own_clusters_and_administrators_all() -> None:
    stop_any = Permission.ACCOUNT_CLUSTERS_STOP_ANY
    member = AccountCaller("u-1", "ada", False, None, "a-1", "team", MemberRole.MEMBER)
    member.demand_own_or(stop_any, "u-1", "the cluster 'etl'")
    with pytest.raises(PermissionDeniedError, match="You did not create the cluster 'etl'"):
        member.demand_own_or(stop_any, "u-2", "the cluster 'etl'")
    AccountCaller("u-1", "ada", False, None, "a-1", "team", MemberRole.ADMIN).demand_own_or(stop_any, "u-2", "it")
    AccountCaller("u-1", "ada", True, None, "a-1", "team", None).demand_own_or(stop_any, "u-2", "it")


def test_a_caller_without_a_role_in_the_account_may_nothing_there() -> None:
    stranger = AccountCaller("u-1", "ada", False, None, "a-1", "team", None)
    assert not [p for p in Permission if p.scope is Scope.ACCOUNT and stranger.may(p)]


def test_a_refusal_says_what_is_missing_and_whom_to_ask() -> None:
    caller = Caller("u-1", "ada", operator=False)
    with pytest.raises(PermissionDeniedError) as caught:
        caller.demand(Permission.INSTALLATION_USERS_CREATE)
    assert "installation:users:create" in caught.value.message
    assert "an operator" in (caught.value.advice or "")


def test_open_and_guarded_routes_cannot_be_mixed_up() -> None:
    with pytest.raises(ValueError, match="public"):
        require(Permission.PUBLIC_LOGIN_CREATE)
    with pytest.raises(ValueError, match="require"):
        public(Permission.SELF_TOKENS_READ)


# The routes


async def test_every_route_declares_exactly_one_permission_of_the_right_scope(api: Api) -> None:
    routes = declared(api.app)
    assert len(routes) > 40, "the walk found too few routes to be right"
    wrong = [
        f"{route.method} {route.path}: {[str(p) for p in route.permissions]}"
        for route in routes
        if len(route.permissions) != 1
        or (route.permissions[0].scope is Scope.ACCOUNT) != ("{account}" in route.path)
        or route.path.startswith("/api/") != (not route.page)
    ]
    assert not wrong


async def test_the_open_routes_are_those_that_must_be(api: Api) -> None:
    assert {f"{route.method} {route.path}" for route in declared(api.app) if route.open} == {
        "GET /healthz",
        "GET /readyz",
        "GET /metrics",
        "GET /api/v1/openapi.json",
        "POST /api/v1/setup",
        "POST /api/v1/login",
        "POST /api/v1/device",
        "POST /api/v1/device/token",
        "POST /api/v1/invitations/join",
        "GET /",
        "GET /sign-in",
        "POST /sign-in",
        "GET /sign-in/sso",
        "GET /sign-in/sso/callback",
        "GET /join/{token}",
        "POST /join/{token}",
        "GET /setup",
        "POST /setup",
        "GET /static/{digest}/{name}",
    }


async def test_without_a_valid_token_every_guarded_route_answers_401(api: Api) -> None:
    await api.person("ada")
    forged = await api.connect("rwt_forged")
    wrong = []
    for route in declared(api.app):
        if route.open or route.page:
            continue
        for client in (api.client, forged):
            response = await answer(client, route, "ada")
            if response.status_code != 401 or response.json()["error"]["code"] != "not_authenticated":
                wrong.append(f"{route.method} {route.path}: {response.status_code}")
    assert not wrong


async def test_a_stranger_cannot_tell_an_account_from_one_that_does_not_exist(api: Api) -> None:
    await api.person("ada")
    eve = await api.person("eve")
    routes = account_routes(api)
    assert len(routes) > 15
    wrong = []
    for route in routes:
        hidden = await answer(eve.client, route, "ada")
        missing = await answer(eve.client, route, "nix")
        bodies = [response.json()["error"] | {"request_id": None} for response in (hidden, missing)]
        same = str(bodies[0]).replace("ada", "nix") == str(bodies[1])
        if hidden.status_code != 404 or missing.status_code != 404 or not same:
            wrong.append(f"{route.method} {route.path}: {hidden.status_code} {hidden.text} / {missing.status_code}")
    assert not wrong


async def test_members_reach_what_members_may_and_get_403_for_the_rest(api: Api) -> None:
    await api.person("boss")
    mia = await api.person("mia")
    await api.team("team", boss="admin", mia="member")
    wrong = []
    for route in account_routes(api):
        response = await answer(mia.client, route, "team")
        allowed = route.permissions[0] in ROLE_PERMISSIONS[Role.MEMBER]
        if (response.status_code == 403) is allowed:
            wrong.append(f"{route.method} {route.path}: {response.status_code}")
    assert not wrong


async def test_users_get_403_where_only_operators_may(api: Api) -> None:
    ada = await api.person("ada")
    everything = [route for route in declared(api.app) if route.permissions[0].scope is Scope.INSTALLATION]
    routes = [route for route in everything if not route.page]  # for pages, see tests/server/web/test_operator.py
    assert len(routes) >= 5
    for route in routes:
        response = await answer(ada.client, route, "ada")
        assert response.status_code == 403, f"{route.method} {route.path}: {response.status_code}"
        assert response.json()["error"]["details"] == {"permission": str(route.permissions[0])}


async def test_operators_see_every_account(api: Api) -> None:
    await api.person("ada")
    root = await api.operator()
    assert (await root.client.get("/api/v1/accounts/ada")).json()["role"] is None
    assert (await root.client.get("/api/v1/accounts/nix")).status_code == 404


async def test_the_error_for_an_unknown_account_lists_yours(api: Api) -> None:
    ada = await api.person("ada")
    await api.team("physics", ada="member")
    error = (await ada.client.get("/api/v1/accounts/chemistry")).json()["error"]
    assert error["message"] == "There is no account 'chemistry', or you are not a member of it."
    assert error["advice"] == "Your accounts: ada, physics."
    assert error["details"] == {"accounts": ["ada", "physics"]}


@pytest.mark.parametrize("slug", ["%00", "a" * 5000, "..%2F..", "ADA", "%F0%9F%A6%84", "'%20OR%201=1--"])
async def test_odd_account_names_are_simply_not_found(api: Api, slug: str) -> None:
    ada = await api.person("ada")
    response = await ada.client.get(f"/api/v1/accounts/{slug}/members")
    assert response.status_code == 404
    assert len(response.text) < 1000


async def test_permission_comes_before_validation(api: Api) -> None:
    """A stranger must not learn from "wrong field" what would have been right."""
    eve = await api.person("eve")
    await api.person("ada")
    response = await eve.client.put("/api/v1/accounts/ada/members/eve", json={"role": "emperor"})
    assert response.status_code == 404
