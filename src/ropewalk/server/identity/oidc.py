"""OpenID Connect: what is sent to a provider, and what is believed of its answers. Knows nothing of users.

The authorization code flow with PKCE. Authlib makes and checks what the protocol defines; the requests are our own, to
addresses that only the operator (``oidc_issuer``) and the provider's own description decide.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import httpx
from authlib.common.errors import AuthlibBaseError
from authlib.oauth2.auth import ClientAuth
from authlib.oauth2.rfc6749.parameters import prepare_grant_uri, prepare_token_request
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from authlib.oidc.core import CodeIDToken
from authlib.oidc.discovery import get_well_known_url
from joserfc import jwt
from joserfc.errors import ExpiredTokenError, InvalidClaimError, JoseError, MissingClaimError
from joserfc.jwk import KeySet

from ropewalk.errors import AuthenticationError, UnavailableError

__all__ = ["Claims", "Client", "Provider"]

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512")
"""Signatures by a key that only the provider has; none by a secret that both have, and never none."""
TIMEOUT = 10.0
"""Seconds for each request to the provider: somebody is waiting."""
KEPT_SECONDS = 3600.0
"""How long its description is believed; its keys until a token has one that is not among them."""
RETRY_SECONDS = 2.0
"""After a failure: those who wait for a provider that does not answer are told together."""
LEEWAY = 60
"""Seconds that clocks may differ."""
MOST_BYTES = 1_000_000
"""Of an answer; descriptions and keys have some ten thousand."""

Claims = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Client:
    """Who this server is for the provider."""

    issuer: str
    id: str
    secret: str | None = field(repr=False)
    redirect_uri: str
    scopes: str
    name: str
    """What people call the provider; for messages."""


class Provider:
    """One provider, with what it said about itself.

    Args:
        client: Who we are there.
    """

    def __init__(self, client: Client) -> None:
        self.client = client
        self._metadata: dict[str, Any] = {}
        self._until = 0.0
        self._failed: tuple[float, UnavailableError] | None = None
        self._keys: KeySet | None = None
        self._tls: ssl.SSLContext | None = None
        self._lock = asyncio.Lock()

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """Return where the browser goes.

        Raises:
            UnavailableError: The provider cannot be asked, or describes itself wrongly.
        """
        metadata = await self._described()
        return str(
            prepare_grant_uri(
                metadata["authorization_endpoint"],
                client_id=self.client.id,
                response_type="code",
                redirect_uri=self.client.redirect_uri,
                scope=self.client.scopes,
                state=state,
                nonce=nonce,
                code_challenge=create_s256_code_challenge(verifier),
                code_challenge_method="S256",
            )
        )

    async def claims(self, *, code: str, iss: str | None, nonce: str, verifier: str, now: datetime) -> Claims:
        """Trade a code for who the person is.

        Args:
            code: From the provider's answer.
            iss: From the same; who says that it answered (RFC 9207).
            nonce: That was sent with the request.
            verifier: Of the challenge that was sent.
            now: For what has expired.

        Raises:
            AuthenticationError: The provider does not vouch for anybody, or not in a way that can be believed.
            UnavailableError: It cannot be asked.
        """
        metadata = await self._described()
        self._check_answerer(metadata, iss)
        answer = await self._token(metadata, code, verifier)
        token = answer.get("id_token")
        if not isinstance(token, str):
            raise self._refused("it sent no ID token", f"Is openid among the scopes ({self.client.scopes})?")
        access_token = str(answer.get("access_token", ""))
        claims = await self._verified(metadata, token, nonce, access_token, now)
        return await self._completed(metadata, dict(claims), access_token)

    async def _completed(self, metadata: Mapping[str, Any], claims: dict[str, Any], access_token: str) -> Claims:
        """Add what the provider tells of the person only when it is asked; the ID token wins."""
        url = str(metadata.get("userinfo_endpoint") or "")
        if not access_token or not url.startswith(("https://", f"{urlsplit(self.client.issuer).scheme}://")):
            return claims
        headers = {"Authorization": f"Bearer {access_token}", "Accept": "application/json"}
        status, found = await self._ask("GET", url, headers=headers)
        # Of somebody else, it is an attack (OpenID Connect Core 1.0, section 5.3.4).
        return found | claims if status == 200 and found.get("sub") == claims["sub"] else claims

    def _check_answerer(self, metadata: Mapping[str, Any], iss: str | None) -> None:
        """Refuse an answer of another provider, to which the code would be worth something (RFC 9207)."""
        must = bool(metadata.get("authorization_response_iss_parameter_supported"))
        if (iss is not None or must) and iss != self.client.issuer:
            raise self._refused("the answer came from another issuer", "Start again from the sign-in page.")

    async def _verified(
        self, metadata: Mapping[str, Any], token: str, nonce: str, access_token: str, now: datetime
    ) -> CodeIDToken:
        try:
            try:
                decoded = jwt.decode(token, await self._key_set(metadata), algorithms=ALGORITHMS)
            except (JoseError, ValueError):
                # A key that was not there before: the provider has changed its keys.
                decoded = jwt.decode(token, await self._key_set(metadata, anew=True), algorithms=ALGORITHMS)
            claims = CodeIDToken(
                decoded.claims,
                decoded.header,
                options={"iss": {"value": self.client.issuer}, "aud": {"value": self.client.id}},
                params={"nonce": nonce, "client_id": self.client.id, "access_token": access_token},
            )
            claims.validate(now=int(now.timestamp()), leeway=LEEWAY)
        except ExpiredTokenError:
            raise self._refused("its answer has expired", "Compare the clocks of both servers.") from None
        except (InvalidClaimError, MissingClaimError) as exc:
            claim = getattr(exc, "claim", None) or "claims"
            raise self._refused(f"its ID token has the wrong {claim}", "Start again from the sign-in page.") from None
        except (JoseError, AuthlibBaseError, ValueError, TypeError):
            raise self._refused("its ID token is not signed by one of its keys", "Start again.") from None
        if not isinstance(claims["sub"], str) or not claims["sub"]:
            raise self._refused("its ID token names nobody", "Ask an operator to look at the provider's settings.")
        return claims

    async def _token(self, metadata: Mapping[str, Any], code: str, verifier: str) -> dict[str, Any]:
        uri = metadata["token_endpoint"]
        body = prepare_token_request(
            "authorization_code", code=code, redirect_uri=self.client.redirect_uri, code_verifier=verifier
        )
        auth = ClientAuth(self.client.id, self.client.secret, self._auth_method(metadata))
        headers = {"Accept": "application/json", "Content-Type": "application/x-www-form-urlencoded;charset=UTF-8"}
        uri, headers, body = auth.prepare("POST", uri, headers, body)
        status, answer = await self._ask("POST", uri, headers=headers, content=body)
        if status == 200:
            return answer
        error = str(answer.get("error", ""))[:60]
        if error == "invalid_client":
            raise self._refused(
                "it does not accept this server's client id or secret",
                "An operator must set oidc_client_id and oidc_client_secret as the provider has them.",
            )
        raise self._refused(f"it did not take its own code ({error or f'status {status}'})", "Sign in once more.")

    def _auth_method(self, metadata: Mapping[str, Any]) -> str:
        if self.client.secret is None:
            return "none"
        methods = metadata.get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        return "client_secret_basic" if "client_secret_basic" in methods else "client_secret_post"

    async def _described(self) -> dict[str, Any]:
        """Return what the provider says about itself, asked at most once an hour."""
        async with self._lock:
            if time.monotonic() >= self._until:
                if self._failed is not None and time.monotonic() < self._failed[0]:
                    raise self._failed[1]
                try:
                    status, found = await self._ask("GET", get_well_known_url(self.client.issuer, external=True))
                    self._check_description(status, found)
                except UnavailableError as exc:
                    self._failed = time.monotonic() + RETRY_SECONDS, exc
                    raise
                self._metadata, self._until, self._keys = found, time.monotonic() + KEPT_SECONDS, None
            return self._metadata

    def _check_description(self, status: int, found: Mapping[str, Any]) -> None:
        if status != 200 or found.get("issuer") != self.client.issuer:
            told = f"says that it is {str(found.get('issuer'))[:100]!r}" if status == 200 else f"answers {status}"
            raise self._unusable(f"{told} at {self.client.issuer}")
        scheme = urlsplit(self.client.issuer).scheme
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri"):
            if urlsplit(str(found.get(name))).scheme not in ("https", scheme):
                raise self._unusable(f"has no {name} that could be used")

    async def _key_set(self, metadata: Mapping[str, Any], *, anew: bool = False) -> KeySet:
        if self._keys is None or anew:
            status, found = await self._ask("GET", metadata["jwks_uri"])
            if status != 200 or not isinstance(found.get("keys"), list):
                raise self._unusable("does not show its keys")
            self._keys = KeySet.import_key_set({"keys": found["keys"]})
        return self._keys

    async def _ask(self, method: str, url: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Send a request; redirections are not followed, so nobody is asked whom the provider did not name."""
        if self._tls is None:  # some 50 ms: once, and not in the loop
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                httpx.AsyncClient(timeout=TIMEOUT, follow_redirects=False, verify=self._tls) as http,
                http.stream(method, url, **more) as response,
            ):
                body = await self._body(response)
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as exc:
            raise self._unusable(f"cannot be reached ({type(exc).__name__})") from None
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        return response.status_code, found if isinstance(found, dict) else {}

    async def _body(self, response: httpx.Response) -> bytes:
        body = bytearray()
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > MOST_BYTES:
                raise self._unusable("sends too much")
        return bytes(body)

    def _unusable(self, why: str) -> UnavailableError:
        return UnavailableError(
            f"{self.client.name} {why}.",
            advice="Sign in with a password, or try again later; if it stays so, operators should look at oidc_issuer.",
        )

    def _refused(self, why: str, advice: str) -> AuthenticationError:
        return AuthenticationError(f"Signing in by {self.client.name} failed: {why}.", advice=advice)
