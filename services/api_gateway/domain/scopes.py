"""What a credential may do.

Owns: the list of scopes. Routes name the scopes that they need (`entrypoints.rest.access`); roles
are sets of them (`roles`).
"""

from typing import Final

from services.chassis.errors import InvalidArgument, PermissionDenied
from services.chassis.tenancy import Principal

ADMIN: Final = "admin"
"""The role of this name, as keys of before there were roles say it: among their scopes."""

SCOPES: Final = frozenset(
    {
        "jobs:read",
        "jobs:write",
        "models:read",
        "models:write",
        "artifacts:read",
        "artifacts:write",
        "deployments:read",
        "deployments:write",
        "inference",
        "logs:read",
        "nodes:read",
        "nodes:write",
        "queues:write",
        "keys:write",
        "members:write",
        "trace",
        "tenants:read",
        "tenants:write",
    }
)


def check_scopes(scopes: frozenset[str]) -> None:
    """Raise InvalidArgument naming the first scope that does not exist."""
    for scope in sorted(scopes - SCOPES - {ADMIN}):
        raise InvalidArgument(
            "scopes", f"{scope!r} is no scope; there are {', '.join(sorted(SCOPES))}"
        )


def require(principal: Principal, scope: str) -> None:
    """Raise PermissionDenied unless the principal has the scope."""
    if scope not in principal.scopes:
        raise PermissionDenied(scope)
