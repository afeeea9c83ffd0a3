"""`/v1/whoami`: who the platform takes the caller for."""

from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel

from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway
from services.chassis.tenancy import Principal


class Identity(BaseModel):
    """A caller, as every service sees it; `scopes` are all that it may do."""

    tenant: str
    subject: str
    roles: list[str]
    scopes: list[str]


def whoami_router(edge: Gateway) -> APIRouter:
    """Return the route."""
    router = noun_router("/v1", tag="identity")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("/whoami", response_model=Identity)
    @burst
    async def whoami(request: Request, caller: Annotated[Principal, needs()]) -> Identity:
        """Tell who calls and what it may do; any credential will do."""
        return Identity(
            tenant=caller.tenant,
            subject=caller.subject,
            roles=sorted(caller.roles),
            scopes=sorted(caller.scopes),
        )

    return router
