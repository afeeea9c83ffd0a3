"""Who a call is for and by whom.

Owns: the types `TenantId` and `Principal`, and the shape of a tenant's name. Authentication is the
gateway's; carrying the principal from service to service is `chassis.rpc`'s.
"""

import re
from dataclasses import dataclass
from typing import Final, NewType

from services.chassis.errors import InvalidArgument

TenantId = NewType("TenantId", str)

_TENANT: Final = re.compile(r"[a-z][a-z0-9-]{0,39}")


def tenant_id(text: str, *, field: str = "tenant") -> TenantId:
    """Return a checked tenant id (a lower-case DNS label of at most 40 characters).

    Raises InvalidArgument naming `field`.
    """
    if not _TENANT.fullmatch(text):
        raise InvalidArgument(field, "must match [a-z][a-z0-9-]{0,39}")
    return TenantId(text)


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated caller: the tenant it acts for, its name, and what it may do."""

    tenant: TenantId
    subject: str
    scopes: frozenset[str]
