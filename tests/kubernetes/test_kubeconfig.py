from __future__ import annotations

import base64
import copy
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from ropewalk.backends.kubernetes.kubeconfig import parse_kubeconfig
from ropewalk.errors import InputError
from tests.support.kube_certificates import Pki

CANARY = "canary-5d1e"


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def config(pki: Pki) -> dict[str, Any]:
    authority = base64.b64encode(pki.path("ca.crt").read_bytes()).decode()
    cluster = {"server": "https://api.example.org:6443/", "certificate-authority-data": authority}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "contexts": [
            {"name": "here", "context": {"cluster": "k", "user": "u", "namespace": "team"}},
            {"name": "there", "context": {"cluster": "k2", "user": "u2"}},
        ],
        "clusters": [
            {"name": "k", "cluster": cluster},
            {"name": "k2", "cluster": {"server": "https://[::1]:1", "tls-server-name": "api"}},
        ],
        "users": [
            {"name": "u", "user": {"token": CANARY}},
            {"name": "u2", "user": {"exec": {"command": "touch", "args": ["/tmp/ran"]}}},
        ],
    }


def parse(config: dict[str, Any], **facts: Any) -> Any:
    return parse_kubeconfig(yaml.safe_dump(config), **facts)


def refused(config: dict[str, Any], **facts: Any) -> InputError:
    with pytest.raises(InputError) as caught:
        parse(config, **facts)
    assert CANARY not in str(caught.value) + repr(caught.value.body())
    return caught.value


class TestWhatIsKept:
    def test_is_the_current_contexts_address_authority_token_and_namespace(self, config: dict[str, Any]) -> None:
        credentials, settings = parse(config)
        assert credentials.server == "https://api.example.org:6443"
        assert credentials.certificate_authority.startswith("-----BEGIN CERTIFICATE")
        assert credentials.token.get_secret_value() == CANARY
        assert (settings.namespace, settings.context) == ("team", "here")
        assert settings.server == credentials.server

    def test_is_not_what_other_contexts_say(self, config: dict[str, Any]) -> None:
        credentials, settings = parse(config)
        kept = credentials.model_dump_json() + settings.model_dump_json()
        assert "touch" not in kept
        assert '"u2"' not in kept

    def test_shows_no_secret(self, config: dict[str, Any]) -> None:
        credentials, settings = parse(config)
        assert CANARY not in repr(credentials) + str(credentials) + repr(settings)

    def test_is_another_context_on_request(self, config: dict[str, Any]) -> None:
        config["users"][1]["user"] = {"token": "other"}
        credentials, settings = parse(config, context="there", namespace="mine")
        assert credentials.token.get_secret_value() == "other"
        assert credentials.tls_server_name == "api"
        assert settings.namespace == "mine"

    def test_may_be_a_certificate_with_its_key(self, config: dict[str, Any], pki: Pki) -> None:
        certificate, key = (base64.b64encode(text.encode()).decode() for text in pki.client("u", "g"))
        config["users"][0]["user"] = {"client-certificate-data": certificate, "client-key-data": key}
        credentials, _ = parse(config)
        assert credentials.token is None
        assert "BEGIN CERTIFICATE" in credentials.client_certificate.get_secret_value()
        assert "PRIVATE KEY" in credentials.client_key.get_secret_value()

    def test_may_be_written_as_json(self, config: dict[str, Any]) -> None:
        assert parse_kubeconfig(json.dumps(config))[1].namespace == "team"


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("exec", {"command": "touch"}),
            ("auth-provider", {"name": "gcp"}),
            ("tokenFile", "/var/run/secrets/token"),
            ("client-certificate", "/etc/passwd"),
            ("client-key", "/etc/passwd"),
            ("username", "root"),
            ("password", "x"),
            ("as", "system:admin"),
            ("as-groups", ["system:masters"]),
            ("unheard-of", 1),
        ],
    )
    def test_names_the_users_field(self, config: dict[str, Any], key: str, value: object) -> None:
        config["users"][0]["user"][key] = value
        assert refused(config).field == f"users[u].user.{key}"

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("certificate-authority", "/etc/passwd"),
            ("proxy-url", "http://proxy"),
            ("insecure-skip-tls-verify", True),
            ("server", "http://api.example.org"),
            ("server", "https://user:secret@api.example.org"),
            ("server", "https://api.example.org/?x=1"),
            ("server", "https://"),
            ("server", "file:///etc/passwd"),
            ("server", "https://host:port"),
            ("server", ["https://a"]),
            ("certificate-authority-data", "!!!"),
            ("certificate-authority-data", base64.b64encode(b"-----BEGIN CERTIFICATE-----\nx").decode()),
            ("unheard-of", 1),
        ],
    )
    def test_names_the_clusters_field(self, config: dict[str, Any], key: str, value: object) -> None:
        config["clusters"][0]["cluster"][key] = value
        assert refused(config).field == f"clusters[k].cluster.{key}"

    @pytest.mark.parametrize("server", ["http://api.example.org:8080", "https://api.example.org"])
    def test_insecure_ones_may_be_allowed_by_an_operator(self, config: dict[str, Any], server: str) -> None:
        config["clusters"][0]["cluster"] = {"server": server, "insecure-skip-tls-verify": True}
        credentials, _ = parse(config, allow_insecure=True)
        assert credentials.insecure_skip_tls_verify

    @pytest.mark.parametrize("missing", ["token", "client-key-data", "client-certificate-data"])
    def test_names_what_is_missing_to_prove_who_one_is(self, config: dict[str, Any], pki: Pki, missing: str) -> None:
        certificate, key = (base64.b64encode(text.encode()).decode() for text in pki.client("u", "g"))
        given = {"client-certificate-data": certificate, "client-key-data": key}
        user = {} if missing == "token" else {name: value for name, value in given.items() if name != missing}
        config["users"][0]["user"] = user
        assert refused(config).field == f"users[u].user.{missing}"

    def test_unknown_contexts_are_told_with_those_that_exist(self, config: dict[str, Any]) -> None:
        error = refused(config, context="nowhere")
        assert error.field == "context"
        assert "here, there" in str(error.advice)

    @pytest.mark.parametrize("part", ["clusters", "users"])
    def test_names_a_section_that_lacks_what_the_context_names(self, config: dict[str, Any], part: str) -> None:
        config[part] = []
        assert refused(config).field == part

    @pytest.mark.parametrize("namespace", ["Team", "a/b", "-x", "x" * 64, "..", "a b"])
    def test_names_no_namespace(self, config: dict[str, Any], namespace: str) -> None:
        assert refused(config, namespace=namespace).field == "namespace"

    def test_a_context_without_namespace_needs_one_to_be_named(self, config: dict[str, Any]) -> None:
        del config["contexts"][0]["context"]["namespace"]
        assert refused(config).field == "namespace"

    def test_no_current_context(self, config: dict[str, Any]) -> None:
        del config["current-context"]
        assert refused(config).field == "context"

    @pytest.mark.parametrize(
        "text",
        ["", "[]", "x", "{", f"a: &a [{CANARY}", "!!python/object/apply:os.system ['touch /tmp/ran']", "\ud800"],
    )
    def test_texts_that_are_no_kubeconfig(self, text: str) -> None:
        with pytest.raises(InputError) as caught:
            parse_kubeconfig(text)
        assert caught.value.field in ("kubeconfig", "context")
        assert CANARY not in str(caught.value)

    def test_a_text_that_is_too_large(self) -> None:
        with pytest.raises(InputError) as caught:
            parse_kubeconfig("x" * (2**20 + 1))
        assert caught.value.field == "kubeconfig"

    def test_a_token_that_would_add_headers(self, config: dict[str, Any]) -> None:
        config["users"][0]["user"]["token"] = "a\r\nX-Remote-User: root"
        assert refused(config).field == "users[u].user.token"


def test_nothing_is_executed_or_opened(config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = tmp_path / "ran"

    def run(*_args: object, **_kwargs: object) -> None:
        ran.touch()

    monkeypatch.setattr(subprocess, "Popen", run)
    monkeypatch.setattr("builtins.open", run)
    monkeypatch.setattr(Path, "open", run)
    hostile = copy.deepcopy(config)
    hostile["users"][0]["user"]["exec"] = {"command": "touch", "args": [str(ran)]}
    refused(hostile)
    refused({**config, "clusters": [{"name": "k", "cluster": {"certificate-authority": str(ran)}}]})
    parse(config)
    assert not ran.exists()
