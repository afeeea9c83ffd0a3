"""`/v1/api-keys`: a tenant's keys; a key's text is in the answer that makes it, nowhere else."""

from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from services.api_gateway.domain.api_key import (
    KEYS_LISTED_MAX,
    LIFETIME_MAX,
    NAME_CHARACTERS_MAX,
    ROTATION_OVERLAP_MAX,
    ApiKey,
    KeyPlace,
)
from services.api_gateway.domain.roles import Role
from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body, Id
from services.chassis.tenancy import Principal

Manager = Annotated[Principal, needs("keys:write")]
_IN_FORCE: Final = "in-force"
_ENDED: Final = "ended"
_TOKEN: Final = rf"^(({_IN_FORCE}|{_ENDED})\.key_[0-9a-z]{{26}})?$"


class NewKey(Body):
    """What a new key is called, and what it may do: a role or scopes, not both."""

    name: str = Field(min_length=1, max_length=NAME_CHARACTERS_MAX)
    role: Role | None = None
    scopes: list[str] = Field(default_factory=list, max_length=32)
    lifetime: timedelta | None = Field(
        default=None,
        description="An ISO 8601 duration of more than 0 seconds and at most"
        f" {LIFETIME_MAX.days} days; null: for ever.",
    )


class Rotation(Body):
    """How long the old key stays in force beside the new one."""

    overlap: timedelta = Field(
        default=timedelta(hours=24),
        description=f"An ISO 8601 duration of 0 to {ROTATION_OVERLAP_MAX.days} days.",
    )


class Person(BaseModel):
    """Somebody, by their issuer's name of them."""

    issuer: str
    subject: str


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
    created_by: str | None = Field(
        description="Who made it: `user:<subject>`, `key:<id>`, or `platform` for what the platform"
        " gave the tenant; null: that was not recorded yet."
    )
    person: Person | None = Field(
        description="Who made it, or is behind the key that made it: it is revoked when they are"
        " removed from the tenant's members, or may no longer do all that it may."
    )

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
            created_by=key.created_by,
            person=None
            if key.person is None
            else Person(issuer=key.person.issuer, subject=key.person.subject),
        )


class IssuedKey(BaseModel):
    """A new key, with its text."""

    key: Key
    text: str


class RotatedKey(IssuedKey):
    """A new key in an old one's place."""

    replaced: Key


class KeyList(BaseModel):
    """A page of the tenant's keys: those in force first, and of each the newest."""

    keys: list[Key]
    next_page_token: str


def api_keys_router(edge: Gateway) -> APIRouter:
    """Return the routes on API keys."""
    router = noun_router("/v1/api-keys", tag="api keys")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.post("", status_code=201, response_model=IssuedKey)
    @burst
    async def issue_key(request: Request, principal: Manager, body: NewKey) -> IssuedKey:
        """Make a key that may do no more than its maker; its text is shown this once.

        A tenant may have a bounded number in force: over it 403 `QUOTA_EXCEEDED`.
        """
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
    async def list_keys(
        request: Request,
        principal: Manager,
        page_size: Annotated[
            int, Query(ge=1, le=KEYS_LISTED_MAX, description="Keys on a page.")
        ] = KEYS_LISTED_MAX,
        page_token: Annotated[
            str, Query(pattern=_TOKEN, description="The previous page's next_page_token.")
        ] = "",
    ) -> KeyList:
        """Show the tenant's keys: those in force before those that have ended.

        A key that ends between two pages may be on both.
        """
        keys, last = await gateway(request).list_keys(
            principal.tenant, after=_from_token(page_token), limit=page_size
        )
        return KeyList(
            keys=[Key.of(key) for key in keys],
            next_page_token="" if last is None else _to_token(last),
        )

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
        await gateway(request).revoke_key(principal, key_id)

    return router


def _to_token(last: KeyPlace) -> str:
    return f"{_IN_FORCE if last.is_in_force else _ENDED}.{last.key_id}"


def _from_token(token: str) -> KeyPlace | None:
    """Return where a page begins after; its form was checked."""
    where, _, key_id = token.partition(".")
    return KeyPlace(is_in_force=where == _IN_FORCE, key_id=key_id) if token else None
