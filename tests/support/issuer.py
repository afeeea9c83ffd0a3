"""Issuers: a real one as a process, and one whose keys and answers the test makes."""

import json
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from subprocess import DEVNULL, Popen
from typing import Any, Final

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from jwt.algorithms import RSAAlgorithm
from typing_extensions import override

from tests.support.eventually import until

AUDIENCE: Final = "modelyard"


@contextmanager
def real_issuer(port: int, users: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Run an OpenID Connect provider; each start has a key of its own. Gives its address."""
    claims = [part for user in users for part in ("--user-claims", json.dumps(user))]
    url = f"http://127.0.0.1:{port}"
    process = Popen(
        [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "oidc_provider_mock",
            "--port",
            str(port),
            "--host",
            "127.0.0.1",
            *claims,
        ],
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    try:
        until(lambda: process.poll() is None and _answers(url), what="the issuer answers")
        yield url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/.well-known/openid-configuration", timeout=5):
            return True
    except urllib.error.URLError:
        return False


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Leaves the redirect with the code to the caller: it leads to no server."""

    @override
    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def id_token(url: str, user: str, *, audience: str = AUDIENCE) -> str:
    """Log in as a user, by the code flow, and return the ID token."""
    back = "http://127.0.0.1/back"
    query = urllib.parse.urlencode(
        {
            "client_id": audience,
            "redirect_uri": back,
            "response_type": "code",
            "scope": "openid profile",
        }
    )
    form = urllib.parse.urlencode({"sub": user}).encode()
    opener = urllib.request.build_opener(_StayHere)
    try:
        opener.open(f"{url}/oauth2/authorize?{query}", data=form, timeout=10)
    except urllib.error.HTTPError as redirect:
        location = redirect.headers["Location"]
        redirect.close()
    else:
        raise AssertionError("the issuer sends nobody back")
    code = urllib.parse.parse_qs(urllib.parse.urlsplit(location).query)["code"][0]
    form = urllib.parse.urlencode(
        {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": back,
            "client_id": audience,
            "client_secret": "any",
        }
    ).encode()
    with urllib.request.urlopen(f"{url}/oauth2/token", data=form, timeout=10) as answer:
        return str(json.load(answer)["id_token"])


@dataclass
class OwnIssuer:
    """Publishes what the test gives it; counts how often it is asked."""

    key: RSAPrivateKey = field(default_factory=lambda: generate_private_key(65537, 2048))
    url: str = ""
    published: list[dict[str, Any]] = field(default_factory=list)
    fetch_count: int = 0
    is_away: bool = False
    changes: dict[str, Any] = field(default_factory=dict)
    """To the discovery document."""

    def publish(self, name: str = "one", key: RSAPrivateKey | None = None, **changes: Any) -> None:
        """Add a key to those that are published."""
        jwk = RSAAlgorithm.to_jwk((key or self.key).public_key(), as_dict=True)
        self.published.append({**jwk, "kid": name, "use": "sig", **changes})

    async def discovery(self, request: web.Request) -> web.Response:
        if self.is_away:
            raise web.HTTPServiceUnavailable
        document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys", **self.changes}
        return web.json_response(document)

    async def keys(self, request: web.Request) -> web.Response:
        self.fetch_count += 1
        return web.json_response({"keys": self.published})


@asynccontextmanager
async def own_issuer() -> AsyncIterator[OwnIssuer]:
    """Run an issuer whose key "one" is published."""
    issuer = OwnIssuer()
    application = web.Application()
    application.router.add_get("/.well-known/openid-configuration", issuer.discovery)
    application.router.add_get("/keys", issuer.keys)
    runner = web.AppRunner(application)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        issuer.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        issuer.publish()
        yield issuer
    finally:
        await runner.cleanup()
