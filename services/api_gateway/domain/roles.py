"""Which role may do what, in one table.

Owns: the roles and their scopes. A credential has roles, scopes or both; what it may do is the
union (`effective_scopes`). Each role contains the one before it, so that a promotion never takes
anything away.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Final

from services.api_gateway.domain.scopes import ADMIN, SCOPES
from services.chassis.errors import InvalidArgument


class Role(StrEnum):
    """What somebody does here."""

    VIEWER = "viewer"
    DEVELOPER = "developer"
    OPERATOR = "operator"
    ADMIN = "admin"
    PLATFORM_ADMIN = "platform-admin"


_VIEWER: Final = frozenset(
    {"jobs:read", "models:read", "artifacts:read", "deployments:read", "logs:read"}
)
"""Sees what its tenant has."""
_DEVELOPER: Final = _VIEWER | {"jobs:write", "models:write", "artifacts:write", "inference"}
"""Trains and registers, and asks what is served."""
_OPERATOR: Final = _DEVELOPER | {"deployments:write", "queues:write", "nodes:read", "trace"}
"""Decides what is served and which queues wait, and looks at the machines."""
_ADMIN: Final = _OPERATOR | {"keys:write", "members:write"}
"""Decides who may do what in its tenant."""
_PLATFORM_ADMIN: Final = _ADMIN | {"tenants:read", "tenants:write", "nodes:write"}
"""Decides which tenants there are, and which machines take work."""

SCOPES_BY_ROLE: Final[Mapping[Role, frozenset[str]]] = {
    Role.VIEWER: _VIEWER,
    Role.DEVELOPER: _DEVELOPER,
    Role.OPERATOR: _OPERATOR,
    Role.ADMIN: _ADMIN,
    Role.PLATFORM_ADMIN: _PLATFORM_ADMIN,
}

ADMINISTRATORS: Final = frozenset(
    role for role, scopes in SCOPES_BY_ROLE.items() if "members:write" in scopes
)
"""Roles that decide who may do what in their tenant."""


def role_of(text: str, *, field: str = "role") -> Role:
    """Return the role of this name; raises InvalidArgument naming `field`."""
    try:
        return Role(text)
    except ValueError:
        raise InvalidArgument(field, f"{text!r} is no role; there are {', '.join(Role)}") from None


def stored_role(text: str | None) -> Role | None:
    """Return the role of a stored name; one of a newer release gives nothing here."""
    return next((role for role in Role if role.value == text), None)


def roles_of(role: Role | None, scopes: frozenset[str]) -> frozenset[Role]:
    """Return the roles of a key."""
    named = frozenset() if role is None else frozenset({role})
    return named | {Role.ADMIN} if ADMIN in scopes else named


def effective_scopes(roles: Iterable[Role], scopes: frozenset[str] = frozenset()) -> frozenset[str]:
    """Return what roles and scopes together amount to; a scope that does not exist is none."""
    return (scopes & SCOPES).union(*(SCOPES_BY_ROLE[role] for role in roles))
