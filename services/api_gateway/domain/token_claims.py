"""From what an issuer says of somebody to a principal.

Owns: which claims count, and when an administrator needs a second factor. Tenant and roles come
from the claims (`principal`) or from a membership (`principal_of`), never from both. Leaves to
`adapters.oidc` whether the issuer said it at all, and to the tenant's standing whether the tenant
exists. Claims are a stranger's data until they have been through here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.api_gateway.domain.member import PERSON, Member, is_subject
from services.api_gateway.domain.roles import Role, effective_scopes
from services.chassis.errors import InvalidArgument
from services.chassis.tenancy import Principal, TenantId, tenant_id

_ADMINISTRATORS: Final = frozenset({Role.ADMIN, Role.PLATFORM_ADMIN})


class UnusableClaims(Exception):
    """The issuer vouches for somebody whom we can't let in; `args` say why, for the log alone."""


@dataclass(frozen=True, slots=True)
class ClaimRules:
    """How one issuer's claims are read."""

    tenant_claim: str
    """A name, or a path such as `realm.tenant`."""
    roles_claim: str
    needs_second_factor: bool
    """Whether administrators are let in only with one of the two below."""
    second_factor_methods: frozenset[str]
    """Values of `amr` that stand for a second factor (RFC 8176)."""
    second_factor_levels: frozenset[str]
    """Values of `acr` that do."""

    def principal(self, claims: Mapping[str, object]) -> Principal:
        """Return whom the claims are about; raises UnusableClaims.

        Roles that we don't have are somebody else's, and left out. Whoever has none of ours is let
        in and may do nothing.
        """
        subject = self.subject(claims)
        tenant = _at(claims, self.tenant_claim)
        if not isinstance(tenant, str):
            raise UnusableClaims("tenant")
        try:
            checked = tenant_id(tenant)
        except InvalidArgument as error:
            raise UnusableClaims("tenant") from error
        named = _texts(_at(claims, self.roles_claim))
        roles = frozenset(role for role in Role if role.value in named)
        return self._let_in(subject, checked, roles, claims)

    def principal_of(self, member: Member, claims: Mapping[str, object]) -> Principal:
        """Return whom a member's claims are about; raises UnusableClaims."""
        return self._let_in(member.person.subject, member.tenant, member.roles, claims)

    def subject(self, claims: Mapping[str, object]) -> str:
        """Return the issuer's name of whom the claims are about; raises UnusableClaims."""
        subject = claims.get("sub")
        if not isinstance(subject, str) or not is_subject(subject):
            raise UnusableClaims("subject")
        return subject

    def _let_in(
        self,
        subject: str,
        tenant: TenantId,
        roles: frozenset[Role],
        claims: Mapping[str, object],
    ) -> Principal:
        if self.needs_second_factor and roles & _ADMINISTRATORS and not self._has_second(claims):
            raise UnusableClaims("second factor")
        return Principal(
            tenant=tenant,
            subject=f"{PERSON}{subject}",
            scopes=effective_scopes(roles),
            roles=frozenset(role.value for role in roles),
        )

    def _has_second(self, claims: Mapping[str, object]) -> bool:
        methods, level = claims.get("amr"), claims.get("acr")
        by_method = isinstance(methods, list) and bool(_texts(methods) & self.second_factor_methods)
        return by_method or (isinstance(level, str) and level in self.second_factor_levels)


def _at(claims: Mapping[str, object], path: str) -> object:
    """Return the claim of this name, or else what the path leads to."""
    if path in claims:
        return claims[path]
    found: object = claims
    for name in path.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _texts(value: object) -> frozenset[str]:
    """Return the texts of a list, or of one text with spaces in between."""
    if isinstance(value, str):
        return frozenset(value.split())
    parts = value if isinstance(value, list) else []
    return frozenset(part for part in parts if isinstance(part, str))
