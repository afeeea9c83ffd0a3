"""Turn an issuer's token into a principal.

Late actor: somebody who lost their rights at the issuer, or whose token was stolen; refused when
the token ends. Its life is bounded by a setting, since nobody tells us of either. A tenant that is
suspended acts no longer than with a key: its standing is asked for apart.
"""

from dataclasses import dataclass

from loguru import logger

from services.api_gateway.domain.token_claims import ClaimRules, UnusableClaims
from services.api_gateway.use_cases.ports import TokenIssuer
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal


@dataclass(frozen=True, slots=True)
class AuthenticateToken:
    """Check a token of the configured issuer; every refusal reads the same."""

    issuer: TokenIssuer
    rules: ClaimRules

    async def __call__(self, token: str) -> Principal:
        """Return whom the call is by; raises Unauthenticated, Unavailable without the keys."""
        claims = await self.issuer.claims(token)
        try:
            return self.rules.principal(claims)
        except UnusableClaims as error:
            logger.info("token of the issuer refused", lacking=str(error))
            raise Unauthenticated from error
