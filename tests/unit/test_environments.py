"""Software environments without a server: what people write, hashes, locks, what uv says, what is installed here."""

from __future__ import annotations

import asyncio
import itertools
import json
import zipfile
from email.message import Message
from importlib.metadata import Distribution
from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from ropewalk.client.environment import making, wheels
from ropewalk.client.environment.reading import specification
from ropewalk.client.environment.snapshot import installed, snapshot
from ropewalk.errors import FixItError, InputError, ServerUnreachableError, TryAgainError
from ropewalk.schemas.environments import EnvironmentSpec, LocalWheel, Lock, LockedPackage, LogPart
from ropewalk.server.environments import files, resolve, uv
from ropewalk.server.environments.builder import BuildRequest, Credential, Target

HASH = "0" * 64

# Specifications


def test_the_hash_is_that_of_what_is_meant() -> None:
    one = EnvironmentSpec(pip=["dask==1", "six>=1"], python="3.12")
    assert one.hash == EnvironmentSpec(pip=["six>=1", "dask==1", "dask==1"], python="3.12", droppable=[]).hash
    others = [
        EnvironmentSpec(pip=["dask==1", "six>=2"], python="3.12"),
        EnvironmentSpec(pip=["dask==1", "six>=1"], python="3.13"),
        EnvironmentSpec(pip=["dask==1", "six>=1"], python="3.12", environ={"A": "1"}),
        EnvironmentSpec(pip=["dask==1", "six>=1"], python="3.12", post_build=["true"]),
        EnvironmentSpec(pip=["dask==1", "six>=1"], python="3.12", exact=True),
    ]
    assert len({each.hash for each in (one, *others)}) == 6


def test_the_order_of_commands_and_indexes_matters() -> None:
    commands = [EnvironmentSpec(pip=["dask"], post_build=order).hash for order in (["a", "b"], ["b", "a"])]
    urls = ["https://a.example", "https://b.example"]
    indexes = [EnvironmentSpec(pip=["dask"], extra_index_urls=order).hash for order in (urls, urls[::-1])]
    assert len({*commands, *indexes}) == 4


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "at least one of"),
        ({"pip": ["--pre"]}, "an option"),
        ({"pip": ["two words"]}, "not a requirement"),
        ({"pip": ["x @ https://me:secret@example.org/x.whl"]}, "user name or password"),
        ({"pip": ["dask"], "index_url": "https://me:secret@example.org"}, "user name or password"),
        ({"pip": ["dask"], "index_url": "file:///etc"}, "begins with https"),
        ({"pip": ["dask"], "python": "3"}, "no version of Python"),
        ({"pip": ["dask"], "environ": {"LD_PRELOAD": "x"}}, "environment variable"),
        ({"conda": {"channels": ["https://t:secret@example.org"], "dependencies": ["x"]}}, "user name or password"),
        ({"conda": {"channels": ["https://example.org/t/secret/ours"], "dependencies": ["x"]}}, "a token"),
        ({"conda": {"dependencies": ["https://t:secret@example.org/ours::x"]}}, "user name or password"),
    ],
)
def test_what_cannot_be_meant_is_refused(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        EnvironmentSpec.model_validate(fields)
    with pytest.raises(InputError) as caught:
        specification(**{name: value for name, value in fields.items() if name != "conda"} | {"pip": ["--what"]})  # type: ignore[arg-type] # wrong on purpose
    assert "secret" not in str(caught.value)


def test_files_that_people_have_are_read(tmp_path: Path) -> None:
    yml = tmp_path / "environment.yml"
    yml.write_text(
        "name: mine\nchannels: [conda-forge, nodefaults]\n"
        "dependencies: [python=3.12, pip, 'numpy>=2', {pip: [six, '--extra-index-url https://a.example/simple']}]\n"
    )
    spec = specification(conda=yml, pip=["rich"])
    assert (spec.python, spec.pip, spec.extra_index_urls) == ("3.12", ["six", "rich"], ["https://a.example/simple"])
    assert spec.conda is not None
    assert (spec.conda.channels, spec.conda.dependencies) == (["conda-forge"], ["numpy>=2"])
    requirements = tmp_path / "requirements.txt"
    requirements.write_text(
        "# ours\n-i https://b.example/simple\ndask==1 \\\n    --hash=sha256:00\nsix ; python_version > '3'  # why\n\n"
    )
    spec = specification(pip=requirements)
    assert (spec.index_url, spec.pip) == ("https://b.example/simple", ["dask==1", "six ; python_version > '3'"])
    with pytest.raises(InputError, match="--editable"):
        specification(pip=["--editable ."])
    with pytest.raises(InputError, match="cannot be read"):
        specification(conda=tmp_path / "nothing.yml")
    yml.write_text("name: x\ndependencies: [unclosed\n")
    with pytest.raises(InputError, match=r"is not YAML: in line 3, expected ',' or '\]'"):
        specification(conda=yml)
    with pytest.raises(InputError, match="the name of an image has no spaces"):
        specification(container="my image")
    with pytest.raises(InputError, match="no field 'pip'"):
        specification(conda={"pip": ["x"]})


def test_a_server_that_is_restarted_is_waited_for_and_the_log_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = itertools.count()
    monkeypatch.setattr(making, "time", SimpleNamespace(monotonic=lambda: next(now)))
    silent = ServerUnreachableError("No Ropewalk server answers at http://here: refused.")
    said: list[str] = []
    told: list[str] = []
    steps = making.followed("ada", "eb-1", said.append, told.append)
    assert next(steps).params["offset"] == 0
    assert steps.send(LogPart(offset=0, next=4, text="one\n", complete=False)).params["offset"] == 4
    for _ in range(5):
        assert steps.throw(silent).params["offset"] == 4, "what was said is not asked for again"
    with pytest.raises(StopIteration):
        steps.send(LogPart(offset=4, next=8, text="two\n", complete=True))
    assert said == ["one\n", "two\n"]
    (line,) = told
    assert line.startswith("No Ropewalk server answers at http://here: refused. Builds survive a restart")
    given_up = making.followed("ada", "eb-1", said.append, told.append)
    next(given_up)
    for _ in range(making.SILENT_CALLS):
        given_up.throw(silent)
    with pytest.raises(ServerUnreachableError):
        given_up.throw(silent)


# What uv says


def request(spec: EnvironmentSpec, wheel: Path | None = None) -> BuildRequest:
    target = Target("local", "ca", "a", "linux/amd64")
    return BuildRequest("eb", spec, target, wheels={} if wheel is None else {HASH: wheel})


def test_a_lock_names_just_the_files_that_were_resolved(tmp_path: Path) -> None:
    wheel = tmp_path / "own-2-py3-none-any.whl"
    text = (
        "Dask==2026.1 \\\n    --hash=sha256:bb \\\n    --hash=sha256:aa\n"
        f"own @ {wheel.as_uri()} \\\n    --hash=sha256:cc\n"
        "repo @ git+https://example.org/repo@abc\n"
    )
    packages = resolve.parse(text, {wheel.as_uri(): HASH})
    assert [(each.name, each.version) for each in packages] == [("dask", "2026.1"), ("own", "2"), ("repo", "")]
    lock = Lock(python="3.11", platform="linux/amd64", packages=packages)
    assert resolve.lock_lines(lock, request(EnvironmentSpec(pip=["dask"]), wheel)) == [
        "dask==2026.1 --hash=sha256:aa --hash=sha256:bb",
        f"own @ {wheel.as_uri()} --hash=sha256:{HASH}",
        "repo @ git+https://example.org/repo@abc",
    ]
    with pytest.raises(FixItError, match="no distributed"):
        resolve.check_usable(lock)
    turned = lock.model_copy(update={"packages": packages[::-1], "differences": []})
    assert turned.hash == lock.hash


@pytest.mark.parametrize(
    ("said", "kind", "message", "advice"),
    [
        (
            "error: No solution found\n  cause: Because six was not found in the package registry and you require six",
            FixItError,
            "Because six was not found in the package registry",
            "extra_index_urls",
        ),
        ("error: x\n  cause: No space left on device (os error 28)", TryAgainError, "disk is full", "frees space"),
        ("error: Request failed after 3 retries\n  cause: Failed to fetch", TryAgainError, "could not be reached", ""),
        ("error: Failed to fetch\n  cause: HTTP status client error (401 Unauthorized)", FixItError, "refused", "env"),
        ("error: x\n  cause: Because a==1 depends on b>=2 and b==1 is required", FixItError, "Because a==1", "Loosen"),
    ],
)
def test_the_error_is_the_resolvers_explanation_with_advice(
    said: str, kind: type[Exception], message: str, advice: str
) -> None:
    error = resolve.explain(uv.Done(1, "", f"Resolved 1 package in 3ms\n{said}"), "resolved")
    assert type(error) is kind
    assert message in error.message
    assert advice in (error.advice or "")


def test_credentials_go_to_their_index_only_and_by_the_environment() -> None:
    spec = EnvironmentSpec(
        pip=["dask"], index_url="https://a.example/simple", extra_index_urls=["https://a.example.evil/simple"]
    )
    known = [Credential("ours", "https://a.example", "me", "secret")]
    options, variables = uv.index_options(spec, known)
    assert "secret" not in " ".join(options)
    assert variables == {"UV_INDEX_ROPEWALK0_USERNAME": "me", "UV_INDEX_ROPEWALK0_PASSWORD": "secret"}
    assert "secret" not in repr(known)


def test_programs_that_build_see_nothing_of_the_servers_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROPEWALK_ENCRYPTION_KEY", "secret")
    monkeypatch.setenv("SSL_CERT_FILE", "/certs.pem")
    environ = uv.base_environ(tmp_path)
    assert "secret" not in environ.values()
    assert environ["SSL_CERT_FILE"] == "/certs.pem"


async def test_a_program_that_takes_too_long_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    limit, usual = asyncio.timeout(None), asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: limit if seconds == 1 else usual(seconds))

    def say(line: str) -> None:
        """Let the time be over once it has said something: on a busy machine its second may be over before."""
        said.append(line)
        limit.reschedule(asyncio.get_running_loop().time())

    command = ["/bin/sh", "-c", "echo here >&2; sleep 600 & wait"]
    with pytest.raises(FixItError, match="did not end within 1 seconds"):
        await uv.run(command, environ={"PATH": "/usr/bin:/bin"}, cwd=tmp_path, seconds=1, say=say)
    assert said == ["here"]


def test_a_log_has_an_end_and_is_cut_between_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_LOG", 60)
    log = files.LogFile(tmp_path / "log")
    assert log.append("grüße")
    assert not log.append("x" * 60)
    text, end = log.read(0, 3)
    assert (text, end) == ("gr", 2)
    rest, _ = log.read(end, 1000)
    assert rest.startswith("üße\n")
    assert "longer than is kept" in rest
    assert "xxx" not in rest


# What is installed here


class Fake(Distribution):
    def __init__(self, name: str, version: str, direct: object = None) -> None:
        self._name, self._version, self._direct = name, version, direct

    @property
    def metadata(self) -> Message:  # type: ignore[override] # all that is read of it
        message = Message()
        message["Name"], message["Version"] = self._name, self._version
        return message

    def read_text(self, filename: str) -> str | None:
        return json.dumps(self._direct) if filename == "direct_url.json" and self._direct else None

    def locate_file(self, path: object) -> Path:
        raise NotImplementedError


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    path = tmp_path / "own-2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("own.py", "")
    return path


def test_a_snapshot_says_all_packages_and_where_they_are_from(tmp_path: Path, wheel: Path) -> None:
    git = {"url": "https://me:secret@example.org/repo", "vcs_info": {"vcs": "git", "commit_id": "abc"}}
    found = installed(
        [
            Fake("Dask", "1"),
            Fake("dask", "2"),
            Fake("ropewalk", "9"),
            Fake("six", "1.17"),
            Fake("repo", "3", git),
            Fake("own", "2", {"url": wheel.as_uri(), "archive_info": {}}),
            Fake("lost", "1", {"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}}),
        ]
    )
    made = snapshot(found)
    assert made.spec.pip == ["dask==1", "lost==1", "repo @ git+https://example.org/repo@abc", "six==1.17"]
    assert [each.name for each in made.spec.wheels] == ["own"]
    assert list(made.wheels.values()) == [wheel]
    assert made.spec.droppable == ["lost", "repo", "six"]
    assert made.spec.exact
    assert made.name == snapshot(found).name


def test_only_code_leaves_the_machine(tmp_path: Path) -> None:
    kept = ["pyproject.toml", "own/__init__.py", "own/data.csv"]
    for name in (*kept, "own/big.bin", ".env", "key.pem", "build/x.py", "own/__pycache__/x.pyc", "notes/a/b.txt"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / wheels.IGNORE_FILE).write_text("# large\n*.bin\n/notes/\n")
    found = {path.relative_to(tmp_path).as_posix() for path in wheels.project_files(tmp_path)}
    assert found == {*kept, wheels.IGNORE_FILE}


def test_what_is_no_project_is_told_before_anything_is_sent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="neither a wheel nor the folder of a project"):
        wheels.Wheels().add(tmp_path)


def test_a_project_that_nothing_here_can_build_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Environments that uv makes have no pip."""
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'ours'\nversion = '1'\n")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheels, "find_uv", lambda: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"that needs uv or pip, and .* has no pip, nor is there a uv\. Install uv"):
        wheels.Wheels().add(tmp_path)


def test_a_wheel_says_what_is_in_it() -> None:
    wheel = LocalWheel(filename="My_Own.Code-1.2-py3-none-any.whl", sha256=HASH, size=1)
    assert (wheel.name, wheel.version) == ("my-own-code", "1.2")
    with pytest.raises(ValidationError, match="two of my-own-code"):
        EnvironmentSpec(wheels=[wheel, wheel])
    assert LockedPackage(name="a", version="1").manager == "pip"
