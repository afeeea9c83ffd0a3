"""Turn a credential into a principal: a key here, an issuer's token by `authenticate_token`.

Late actor: a key that is remembered and was revoked meanwhile; refused by the age that `Recent`
allows, so a revocation acts on every replica within 2 s (design: "a revoked key acts within 2 s
everywhere").
"""

from dataclasses import dataclass, field

from services.api_gateway.domain.api_key import ApiKey, PresentedKey, admitted
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.key_uses import KeyUses
from services.api_gateway.use_cases.ports import Directory
from services.api_gateway.use_cases.recent import Recent
from services.chassis.clock import Clock
from services.chassis.errors import Unauthenticated
from services.chassis.tenancy import Principal, TenantId


@dataclass(slots=True)
class Authenticate:
    """Check an `Authorization` header; every refusal reads the same."""

    directory: Directory
    clock: Clock
    uses: KeyUses = field(default_factory=KeyUses)
    tokens: AuthenticateToken | None = None
    """None: keys alone let anybody in."""
    keys: Recent[str, ApiKey] = field(init=False)

    def __post_init__(self) -> None:
        """Remember what the directory says."""
        self.keys = Recent(self.directory.find_key, self.clock, name="the directory of keys")

    async def __call__(
        self, authorization: str | None, *, tenant: TenantId | None = None
    ) -> Principal:
        """Return whom the call is by; raises Unauthenticated, also where it is for another tenant.

        Who may act for several tenants has to name one, else InvalidArgument.
        """
        presented = PresentedKey.parse(authorization)
        if presented is None:
            principal = await self._by_token(authorization, tenant)
        else:
            principal = await self._by_key(presented)
        if tenant not in (None, principal.tenant):
            raise Unauthenticated
        return principal

    async def _by_key(self, presented: PresentedKey) -> Principal:
        key = await self.keys(presented.id)
        now = self.clock.now()
        principal = admitted(key, presented.secret, at=now)
        if principal is None:
            raise Unauthenticated
        self.uses.note(presented.id, at=now)
        return principal

    async def _by_token(self, authorization: str | None, tenant: TenantId | None) -> Principal:
        scheme, _, token = (authorization or "").partition(" ")
        if self.tokens is None or scheme.lower() != "bearer":
            raise Unauthenticated
        return await self.tokens(token.strip(), tenant=tenant)

    def remembers(self, authorization: str | None) -> bool:
        """Tell whether the header's key is known without asking the directory."""
        presented = PresentedKey.parse(authorization)
        return presented is not None and self.keys.peek(presented.id) is not None
