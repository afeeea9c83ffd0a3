"""What a credential may do.

Owns: the list of scopes, and which scope contains which. Routes name the scope that they need in
`entrypoints.rest`; a role table comes with tenant administration.
"""

from typing import Final

from services.chassis.errors import InvalidArgument, PermissionDenied
from services.chassis.tenancy import Principal

ADMIN: Final = "admin"
"""Contains every other scope of its tenant."""

SCOPES: Final = frozenset(
    {
        ADMIN,
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
        "keys:write",
        "trace",
    }
)


def check_scopes(scopes: frozenset[str]) -> None:
    """Raise InvalidArgument naming the first scope that does not exist."""
    if not scopes:
        raise InvalidArgument("scopes", "must not be empty")
    for scope in sorted(scopes - SCOPES):
        raise InvalidArgument(
            "scopes", f"{scope!r} is no scope; there are {', '.join(sorted(SCOPES))}"
        )


def effective_scopes(scopes: frozenset[str]) -> frozenset[str]:
    """Return what the scopes amount to: `admin` is all of them."""
    return SCOPES if ADMIN in scopes else scopes


def require(principal: Principal, scope: str) -> None:
    """Raise PermissionDenied unless the principal has the scope."""
    if scope not in principal.scopes:
        raise PermissionDenied(scope)
