"""What a failing database means to a caller.

Owns: the one mapping from SQLAlchemy and asyncpg failures to the closed list, and the failures
that only a transaction knows. Leaves to adapters: `IntegrityError`, since only they know which
constraint stands for which rule (`unique_violation` names it); programming errors stay bugs.

asyncpg's errors arrive as bare `DBAPIError`, so they are told apart by SQLSTATE, not by class.
Source: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import sqlalchemy.exc

from services.chassis.errors import Conflict, ModelyardError, Unavailable

_DOWN: Final = ("08", "53", "57P", "58", "25P03")
"""Prefixes: connection, resources, shutdown, system, idle transaction ended by the server."""

_TOO_SLOW: Final = ("57014", "55P03")
"""`statement_timeout` and `lock_timeout`."""

_ABORTED: Final = ("40",)
"""Serialization failures and deadlocks: the same transaction may succeed when tried again."""

LOCK_TIMEOUT: Final = "55P03"
_UNIQUE_VIOLATION: Final = "23505"


class LeaseLost(Conflict):
    """Another process holds the lease now: what this one wanted to write is refused."""

    def __init__(self, name: str) -> None:
        super().__init__("lease", name)


class TransactionAborted(Conflict):
    """The database gave up this transaction in favour of another; trying again can help."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__("transaction", sqlstate)


def sqlstate(error: BaseException) -> str:
    """Return the five-character code that PostgreSQL gave, or an empty string."""
    origin = getattr(error, "orig", error)
    return getattr(origin, "sqlstate", None) or ""


def unique_violation(error: sqlalchemy.exc.IntegrityError) -> str | None:
    """Return the name of the unique constraint that a row would have broken, if that was it."""
    if sqlstate(error) != _UNIQUE_VIOLATION:
        return None
    return str(getattr(error.driver_exception, "constraint_name", ""))


def is_outage(error: BaseException) -> bool:
    """Tell whether the database itself failed; this is what its breaker counts.

    A full pool of ours is overload, not an outage: opening the breaker on it would turn a burst
    into a stop.
    """
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated or sqlstate(error).startswith(_DOWN)
    # Neither a refused connection nor asyncpg's own time-out is wrapped by SQLAlchemy.
    return isinstance(error, ConnectionError | TimeoutError | _ConnectFailed)


@contextmanager
def database_errors() -> Iterator[None]:
    """Turn failures of the database inside the block into errors of the closed list.

    Raises Unavailable when the database is down, too slow, or our pool is full, and
    TransactionAborted when it asks for another try.
    """
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
        meant = _meaning(error)
        if meant is None:
            raise
        raise meant from error


@contextmanager
def connecting() -> Iterator[None]:
    """Mark a block that only connects: any operating system error in it is the database's."""
    try:
        yield
    except OSError as error:
        raise _ConnectFailed(str(error)) from error


class _ConnectFailed(ConnectionError):
    """No route, no name, no socket: connecting failed before the protocol began."""


def _meaning(error: Exception) -> ModelyardError | None:
    code = sqlstate(error)
    if code.startswith(_ABORTED):
        return TransactionAborted(code)
    overloaded = isinstance(error, sqlalchemy.exc.TimeoutError) or code.startswith(_TOO_SLOW)
    if overloaded or _is_replanned(error) or is_outage(error):
        return Unavailable("database")
    return None


def _is_replanned(error: Exception) -> bool:
    """Tell a prepared plan gone stale: a migration under a running service, once a connection."""
    driver_error = getattr(error, "driver_exception", None)
    return type(driver_error).__name__ == "InvalidCachedStatementError"
