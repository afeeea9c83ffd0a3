"""Who may enter, and how often: one ASGI middleware before every route.

Steps: exempt paths pass; the credential becomes a principal; the tenant's rate is counted; the rest
of the application runs as that principal, so that calls inward carry its token. A refused
credential counts against its network address instead. Decided on headers alone, before the body is
read.
"""

from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.domain.rate_limit import RateDecision
from services.api_gateway.entrypoints.rest.dependencies import Gateway
from services.api_gateway.entrypoints.rest.problems import problem_response
from services.chassis.errors import ModelyardError, RateLimited, Unauthenticated
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal

EXEMPT: Final = frozenset(
    {
        "/livez",
        "/readyz",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/docs",
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
    }
)


@dataclass(frozen=True, slots=True)
class Admission:
    """Authenticates and limits; everything inside runs as a principal."""

    app: ASGIApp
    gateway: Gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] in EXEMPT:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            principal, decision = await self._admit(scope, headers)
        except ModelyardError as error:
            await problem_response(error, path=scope["path"])(scope, receive, send)
            return
        scope["modelyard.principal"] = principal
        with acting_as(principal):
            await self.app(scope, receive, _with_rate_headers(send, decision))

    async def _admit(self, scope: Scope, headers: Headers) -> tuple[Principal, RateDecision]:
        policies = self.gateway.policies
        try:
            principal = await self.gateway.authenticate(headers.get("authorization"))
        except Unauthenticated:
            client = scope.get("client")
            source = client[0] if client else "unknown"
            _refuse_excess(await self.gateway.limiter.hit(policies.source, source))
            raise
        decision = await self.gateway.limiter.hit(policies.tenant, principal.tenant)
        _refuse_excess(decision)
        return principal, decision


def _refuse_excess(decision: RateDecision) -> None:
    if not decision.is_allowed:
        raise RateLimited(decision.policy.name, retry_after=decision.reset_after)


def _with_rate_headers(send: Send, decision: RateDecision) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["RateLimit-Policy"] = decision.policy.header
            headers["RateLimit"] = decision.header
        await send(message)

    return send_with_headers
