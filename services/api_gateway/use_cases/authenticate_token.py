"""Turn an issuer's token into a principal.

Late actor: somebody who lost their rights at the issuer, or whose token was stolen; refused when
the token ends. Its life is bounded by a setting, since nobody tells us of either. A tenant that is
suspended acts no longer than with a key: its standing is asked for apart. Rights that are given
here (`memberships`) are gone within 2 s.
"""

from dataclasses import dataclass

from loguru import logger

from services.api_gateway.domain.token_claims import ClaimRules, UnusableClaims
from services.api_gateway.use_cases.memberships import Memberships
from services.api_gateway.use_cases.ports import TokenIssuer
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal, TenantId


@dataclass(frozen=True, slots=True)
class AuthenticateToken:
    """Check a token of the configured issuer; every refusal reads the same."""

    issuer: TokenIssuer
    rules: ClaimRules
    memberships: Memberships | None = None
    """None: the claims name tenant and roles. Else they are not looked at for either."""

    async def __call__(self, token: str, *, tenant: TenantId | None = None) -> Principal:
        """Return whom the call is by; raises Unauthenticated, Unavailable without the keys.

        Raises InvalidArgument when a member of several tenants names none.
        """
        claims = await self.issuer.claims(token)
        try:
            if self.memberships is None:
                return self.rules.principal(claims)
            member = await self.memberships(self.rules.subject(claims), tenant=tenant)
            return self.rules.principal_of(member, claims)
        except UnusableClaims as error:
            logger.info("token of the issuer refused", lacking=str(error))
            raise Unauthenticated from error
