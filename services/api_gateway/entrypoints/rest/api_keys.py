"""`/v1/api-keys`: a tenant's keys; a key's text is in the answer that makes it, nowhere else."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from services.api_gateway.domain.api_key import (
    NAME_CHARACTERS_MAX,
    ROTATION_OVERLAP_MAX,
    ApiKey,
)
from services.api_gateway.domain.roles import Role
from services.api_gateway.entrypoints.rest.access import needs
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body, Id
from services.chassis.tenancy import Principal

Manager = Annotated[Principal, needs("keys:write")]


class NewKey(Body):
    """What a new key is called, and what it may do: a role or scopes, not both."""

    name: str = Field(min_length=1, max_length=NAME_CHARACTERS_MAX)
    role: Role | None = None
    scopes: list[str] = Field(default_factory=list, max_length=32)
    lifetime: timedelta | None = Field(default=None, gt=timedelta(0), le=timedelta(days=3660))


class Rotation(Body):
    """How long the old key stays in force beside the new one, as an ISO 8601 duration."""

    overlap: timedelta = Field(
        default=timedelta(hours=24), ge=timedelta(0), le=ROTATION_OVERLAP_MAX
    )


class Key(BaseModel):
    """A key without its secret. `scopes` are those that it was given, besides its role's."""

    id: str
    name: str
    role: Role | None
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="Up to a few minutes behind.")
    replaced_by: str | None = Field(description="The key that its rotation made.")

    @staticmethod
    def of(key: ApiKey) -> "Key":
        """Return the JSON form."""
        return Key(
            id=key.id,
            name=key.name,
            role=key.role,
            scopes=sorted(key.scopes),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
            last_used_at=key.last_used_at,
            replaced_by=key.replaced_by,
        )


class IssuedKey(BaseModel):
    """A new key, with its text."""

    key: Key
    text: str


class RotatedKey(IssuedKey):
    """A new key in an old one's place."""

    replaced: Key


class KeyList(BaseModel):
    """The tenant's keys, newest first."""

    keys: list[Key]


def api_keys_router(edge: Gateway) -> APIRouter:
    """Return the routes on API keys."""
    router = APIRouter(prefix="/v1/api-keys", tags=["api keys"])
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post("", status_code=201, response_model=IssuedKey)
    @burst
    async def issue_key(request: Request, principal: Manager, body: NewKey) -> IssuedKey:
        """Make a key that may do no more than this one; its text is shown this once."""
        key, text = await gateway(request).issue_key(
            principal,
            name=body.name,
            role=body.role,
            scopes=frozenset(body.scopes),
            lifetime=body.lifetime,
        )
        return IssuedKey(key=Key.of(key), text=text)

    @router.get("", response_model=KeyList)
    @burst
    async def list_keys(request: Request, principal: Manager) -> KeyList:
        """Show the tenant's keys."""
        keys = await gateway(request).list_keys(principal.tenant)
        return KeyList(keys=[Key.of(key) for key in keys])

    @router.post("/{key_id}/rotate", status_code=201, response_model=RotatedKey)
    @burst
    async def rotate_key(
        request: Request, principal: Manager, key_id: Id, body: Rotation
    ) -> RotatedKey:
        """Make a key of the same rights, shown this once; the old one ends after the overlap."""
        key, text, replaced = await gateway(request).rotate_key(
            principal, key_id, overlap=body.overlap
        )
        return RotatedKey(key=Key.of(key), text=text, replaced=Key.of(replaced))

    @router.delete("/{key_id}", status_code=204)
    @burst
    async def revoke_key(request: Request, principal: Manager, key_id: Id) -> None:
        """Put a key out of force, everywhere within 2 seconds."""
        await gateway(request).revoke_key(principal.tenant, key_id)

    return router
