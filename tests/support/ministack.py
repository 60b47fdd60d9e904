"""The double of AWS, seen from a test: start it, make users of it, inject faults, read what was called.

``python -m tests.support.ministack`` makes the virtual environment that it runs in (once; ``scripts/test`` does).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ropewalk.schemas.aws import AwsCredentials
from tests.support import venvs
from tests.support.engine import NETWORK, Engine
from tests.support.waiting import PATIENCE

REQUIREMENTS = Path(__file__).parent / "aws_double" / "requirements.txt"

ACCOUNT = "111122223333"
OTHER_ACCOUNT = "444455556666"
REGION = "eu-central-1"


class NoDoubleError(Exception):
    """The double cannot be had here; says why."""


@dataclass
class Double:
    """A running double of AWS."""

    endpoint: str
    process: subprocess.Popen[bytes]
    log: Path
    _clients: dict[tuple[str, str, str], Any] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Talk to ``/_double/…`` (``aws_double/control.py``)."""
        request = urllib.request.Request(
            f"{self.endpoint}/_double/{path}", json.dumps(body or {}).encode(), method=method
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as exc:
            with exc:
                raise AssertionError(f"the double refused {method} {path}: {exc.read().decode()}") from None

    def reset(self) -> None:
        """Forget everything."""
        self.ask("POST", "reset")

    def set(self, **settings: Any) -> None:
        """Change settings: ``aws_double/control.py`` lists them."""
        self.ask("POST", "settings", settings)

    def inject(self, action: str, kind: str = "error", **facts: Any) -> None:
        """Inject a fault into calls of *action* (``ecs:RunTask``, ``ec2:*``): see ``Fault`` in ``control.py``."""
        self.ask("POST", "faults", {"action": action, "kind": kind, **facts})

    def heal(self) -> None:
        """Inject no more faults."""
        self.ask("DELETE", "faults")

    def faults(self) -> list[dict[str, Any]]:
        """Return the injected faults; ``used`` says how often each hit."""
        found: list[dict[str, Any]] = self.ask("GET", "faults")
        return found

    def calls(self) -> dict[str, int]:
        """Return how often each action was called since the last :meth:`count_anew`."""
        count: dict[str, int] = self.ask("GET", "calls")["count"]
        return count

    def outcomes(self) -> list[tuple[str, str]]:
        """Return action and outcome (``ok``, ``throttled``, an error code, the kind of a fault) of each call."""
        return [(action, outcome) for _, action, outcome, _ in self.ask("GET", "calls")["log"]]

    def count_anew(self) -> None:
        """Forget the calls so far."""
        self.ask("DELETE", "calls")

    def end_task(self, task: str, **facts: Any) -> None:
        """End a task from outside: ``stopCode``, ``stoppedReason``, ``exitCode``."""
        self.ask("POST", "tasks", {"task": task, **facts})

    def client(self, service: str, region: str = REGION, account: str = ACCOUNT) -> Any:
        """Return a botocore client with all rights in an account, for a test's own look at it."""
        return self._client(service, region, account, "any")

    def client_of(self, credentials: AwsCredentials, service: str, region: str = REGION) -> Any:
        """Return a botocore client of a user."""
        secret = credentials.secret_access_key.get_secret_value()
        return self._client(service, region, credentials.access_key_id, secret)

    def _client(self, service: str, region: str, key: str, secret: str) -> Any:
        import botocore.session  # noqa: PLC0415 - takes time, and every test imports this module
        from botocore.config import Config  # noqa: PLC0415 - as above

        if (service, region, key) not in self._clients:
            self._clients[service, region, key] = botocore.session.get_session().create_client(
                service,
                region_name=region,
                endpoint_url=self.endpoint,
                aws_access_key_id=key,
                aws_secret_access_key=secret,
                config=Config(retries={"max_attempts": 0}),
            )
        return self._clients[service, region, key]

    def make_user(
        self, policy: Mapping[str, Any] | Sequence[str] | None = None, name: str = "ropewalk", account: str = ACCOUNT
    ) -> AwsCredentials:
        """Make a user with a long-lived key. *policy*: a document, a list of actions, or None for all rights."""
        iam = self.client("iam", "us-east-1", account)
        iam.create_user(UserName=name)
        self.set_policy(policy, name, account)
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return AwsCredentials(access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"])

    def set_policy(
        self, policy: Mapping[str, Any] | Sequence[str] | None, name: str = "ropewalk", account: str = ACCOUNT
    ) -> None:
        """Give a user other rights, at once."""
        actions = ["*"] if policy is None else policy
        if not isinstance(actions, Mapping):
            statement = {"Effect": "Allow", "Action": list(actions), "Resource": "*"}
            actions = {"Version": "2012-10-17", "Statement": [statement]}
        iam = self.client("iam", "us-east-1", account)
        iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(actions))

    def revoke(self, credentials: AwsCredentials, name: str = "ropewalk", account: str = ACCOUNT) -> None:
        """Delete a key, as a person in the console would."""
        iam = self.client("iam", "us-east-1", account)
        iam.delete_access_key(UserName=name, AccessKeyId=credentials.access_key_id)

    def new_key(self, name: str = "ropewalk", account: str = ACCOUNT) -> AwsCredentials:
        """Make another key of a user."""
        key = self.client("iam", "us-east-1", account).create_access_key(UserName=name)["AccessKey"]
        return AwsCredentials(access_key_id=key["AccessKeyId"], secret_access_key=key["SecretAccessKey"])

    def close(self) -> None:
        """End it."""
        for client in self._clients.values():
            client.close()
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def python() -> Path:
    """Return the Python of the double."""
    try:
        return venvs.python("aws-double", REQUIREMENTS)
    except venvs.NoEnvironmentError as exc:
        raise NoDoubleError(str(exc)) from exc


def _listening(engine: Engine | None) -> list[socket.socket]:
    """Listen on a port of loopback, and on the same one of the engine's network: for the double, from the beginning."""
    while True:
        first = socket.create_server(("127.0.0.1", 0))
        if engine is None:
            return [first]
        try:
            return [first, socket.create_server((engine.gateway, first.getsockname()[1]))]
        except OSError as exc:
            first.close()
            if exc.errno != errno.EADDRINUSE:
                raise


def start(folder: Path, engine: Engine | None = None) -> Double:
    """Start a double with its files in *folder*; *engine* runs its tasks as containers, None: they only have states."""
    program = str(python())
    log = folder / "aws-double.log"
    with contextlib.ExitStack() as stack:
        output = stack.enter_context(log.open("wb"))
        sockets = [stack.enter_context(each) for each in _listening(engine)]
        port = int(sockets[0].getsockname()[1])
        process = subprocess.Popen(
            [program, "-m", "tests.support.aws_double", *(f"fd://{each.fileno()}" for each in sockets)],
            pass_fds=[each.fileno() for each in sockets],
            cwd=venvs.ROOT,
            env=_environ(folder, port, engine),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    double = Double(f"http://127.0.0.1:{port}", process, log)
    _wait(double)
    return double


def _environ(folder: Path, port: int, engine: Engine | None) -> dict[str, str]:
    network = {"AWS_DOUBLE_NETWORK": NETWORK, "AWS_DOUBLE_GATEWAY": engine.gateway} if engine else {}
    return network | {
        "PATH": os.environ.get("PATH", ""),
        "TMPDIR": str(folder),
        "HOME": str(folder),
        "S3_DATA_DIR": str(folder / "s3"),
        "PYTHONPATH": str(venvs.ROOT),
        "AUTH": "true",
        "GATEWAY_PORT": str(port),
        "MINISTACK_HOST": "127.0.0.1",
        "SFTP_ENABLED": "0",
        "IOT_MTLS_ENABLED": "0",
        "LOG_LEVEL": "WARNING",
        "DOCKER_HOST": f"unix://{engine.socket}" if engine else "unix:///nonexistent",
    }


def _wait(double: Double) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            double.calls()
        except (OSError, urllib.error.URLError):
            if double.process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
                continue
            double.close()
            raise NoDoubleError(f"the double of AWS did not start: {double.log.read_text()[-2000:]}") from None
        return


@contextlib.contextmanager
def running(folder: Path, engine: Engine | None = None) -> Iterator[Double]:
    """Run a double for a while."""
    double = start(folder, engine)
    try:
        yield double
    finally:
        double.close()


if __name__ == "__main__":
    print(python())  # noqa: T201 - a program that prints
