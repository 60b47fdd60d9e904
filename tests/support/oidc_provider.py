"""An OpenID Connect provider in a process of its own, on loopback: discovery, PKCE, signed tokens, faults on request.

It checks what a strict provider checks: client, redirect address, challenge, and that a code is used once. Tests tell
it at ``/_control`` who there is, what time it is, and what to do wrong.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey

from tests.support.waiting import PATIENCE

CLIENT, SECRET = "ropewalk", "client-secret-canary"

PAGE = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Example Identity</title></head><body>
<h1>Example Identity</h1><form method="post" action="/decide"><input type="hidden" name="request" value="{request}">
<label>Who are you? <input name="person" autofocus></label> <button name="say" value="yes">Sign in</button>
<button name="say" value="no">Cancel</button></form></body></html>"""


class World:
    """What the provider knows."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.keys = KeySet([RSAKey.generate_key(2048, {"kid": "first"})])
        self.codes: dict[str, dict[str, Any]] = {}
        self.tokens: dict[str, str] = {}
        self.asked: list[str] = []
        self.set: dict[str, Any] = {}
        self.reset()

    def reset(self) -> None:
        """Forget what tests asked for."""
        self.set = {
            "people": {},
            "claims": {},
            "answer": {},
            "metadata": {},
            "now": None,
            "status": 200,
            "userinfo": {},
        }

    def rotate(self) -> None:
        """Sign with a new key from now on, and show only that."""
        self.keys = KeySet([ECKey.generate_key("P-256", {"kid": secrets.token_hex(4)})])

    def metadata(self) -> dict[str, Any]:
        ends = {
            "authorization_endpoint": "authorize",
            "token_endpoint": "token",
            "jwks_uri": "jwks",
            "userinfo_endpoint": "userinfo",
        }
        own = {
            "issuer": self.issuer,
            **{name: f"{self.issuer}/{path}" for name, path in ends.items()},
            "authorization_response_iss_parameter_supported": True,
        }
        return {**own, **self.set["metadata"]}

    def id_token(self, request: Mapping[str, str], person: str) -> str:
        now = self.set["now"] or int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": f"id-of-{person}",
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": request["nonce"],
            **self.set["people"].get(person, {}),
            **self.set["claims"],
        }
        key = self.keys.keys[0]
        algorithm = "RS256" if key.key_type == "RSA" else "ES256"
        if self.set.get("forge"):
            key, algorithm = RSAKey.generate_key(2048, {"kid": str(key.kid)}), "RS256"
        return jwt.encode({"alg": algorithm, "kid": key.kid}, claims, key)


class Handler(BaseHTTPRequestHandler):
    world: World

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        if not url.path.startswith("/_"):
            self.world.asked.append(url.path)
        if self.world.set["status"] != 200 and not url.path.startswith("/_"):
            self._send(self.world.set["status"], b"down for repair", "text/plain")
        elif url.path == "/.well-known/openid-configuration":
            self._json(self.world.metadata())
        elif url.path == "/jwks":
            self._json(self.world.keys.as_dict(private=False))
        elif url.path == "/authorize":
            self._authorize(query)
        elif url.path == "/userinfo":
            person = self.world.tokens.get(self.headers.get("Authorization", "").removeprefix("Bearer "), "")
            self._json({"sub": f"id-of-{person}"} | self.world.set["userinfo"])
        elif url.path == "/_asked":
            self._json({"asked": self.world.asked})
        else:
            self._send(404, b"", "text/plain")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        if self.path == "/_control":
            self.world.reset()
            self.world.set.update(json.loads(body))
            self._json({})
        elif self.path == "/_rotate":
            self.world.rotate()
            self._json({})
        elif self.path == "/decide":
            self._decide({name: values[0] for name, values in parse_qs(body).items()})
        elif self.path == "/token":
            self._token({name: values[0] for name, values in parse_qs(body).items()})

    def _authorize(self, query: dict[str, str]) -> None:
        wanted = {"response_type": "code", "client_id": CLIENT, "code_challenge_method": "S256"}
        wrong = [name for name, value in wanted.items() if query.get(name) != value]
        wrong += [name for name in ("state", "nonce", "code_challenge", "redirect_uri") if not query.get(name)]
        if wrong or "openid" not in query.get("scope", ""):
            self._send(400, f"wrong: {wrong}".encode(), "text/plain")
            return
        page = PAGE.format(request=html.escape(json.dumps(query)))
        self._send(200, page.encode(), "text/html; charset=utf-8")

    def _decide(self, form: dict[str, str]) -> None:
        query = json.loads(form["request"])
        answer = {"state": query["state"], "iss": self.world.issuer}
        if form.get("say") == "no":
            answer["error"] = "access_denied"
        else:
            answer["code"] = secrets.token_urlsafe(16)
            self.world.codes[answer["code"]] = query | {"person": form["person"]}
        answer |= self.world.set["answer"]
        self.send_response(303)
        self.send_header("Location", f"{query['redirect_uri']}?{urlencode(answer)}")
        self.end_headers()

    def _token(self, form: dict[str, str]) -> None:
        given = base64.b64decode(self.headers.get("Authorization", "").removeprefix("Basic ")).decode()
        request = self.world.codes.pop(form.get("code", ""), None)
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if given != f"{CLIENT}:{SECRET}":
            self._json({"error": "invalid_client"}, 401)
        elif request is None or (challenge, form.get("redirect_uri")) != (
            request["code_challenge"],
            request["redirect_uri"],
        ):
            self._json({"error": "invalid_grant"}, 400)
        else:
            token = secrets.token_urlsafe(16)
            self.world.tokens[token] = request["person"]
            id_token = self.world.id_token(request, request["person"])
            self._json({"access_token": token, "token_type": "Bearer", "expires_in": 300, "id_token": id_token})

    def _json(self, value: Any, status: int = 200) -> None:
        self._send(status, json.dumps(value).encode(), "application/json")

    def _send(self, status: int, body: bytes, media_type: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Provider:
    """The process, as tests see it."""

    def __init__(self, process: subprocess.Popen[str], issuer: str) -> None:
        self.process = process
        self.issuer = issuer
        # Plain HTTP: nothing to verify, and authorities take long to load.
        self._http = httpx.Client(verify=False, timeout=PATIENCE)

    def close(self) -> None:
        """End the process and the connections to it."""
        self._http.close()
        self.process.kill()
        self.process.communicate()

    def control(self, **wishes: Any) -> None:
        """Forget earlier wishes, and follow these."""
        self._http.post(f"{self.issuer}/_control", json=wishes).raise_for_status()

    def rotate(self) -> None:
        """Change the keys."""
        self._http.post(f"{self.issuer}/_rotate", json={}).raise_for_status()

    def asked(self) -> list[str]:
        """Return the paths of requests so far."""
        found: list[str] = self._http.get(f"{self.issuer}/_asked").json()["asked"]
        return found

    def decide(self, url: str, person: str, say: str = "yes") -> str:
        """Be *person* in front of the provider's page at *url*; return where the browser is sent."""
        page = self._http.get(url)
        assert page.status_code == 200, page.text
        request = html.unescape(page.text.partition('name="request" value="')[2].partition('"')[0])
        answer = self._http.post(f"{self.issuer}/decide", data={"request": request, "person": person, "say": say})
        assert answer.status_code == 303
        return answer.headers["Location"]


@contextmanager
def provider() -> Iterator[Provider]:
    """Run one for the length of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.oidc_provider"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    made = Provider(process, process.stdout.readline().strip())
    try:
        yield made
    finally:
        made.close()


def main() -> None:
    """Serve until killed; the issuer is the first line of the output."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.world = World(f"http://127.0.0.1:{server.server_address[1]}")
    print(Handler.world.issuer, flush=True)  # noqa: T201 - how the test learns it
    server.serve_forever()


if __name__ == "__main__":
    main()
