"""`/v1/tenants/{tenant_id}/members`: people of an issuer who belong to a tenant.

One member is named by the query, `?subject=…&issuer=…`: both may hold any character, and a slash in
a path does not reach every server as it was sent.
"""

import base64
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from services.api_gateway.domain import member as domain
from services.api_gateway.domain.issuer import ISSUER_CHARACTERS_MAX
from services.api_gateway.domain.roles import Role
from services.api_gateway.entrypoints.rest.access import needs, noun_router
from services.api_gateway.entrypoints.rest.dependencies import Gateway, gateway
from services.api_gateway.entrypoints.rest.fields import Body
from services.api_gateway.entrypoints.rest.paging import PageSize
from services.api_gateway.entrypoints.rest.tenants import TenantName
from services.api_gateway.entrypoints.rest.versions import TAGGED, IfVersion, tag
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import Principal, TenantId

_TOKEN_CHARACTERS_MAX = 6 * (ISSUER_CHARACTERS_MAX + domain.SUBJECT_CHARACTERS_MAX)
"""A character has four bytes at most, and three of them become four of a token."""

Manager = Annotated[Principal, needs("members:write")]


def _person(
    request: Request,
    subject: Annotated[
        str,
        Query(
            min_length=1,
            max_length=domain.SUBJECT_CHARACTERS_MAX,
            description="The issuer's name of somebody: `sub` of their tokens.",
        ),
    ],
    issuer: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=ISSUER_CHARACTERS_MAX,
            description="Whose name it is: `iss`, to the letter. By default the issuer whose tokens"
            " the platform takes.",
        ),
    ] = None,
) -> domain.Person:
    """Return whom the query names; raises InvalidArgument."""
    return domain.Person.named(subject, issuer=issuer or gateway(request).issuer)


Person = Annotated[domain.Person, Depends(_person)]


class Membership(Body):
    """All that a member is."""

    roles: list[Role] = Field(min_length=1, max_length=domain.ROLES_MAX)


class Member(BaseModel):
    """Somebody who belongs to the tenant, and what they do there."""

    issuer: str
    subject: str
    roles: list[Role]
    version: int
    added_at: datetime
    changed_at: datetime
    changed_by: str

    @staticmethod
    def of(member: domain.Member) -> "Member":
        """Return the JSON form."""
        return Member(
            issuer=member.person.issuer,
            subject=member.person.subject,
            roles=sorted(member.roles),
            version=member.version,
            added_at=member.added_at,
            changed_at=member.changed_at,
            changed_by=member.changed_by,
        )


class MemberList(BaseModel):
    """A page of members by issuer and subject."""

    members: list[Member]
    next_page_token: str


def members_router(edge: Gateway) -> APIRouter:
    """Return the routes on members."""
    router = noun_router("/v1/tenants/{tenant_id}/members", tag="members")
    burst = edge.burst_limiter.limit(edge.policies.burst)

    @router.get("", response_model=MemberList)
    @burst
    async def list_members(
        request: Request,
        manager: Manager,
        tenant_id: TenantName,
        page_size: PageSize = 50,
        page_token: Annotated[
            str,
            Query(
                max_length=_TOKEN_CHARACTERS_MAX,
                description="The previous page's next_page_token.",
            ),
        ] = "",
    ) -> MemberList:
        """Show the members of one's own tenant; the platform's administrators: of any."""
        found = await gateway(request).list_members(
            manager, TenantId(tenant_id), after=_from_token(page_token), limit=page_size + 1
        )
        shown = found[:page_size]
        return MemberList(
            members=[Member.of(member) for member in shown],
            next_page_token=_to_token(shown[-1].person) if len(found) > page_size else "",
        )

    @router.put("", response_model=Member, responses={200: {**TAGGED}})
    @burst
    async def put_member(
        request: Request,
        response: Response,
        manager: Manager,
        tenant_id: TenantName,
        *,
        person: Person,
        body: Membership,
        if_version: IfVersion,
    ) -> Member:
        """Let somebody be a member with these roles and no others; acts within 2 seconds.

        Keys that they made and that may do more than these roles are revoked. A role may do no
        more than whoever gives it. The tenant's last administrator stays one, but for the
        platform's administrators.
        """
        member = await gateway(request).put_member(
            manager, TenantId(tenant_id), person, frozenset(body.roles), if_version=if_version
        )
        tag(response, member.version)
        return Member.of(member)

    @router.delete("", status_code=204)
    @burst
    async def remove_member(
        request: Request,
        manager: Manager,
        tenant_id: TenantName,
        *,
        person: Person,
        if_version: IfVersion,
    ) -> None:
        """Let somebody be a member no longer, everywhere within 2 seconds; again: no change.

        The keys that they made are revoked.

        The tenant's last administrator stays, but for the platform's administrators.
        """
        await gateway(request).remove_member(
            manager, TenantId(tenant_id), person, if_version=if_version
        )

    return router


def _to_token(last: domain.Person) -> str:
    return base64.urlsafe_b64encode(f"{last.issuer}\n{last.subject}".encode()).decode()


def _from_token(token: str) -> domain.Person | None:
    """Return whom a page begins after; raises InvalidArgument."""
    if not token:
        return None
    try:
        text = base64.b64decode(token, altchars=b"-_", validate=True).decode()
        issuer, _, subject = text.partition("\n")
        return domain.Person.named(subject, issuer=issuer)
    except (ValueError, InvalidArgument) as error:
        raise InvalidArgument("page_token", "was not given out by this list") from error
