"""``ropewalk user|account|member|token|audit …``."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest
import yaml

from ropewalk.schemas.identity import (
    Invitation,
    InvitationCreated,
    Joined,
    Member,
    MemberRole,
    Token,
    TokenCreated,
)
from tests.cli.conftest import NOW, FakeServer, Run, account, event, user

PASSWORD = "correct horse battery"


def token(**changes: object) -> Token:
    values = {"id": "t1", "name": "ci", "created_at": NOW, "expires_at": None, "last_used_at": None, **changes}
    return Token.model_validate(values)


def member(name: str = "bob", role: MemberRole = MemberRole.MEMBER, limit: int | None = None) -> Member:
    return Member(username=name, role=role, core_limit=limit, cores_used=3, added_at=NOW)


# user


def test_users_are_listed(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/users", [user("ada", operator=True, email="a@example.org"), user("bob", disabled=True)])
    lines = run("user", "list").stdout.splitlines()
    assert lines[1].split()[:3] == ["ada", "yes", "no"]
    assert lines[2].split()[:3] == ["bob", "no", "yes"]
    assert [u["username"] for u in json.loads(run("user", "list", "--json").stdout)] == ["ada", "bob"]


def test_a_user_is_created_with_a_password_from_a_pipe(run: Run, server: FakeServer) -> None:
    server.answer("POST", "/users", user("bob"))
    result = run("user", "create", "bob", "--email", "b@example.org", "--password-stdin", stdin=f"{PASSWORD}\n")
    assert result.exit_code == 0
    assert server.bodies("POST", "/users") == [
        {"username": "bob", "email": "b@example.org", "operator": False, "password": PASSWORD}
    ]
    assert PASSWORD not in result.output


def test_a_user_is_created_with_a_password_from_the_environment(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWALK_NEW_PASSWORD", PASSWORD)
    server.answer("POST", "/users", user("bob", operator=True))
    assert run("user", "create", "bob", "--operator").exit_code == 0
    assert server.bodies("POST", "/users")[0]["operator"] is True


def test_a_person_types_the_new_password_twice(run: Run, server: FakeServer, person: None) -> None:
    server.answer("POST", "/users", user("bob"))
    assert run("user", "create", "bob", stdin=f"{PASSWORD}\n{PASSWORD}\n").exit_code == 0
    assert server.bodies("POST", "/users")[0]["password"] == PASSWORD


@pytest.mark.parametrize(
    ("arguments", "stdin"),
    [(["bob"], None), (["bob", "--password-stdin"], ""), (["bob", "--password-stdin"], "short\n"),
     (["Not A Name", "--password-stdin"], f"{PASSWORD}\n")],
)  # fmt: skip
def test_wrong_input_creates_no_user(run: Run, server: FakeServer, arguments: list[str], stdin: str | None) -> None:
    result = run("user", "create", *arguments, stdin=stdin)
    assert result.exit_code == 2
    assert "short" not in result.output.replace("should", "")
    assert not server.bodies("POST", "/users")


def test_a_user_is_changed_in_what_was_given_only(run: Run, server: FakeServer) -> None:
    server.answer("PATCH", "/users/bob", user("bob"))
    assert run("user", "update", "bob", "--no-operator", "--enable").exit_code == 0
    assert server.bodies("PATCH", "/users/bob") == [{"operator": False, "disabled": False}]


def test_changing_your_own_password_needs_the_present_one(
    run: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer("PATCH", "/users/ada", user())
    assert run("user", "update", "ada", "--password-stdin", stdin=f"{PASSWORD}\n").exit_code == 2
    monkeypatch.setenv("ROPEWALK_PASSWORD", "the present one")
    assert run("user", "update", "ada", "--password-stdin", stdin=f"{PASSWORD}\n").exit_code == 0
    assert server.bodies("PATCH", "/users/ada") == [{"current_password": "the present one", "password": PASSWORD}]


def test_an_update_without_changes_is_wrong_input(run: Run) -> None:
    assert run("user", "update", "bob").exit_code == 2


def test_disabling_a_user_needs_consent(run: Run, server: FakeServer) -> None:
    server.answer("PATCH", "/users/bob", user("bob", disabled=True))
    assert run("user", "disable", "bob").exit_code == 2
    assert run("user", "disable", "bob", "--yes").exit_code == 0
    assert server.bodies("PATCH", "/users/bob") == [{"disabled": True}]


# account


def test_accounts_are_listed(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts", [account(), account("weather", core_limit=64, cores_used=5)])
    lines = run("account", "list").stdout.splitlines()
    assert lines[1].split()[:5] == ["ada", "personal", "admin", "0", "none"]
    assert lines[2].split()[:5] == ["weather", "team", "admin", "5", "64"]


def test_operators_list_all_accounts(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts", [])
    run("account", "list", "--all")
    assert server.requests[-1].url.params["all"] == "true"


def test_the_default_account_is_shown(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada", account())
    assert json.loads(run("account", "show", "--json").stdout)["slug"] == "ada"
    assert "none" in run("account", "show").stdout


def test_a_team_account_is_created(run: Run, server: FakeServer) -> None:
    server.answer("POST", "/accounts", account("storms", core_limit=32))
    result = run("account", "create", "storms", "--core-limit", "32")
    assert server.bodies("POST", "/accounts") == [{"slug": "storms", "core_limit": 32}]
    assert "ropewalk member set --account storms" in result.stderr


@pytest.mark.parametrize(("option", "sent"), [(["--core-limit", "0"], 0), (["--no-core-limit"], None)])
def test_the_core_limit_is_set_and_taken_away(
    run: Run, server: FakeServer, option: list[str], sent: int | None
) -> None:
    server.answer("PATCH", "/accounts/weather", account("weather"))
    assert run("account", "update", "weather", *option).exit_code == 0
    assert server.bodies("PATCH", "/accounts/weather") == [{"core_limit": sent}]


@pytest.mark.parametrize("options", [[], ["--core-limit", "1", "--no-core-limit"], ["--core-limit", "-1"]])
def test_an_update_must_say_one_thing(run: Run, options: list[str]) -> None:
    assert run("account", "update", "weather", *options).exit_code == 2


def test_using_an_account_saves_it(run: Run, server: FakeServer, configuration: Path) -> None:
    server.answer("GET", "/accounts/weather", account("weather"))
    assert run("account", "use", "weather").exit_code == 0
    assert yaml.safe_load((configuration / "ropewalk.yaml").read_text()) == {"ropewalk": {"account": "weather"}}


def test_using_an_unknown_account_saves_nothing(run: Run, configuration: Path) -> None:
    assert run("account", "use", "wether").exit_code == 4
    assert not configuration.exists()


# member


def test_members_are_listed(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/weather/members", [member("ada", MemberRole.ADMIN), member(limit=8)])
    lines = run("member", "list", "--account", "weather").stdout.splitlines()
    assert lines[1].split()[:4] == ["ada", "admin", "3", "none"]
    assert lines[2].split()[:4] == ["bob", "member", "3", "8"]


def test_a_member_is_set(run: Run, server: FakeServer) -> None:
    server.answer("PUT", "/accounts/weather/members/bob", member(role=MemberRole.ADMIN, limit=8))
    result = run("member", "set", "bob", "--role", "admin", "--core-limit", "8", "--account", "weather")
    assert server.bodies("PUT", "/accounts/weather/members/bob") == [{"role": "admin", "core_limit": 8}]
    assert "bob is admin of weather, at most 8 cores" in result.stdout


def invitation(**changes: object) -> Invitation:
    values = {
        "id": "i-1",
        "note": "Marie",
        "role": MemberRole.MEMBER,
        "core_limit": None,
        "invited_by": "ada",
        "created_at": NOW,
        "expires_at": NOW + timedelta(days=7),
        **changes,
    }
    return Invitation.model_validate(values)


def test_the_link_of_an_invitation_is_alone_on_standard_output(run: Run, server: FakeServer) -> None:
    link = "https://ropewalk.test/join/rwi_x"
    made = InvitationCreated(**invitation().model_dump(), url=link)
    server.answer("POST", "/accounts/weather/invitations", made)
    result = run("member", "invite", "Marie", "--role", "admin", "--days", "3", "--account", "weather")
    assert result.stdout == f"{link}\n"
    assert "can join weather, once" in result.stderr
    assert server.bodies("POST", "/accounts/weather/invitations") == [
        {"role": "admin", "core_limit": None, "note": "Marie", "days": 3.0}
    ]
    assert run("member", "invite", "--days", "99").exit_code == 2


def test_invitations_are_listed_and_revoked_with_consent(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/accounts/ada/invitations", [invitation()])
    assert run("invitation", "list").stdout.splitlines()[1].split()[:3] == ["i-1", "Marie", "member"]
    server.answer("DELETE", "/accounts/ada/invitations/i-1", None)
    assert run("invitation", "revoke", "i-1").exit_code == 2
    assert run("invitation", "revoke", "i-1", "--yes").exit_code == 0


def test_an_invitation_is_accepted_by_its_link_which_is_on_no_command_line(run: Run, server: FakeServer) -> None:
    server.answer("POST", "/invitations/accept", Joined(account="weather"))
    result = run("invitation", "accept", "--link-stdin", stdin="https://ropewalk.test/join/rwi_x\n")
    assert result.exit_code == 0, result.stderr
    assert "You are a member of weather now" in result.stdout
    assert server.bodies("POST", "/invitations/accept") == [{"token": "rwi_x"}]


def test_a_role_that_does_not_exist_is_wrong_input(run: Run) -> None:
    assert run("member", "set", "bob", "--role", "king").exit_code == 2


def test_a_member_is_removed_with_consent(run: Run, server: FakeServer) -> None:
    server.answer("DELETE", "/accounts/ada/members/bob", None)
    assert run("member", "remove", "bob").exit_code == 2
    assert run("member", "remove", "bob", "--yes").exit_code == 0
    assert len(server.bodies("DELETE", "/accounts/ada/members/bob")) == 1


# token


def test_tokens_are_listed(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/tokens", [token(), token(name="old", expires_at=NOW + timedelta(days=3, seconds=9))])
    lines = run("token", "list").stdout.splitlines()
    assert "never" in lines[1]
    assert "in 3 d" in lines[2] or "in 2 d" in lines[2]


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ([], {"name": "ci"}),
        (["--days", "7"], {"name": "ci", "expires_in_days": 7.0}),
        (["--never-expires"], {"name": "ci", "expires_in_days": None}),
    ],
)
def test_a_token_is_alone_on_standard_output(
    run: Run, server: FakeServer, options: list[str], sent: dict[str, object]
) -> None:
    server.answer("POST", "/tokens", TokenCreated(**token().model_dump(), token="rw_made"))
    result = run("token", "create", "ci", *options)
    assert result.stdout == "rw_made\n"
    assert "not shown again" in result.stderr
    assert server.bodies("POST", "/tokens") == [sent]


def test_a_lifetime_that_cannot_be_is_wrong_input(run: Run) -> None:
    assert run("token", "create", "ci", "--days", "0").exit_code == 2


def test_a_token_is_revoked_with_consent(run: Run, server: FakeServer) -> None:
    server.answer("DELETE", "/tokens/ci", None)
    assert run("token", "revoke", "ci").exit_code == 2
    assert run("token", "revoke", "ci", "--yes").exit_code == 0
    assert len(server.bodies("DELETE", "/tokens/ci")) == 1


# audit


def test_the_audit_trail_is_shown(run: Run, server: FakeServer) -> None:
    server.answer("GET", "/audit", [event(7, "user.created", "A user was created.", cluster=None, actor="ada")])
    line = run("audit", "--limit", "5", "--after", "6").stdout.splitlines()[1]
    assert line.split()[4:] == ["ada", *["A", "user", "was", "created."]]
    assert dict(server.requests[-1].url.params) == {"after": "6", "limit": "5"}
    assert json.loads(run("audit", "--json").stdout)[0]["code"] == "user.created"
