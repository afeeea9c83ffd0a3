"""What a server takes from which service (ADR-0010).

A token's signature proves which service calls; for whom, and with which scopes, is that service's
own word. So each server lists whom it takes such words from, and which: whoever drives one service
can't act as all of them. Who is not listed may do nothing. Leaves to `identity` whether a token is
good, and to the token which of these scopes its principal has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.chassis.rpc.identity import Caller
from services.chassis.tenancy import NO_TENANT


@dataclass(frozen=True, slots=True)
class Grant:
    """Scopes that a service may use as subjects of these kinds."""

    kinds: frozenset[str]
    """What a subject has before its first colon; the whole of one that has none."""
    scopes: frozenset[str]
    is_for_tenants: bool = True
    """Whether it acts for any tenant, else for itself alone: on behalf of none."""


Callers = Mapping[str, Sequence[Grant]]
"""What each service may do at a server."""


def may(callers: Callers, caller: Caller, scope: str) -> bool:
    """Tell whether this service may use this scope for whom it says that it acts."""
    kind = caller.principal.subject.partition(":")[0]
    is_for_tenant = caller.principal.tenant != NO_TENANT
    return any(
        scope in grant.scopes and kind in grant.kinds and grant.is_for_tenants == is_for_tenant
        for grant in callers.get(caller.service, ())
    )
