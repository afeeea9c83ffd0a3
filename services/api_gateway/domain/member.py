"""Members: people of an OpenID Connect issuer who belong to a tenant, with roles.

Owns: what names a person, and how a membership changes. A subject is unique at its issuer only, so
both together are the name. Leaves to `token_claims` whether a member is let in with a token. Always
holds: a member has a role; `version` grows by one with each change, and by nothing else; who is
added again begins above the versions that were there before.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

from services.api_gateway.domain.issuer import ISSUER_CHARACTERS_MAX, check_issuer_url
from services.api_gateway.domain.roles import ADMINISTRATORS, Role
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import TenantId

TENANT_HEADER: Final = "Modelyard-Tenant"
"""By which somebody says which of their tenants a request is for."""
PERSON: Final = "user:"
"""Begins a person's subject: none may be chosen at an issuer that a key or an attempt has here."""
SUBJECT_CHARACTERS_MAX: Final = 200
MEMBERS_MAX: Final = 10_000
"""Of one tenant."""
ROLES_MAX: Final = len(Role)
"""Of one member, named in one request."""


def is_subject(text: str) -> bool:
    """Tell whether an issuer's name of somebody can be theirs here."""
    return 0 < len(text) <= SUBJECT_CHARACTERS_MAX and text.isprintable()


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody, by whom they are known and under which name there."""

    issuer: str
    subject: str

    @classmethod
    def named(cls, subject: str, *, issuer: str | None) -> "Person":
        """Return the person; raises InvalidArgument, also without an issuer."""
        if issuer is None:
            raise InvalidArgument("issuer", "must be given: the gateway has no issuer set")
        if len(issuer) > ISSUER_CHARACTERS_MAX or not issuer.isprintable():
            raise InvalidArgument(
                "issuer", f"must have 1 to {ISSUER_CHARACTERS_MAX} printable characters"
            )
        check_issuer_url(issuer, field="issuer")
        if not is_subject(subject):
            raise InvalidArgument(
                "subject", f"must have 1 to {SUBJECT_CHARACTERS_MAX} printable characters"
            )
        return cls(issuer, subject)


@dataclass(frozen=True, slots=True)
class Member:
    """A person's membership of a tenant."""

    tenant: TenantId
    person: Person
    roles: frozenset[Role]
    version: int
    added_at: datetime
    changed_at: datetime
    changed_by: str
    """The subject of whoever gave the roles."""

    @property
    def is_administrator(self) -> bool:
        """Tell whether it decides about the tenant's other members."""
        return not self.roles.isdisjoint(ADMINISTRATORS)

    @classmethod
    def added(
        cls,
        tenant: TenantId,
        person: Person,
        roles: frozenset[Role],
        *,
        by: str,
        at: datetime,
        removed_version_max: int = 0,
    ) -> "Member":
        """Return a new member; raises InvalidArgument without a role.

        Its version is above that of whoever was removed, so that no change that was meant for an
        earlier membership fits it.
        """
        _check_some(roles)
        return cls(
            tenant=tenant,
            person=person,
            roles=roles,
            version=removed_version_max + 1,
            added_at=at,
            changed_at=at,
            changed_by=by,
        )

    def given(self, roles: frozenset[Role], *, by: str, at: datetime) -> "Member":
        """Have these roles and no others; the same ones: no change. Raises InvalidArgument."""
        _check_some(roles)
        if roles == self.roles:
            return self
        return replace(self, roles=roles, version=self.version + 1, changed_at=at, changed_by=by)


def _check_some(roles: frozenset[Role]) -> None:
    if not roles:
        raise InvalidArgument("roles", "must name one at least; whoever has none is no member")
