"""Who makes a key or a member, what they may do by now, and which person is behind them.

A key ends with the membership of the person behind it (`manage_members`), however many keys are
between the two (ADR-0027).

Who could act late: a gateway that remembers a member who was removed or given lesser roles, or a
key that was revoked, and makes for them what would stay: a key, or themselves a member again. What
refuses it: both are looked up here, under the lock of the tenant's row, which whoever ends them
takes as well.
"""

from dataclasses import dataclass, replace

from services.api_gateway.domain.api_key import KEY
from services.api_gateway.domain.member import PERSON, Person
from services.api_gateway.domain.roles import effective_scopes
from services.api_gateway.domain.scopes import require
from services.api_gateway.domain.tenant import Tenant
from services.api_gateway.use_cases.ports import Transaction
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal


@dataclass(frozen=True, slots=True)
class Maker:
    """Whoever makes something, by what is stored."""

    principal: Principal
    person: Person | None
    """Who is behind it; None: nobody that is known."""


@dataclass(frozen=True, slots=True)
class Makers:
    """Looks up who makes what stays."""

    issuer: str | None = None
    """Whose tokens let people in; None: nobody's."""
    are_members: bool = False
    """Whether the lists of members let people in; else what they may is known from tokens alone."""

    async def __call__(self, tx: Transaction, by: Principal, *, scope: str) -> Maker:
        """Return the maker, and keep it from being ended until the commit.

        Raises Unauthenticated for who is ended, PermissionDenied for who lacks the scope by now,
        FailedPrecondition for a deleted tenant.
        """
        return await self.in_locked(tx, await tx.members.locked_tenant(), by, scope=scope)

    async def in_locked(
        self, tx: Transaction, tenant: Tenant, by: Principal, *, scope: str
    ) -> Maker:
        """Do it in a tenant that this transaction has locked."""
        tenant.check_kept()
        maker = await self._find(tx, by)
        require(maker.principal, scope)
        return maker

    async def _find(self, tx: Transaction, by: Principal) -> Maker:
        if by.subject.startswith(KEY):
            key = await tx.keys.find(by.subject.removeprefix(KEY))
            if key is None or not key.is_in_force(at=tx.now):
                raise Unauthenticated
            return Maker(key.principal, key.person)
        if self.issuer is None or not by.subject.startswith(PERSON):
            return Maker(by, None)
        person = Person(self.issuer, by.subject.removeprefix(PERSON))
        if not self.are_members:
            return Maker(by, person)
        member = await tx.members.find(person)
        if member is None:
            raise Unauthenticated
        return Maker(replace(by, scopes=effective_scopes(member.roles)), person)
