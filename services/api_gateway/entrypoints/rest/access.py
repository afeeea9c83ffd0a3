"""Which scope each route needs, said where the route is declared.

Owns: the dependency `needs(scope)`, which lets a route be called and describes it in OpenAPI; the
list of paths that need no credential at all; and the check that each route is one or the other,
without which the application is not built. Who calls is found before, by `admission`.
"""

from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any, Final

from fastapi import APIRouter, Request, Response, Security
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import HTTPBearer as BearerScheme
from fastapi.routing import APIRoute, RouteContext, iter_route_contexts
from fastapi.security.base import SecurityBase
from starlette.routing import BaseRoute
from typing_extensions import override

from services.api_gateway.domain.member import TENANT_HEADER
from services.api_gateway.domain.scopes import SCOPES, require
from services.api_gateway.entrypoints.rest.description import PROBLEMS
from services.api_gateway.entrypoints.rest.strictness import (
    StrictRequest,
    check_is_json,
    check_no_body,
    check_query,
    parameters_of,
)
from services.chassis.tenancy import Principal

Handler = Callable[[Request], Coroutine[Any, Any, Response]]

PUBLIC: Final = frozenset(
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

_SCHEME: Final = (
    "An API key, or a token of the OpenID Connect issuer that the platform believes. A person who"
    f" is a member of several tenants says by the header `{TENANT_HEADER}: <tenant>` which one a"
    " request is for, else it is refused (422); whoever may act for one tenant needs no header."
    " A tenant that the credential does not act for is refused as no credential is (401)."
)


class Needs(SecurityBase):
    """Gives the caller to routes that it may use; no scopes stand for: any credential will do."""

    def __init__(self, scopes: Sequence[str]) -> None:
        assert SCOPES.issuperset(scopes), f"{scopes} are no scopes"
        self.scopes = scopes
        self.model = BearerScheme(description=_SCHEME)
        self.scheme_name = "ApiKey"

    async def __call__(self, request: Request) -> Principal:
        """Return the caller, as `check` does."""
        return self.check(request)

    def check(self, request: Request) -> Principal:
        """Return the caller; raises PermissionDenied for the first scope that it lacks."""
        principal = request.scope["modelyard.principal"]
        assert isinstance(principal, Principal)
        for scope in self.scopes:
            require(principal, scope)
        return principal


class GuardedRoute(APIRoute):
    """Checks the scopes that it declares before anything of the request is read.

    FastAPI would do it as it solves a route's dependencies, after the body, at 25 us a request.
    """

    @override
    def get_route_handler(self) -> Handler:
        declared = self.dependant
        guards = [each.call for each in declared.dependencies if isinstance(each.call, Needs)]
        rest = [each for each in declared.dependencies if not _is_guard_alone(each)]
        self.dependant = replace(declared, dependencies=rest)
        handle = self._reader(super().get_route_handler())
        self.dependant = declared  # whole again, for the description

        async def guarded(request: Request) -> Response:
            for guard in guards:
                guard.check(request)
            return await handle(request)

        return guarded

    def _reader(self, handle: Handler) -> Handler:
        """Return what reads a request that may enter, and handles it."""
        return handle


class StrictRoute(GuardedRoute):
    """Refuses what it does not know of a request, as `strictness` says."""

    @override
    def _reader(self, handle: Handler) -> Handler:
        known, has_body = parameters_of(self.dependant), self.body_field is not None
        # A route that reads its body itself, such as an upload, says so in its description.
        has_stream = "requestBody" in (self.openapi_extra or {})

        async def strict(request: Request) -> Response:
            check_query(request, known)
            if has_body:
                request = StrictRequest(request.scope, request.receive)
                check_is_json(request)
            elif not has_stream:
                await check_no_body(request)
            return await handle(request)

        return strict


def noun_router(prefix: str, *, tag: str) -> APIRouter:
    """Return an empty router for the routes on one noun."""
    return _router(prefix, tag, StrictRoute)


def tolerant_router(prefix: str, *, tag: str) -> APIRouter:
    """Return an empty router for routes whose callers are written for others, too."""
    return _router(prefix, tag, GuardedRoute)


def _router(prefix: str, tag: str, route_class: type[GuardedRoute]) -> APIRouter:
    return APIRouter(prefix=prefix, tags=[tag], responses=dict(PROBLEMS), route_class=route_class)


def needs(*scopes: str) -> Any:
    """Return the dependency of a route that needs all of the scopes."""
    return Security(Needs(scopes), scopes=scopes)


def check_declared(routes: Sequence[BaseRoute]) -> None:
    """Raise ValueError for the first route that is neither declared nor public, or both."""
    for route in iter_route_contexts(routes):
        is_declared = any(True for _ in _declarations(route))
        if is_declared == (route.path in PUBLIC):
            said = "is public and" if is_declared else "is not public and"
            raise ValueError(
                f"{sorted(route.methods or [])} {route.path} {said} declares "
                f"{'a' if is_declared else 'no'} scope"
            )


def _declarations(route: RouteContext) -> Iterator[Needs]:
    dependant = getattr(route, "dependant", None)
    for dependency in dependant.dependencies if dependant else ():
        if isinstance(dependency.call, Needs):
            yield dependency.call


def _is_guard_alone(dependency: Dependant) -> bool:
    """Tell whether a guard is no argument of its route: those FastAPI has to give."""
    return isinstance(dependency.call, Needs) and dependency.name is None
