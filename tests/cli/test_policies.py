"""``ropewalk cloud-account policy``: what to allow, printed without a server."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ropewalk.cli.main import app, main
from ropewalk.schemas.aws_permissions import Phase
from ropewalk.schemas.aws_policy import policy

COMMAND = ["cloud-account", "policy", "aws"]


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it asked a server")

    monkeypatch.setattr("ropewalk.cli.api.connect", fail)


def test_the_policy_of_everything_is_printed_as_it_goes_into_iam() -> None:
    result = CliRunner().invoke(app, COMMAND)
    assert json.loads(result.stdout) == policy()
    assert "managed policy" in result.stderr


def test_json_prints_nothing_else() -> None:
    result = CliRunner().invoke(app, [*COMMAND, "--json"])
    assert json.loads(result.output) == policy()


def test_phases_add_up() -> None:
    result = CliRunner().invoke(app, [*COMMAND, "--json", "--phase", "logs", "--phase", "images"])
    assert json.loads(result.output) == policy([Phase.LOGS, Phase.IMAGES])


def test_a_scoped_policy_may_be_of_one_region_and_account() -> None:
    arguments = ["--json", "--scoped", "--region", "eu-west-1", "--aws-account", "111122223333"]
    result = CliRunner().invoke(app, [*COMMAND, *arguments])
    assert json.loads(result.output) == policy(scoped=True, region="eu-west-1", account="111122223333")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--phase", "nap"], "nap"),
        (["--region", "eu-west-1"], "--scoped"),
        (["--aws-account", "1"], "--scoped"),
    ],
)
def test_what_makes_no_sense_is_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["ropewalk", *COMMAND, *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
