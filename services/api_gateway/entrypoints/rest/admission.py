"""Who may enter, and how often: one ASGI middleware before every route.

Steps: public paths pass; the credential, and the tenant that the request names, become a principal;
the tenant's rate is counted, by its plan if that says how much; a suspended tenant may only read;
the rest of the application runs as that principal, so that calls inward carry its token. Who is
refused before it is known for which tenant they come counts against their network address, and the
key that they name, instead. Decided on headers alone, before the body is read.

An answer without an end asks again while it lasts (`StillAdmitted`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api_gateway.domain.member import TENANT_HEADER
from services.api_gateway.domain.rate_limit import RateDecision, RatePolicy
from services.api_gateway.domain.scopes import require
from services.api_gateway.domain.tenant import Tenant
from services.api_gateway.entrypoints.rest.access import PUBLIC
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.problems import problem_response
from services.api_gateway.entrypoints.rest.refusals import Refusals, refuse_excess, source_of
from services.api_gateway.entrypoints.rest.tracing import caller_is_known
from services.chassis.errors import InvalidArgument, ModelyardError, Unauthenticated
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, TenantId, tenant_id

_READING: Final = frozenset({"GET", "HEAD"})
_LOOK_INTERVAL: Final = timedelta(milliseconds=100)
"""With the age of what is remembered less than the 2 s after which a lost right is lost."""


@dataclass(frozen=True, slots=True)
class Admission:
    """Authenticates and limits; everything inside runs as a principal."""

    app: ASGIApp
    gateway: Gateway
    refusals: Refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] != "http" or scope["path"] in PUBLIC:
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
        authenticate, source = self.gateway.authenticate, source_of(scope)
        authorization = headers.get("authorization")
        self.refusals.check(source, is_known=lambda: authenticate.remembers(authorization))
        try:
            principal = await authenticate(authorization, tenant=_tenant_named(headers))
            caller_is_known(scope, principal)
            tenant = await self.gateway.standing(principal.tenant)
        except (Unauthenticated, InvalidArgument):
            await self.refusals.count(source, authorization)
            raise
        policy = _policy_of(tenant, default=self.gateway.policies.tenant)
        decision = await self.gateway.limiter.hit(policy, principal.tenant)
        refuse_excess(decision)
        if scope["method"] not in _READING:
            tenant.check_active()
        return principal, decision


@dataclass(slots=True)
class StillAdmitted:
    """Whether a caller who is being answered would still be let in.

    Who could act late: somebody who follows output, and whose key, token, role or tenant has ended
    since. What refuses it: `check`, before each piece of the answer.
    """

    edge: Gateway
    authorization: str | None
    tenant: TenantId
    scopes: Sequence[str]
    """Those that the route needs."""
    _looked_at_s: float

    @staticmethod
    def of(request: Request, *scopes: str) -> "StillAdmitted":
        """Return it for a request that was let in just now, with these scopes."""
        edge, principal = gateway(request), request.scope["modelyard.principal"]
        assert isinstance(principal, Principal)
        return StillAdmitted(
            edge,
            request.headers.get("authorization"),
            principal.tenant,
            scopes,
            edge.clock.monotonic(),
        )

    async def check(self) -> None:
        """Raise what the request would be refused with now, Unavailable where nobody can tell."""
        now_s = self.edge.clock.monotonic()
        if now_s - self._looked_at_s < _LOOK_INTERVAL.total_seconds():
            return
        self._looked_at_s = now_s
        # Who has become a member of a second tenant since still means the first.
        principal = await self.edge.authenticate(self.authorization, tenant=self.tenant)
        await self.edge.standing(principal.tenant)
        for scope in self.scopes:
            require(principal, scope)


def _tenant_named(headers: Headers) -> TenantId | None:
    named = headers.getlist(TENANT_HEADER)
    if len(named) > 1:
        raise InvalidArgument(TENANT_HEADER, "must be sent once")
    return tenant_id(named[0], field=TENANT_HEADER) if named else None


def _policy_of(tenant: Tenant, *, default: RatePolicy) -> RatePolicy:
    most = tenant.plan.requests_max
    return default if most is None else replace(default, requests_max=most)


def _with_rate_headers(send: Send, decision: RateDecision) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message["headers"],
                (b"ratelimit-policy", decision.policy.header.encode()),
                (b"ratelimit", decision.header.encode()),
            ]
        await send(message)

    return send_with_headers
