"""`/v1/api-keys`: a tenant's keys; a key's text is in the answer that makes it, nowhere else."""

from datetime import datetime, timedelta

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from services.api_gateway.domain.api_key import NAME_CHARACTERS_MAX, ApiKey
from services.api_gateway.entrypoints.rest.dependencies import Gateway, caller, gateway
from services.api_gateway.entrypoints.rest.fields import Body, Id


class NewKey(Body):
    """What a new key is called and may do."""

    name: str = Field(min_length=1, max_length=NAME_CHARACTERS_MAX)
    scopes: list[str] = Field(min_length=1, max_length=32)
    lifetime: timedelta | None = Field(default=None, gt=timedelta(0), le=timedelta(days=3660))


class Key(BaseModel):
    """A key without its secret."""

    id: str
    name: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @staticmethod
    def of(key: ApiKey) -> "Key":
        """Return the JSON form."""
        return Key(
            id=key.id,
            name=key.name,
            scopes=sorted(key.scopes),
            created_at=key.created_at,
            expires_at=key.expires_at,
            revoked_at=key.revoked_at,
        )


class IssuedKey(BaseModel):
    """A new key, with its text."""

    key: Key
    text: str


class KeyList(BaseModel):
    """The tenant's keys, newest first."""

    keys: list[Key]


def api_keys_router(edge: Gateway) -> APIRouter:
    """Return the routes on API keys."""
    router = APIRouter(prefix="/v1/api-keys", tags=["api keys"])
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post("", status_code=201, response_model=IssuedKey)
    @burst
    async def issue_key(request: Request, body: NewKey) -> IssuedKey:
        """Make a key that may do no more than this one; its text is shown this once."""
        principal = caller(request, "keys:write")
        key, text = await gateway(request).issue_key(
            principal,
            name=body.name,
            scopes=frozenset(body.scopes),
            lifetime=body.lifetime,
        )
        return IssuedKey(key=Key.of(key), text=text)

    @router.get("", response_model=KeyList)
    @burst
    async def list_keys(request: Request) -> KeyList:
        """Show the tenant's keys."""
        principal = caller(request, "keys:write")
        keys = await gateway(request).list_keys(principal.tenant)
        return KeyList(keys=[Key.of(key) for key in keys])

    @router.delete("/{key_id}", status_code=204)
    @burst
    async def revoke_key(request: Request, key_id: Id) -> None:
        """Put a key out of force, everywhere within 2 seconds."""
        principal = caller(request, "keys:write")
        await gateway(request).revoke_key(principal.tenant, key_id)

    return router
