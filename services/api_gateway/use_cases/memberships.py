"""Which membership a person's request is by.

Late actor: a member who is remembered and was removed, or given other roles, meanwhile; refused by
the age that `Recent` allows, so a change acts on every replica within 2 s.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from services.api_gateway.domain.member import TENANT_HEADER, Member, Person
from services.api_gateway.domain.token_claims import UnusableClaims
from services.api_gateway.use_cases.ports import MemberDirectory
from services.api_gateway.use_cases.recent import Recent
from services.chassis.clock import Clock
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId

_ENOUGH: Final = 2
"""Memberships that are read: with the second one it is known that the person has to choose."""


@dataclass(slots=True)
class Memberships:
    """Tell what somebody is a member of, or was a moment ago."""

    directory: MemberDirectory
    issuer: str
    clock: Clock
    members: Recent[tuple[str, TenantId | None], Sequence[Member]] = field(init=False)

    def __post_init__(self) -> None:
        """Remember what the directory says."""
        self.members = Recent(self._ask, self.clock, name="the directory of members")

    async def __call__(self, subject: str, *, tenant: TenantId | None) -> Member:
        """Return the membership of the tenant, or the only one.

        Raises UnusableClaims where there is none, InvalidArgument where there are several.
        """
        found = await self.members((subject, tenant))
        if not found:
            raise UnusableClaims("membership")
        if len(found) > 1:
            raise InvalidArgument(
                TENANT_HEADER, "must name the tenant: you are a member of several"
            )
        return found[0]

    async def _ask(self, asked: tuple[str, TenantId | None]) -> Sequence[Member] | None:
        subject, tenant = asked
        person = Person(self.issuer, subject)
        return await self.directory.find_members(person, tenant=tenant, limit=_ENOUGH) or None
