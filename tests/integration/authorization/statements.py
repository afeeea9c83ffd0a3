"""What services ask their databases for one caller."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from services.chassis.errors import Unauthenticated
from services.chassis.rpc.context import principal
from services.chassis.tenancy import Principal

ENDS = frozenset({"COMMIT", "ROLLBACK"})


@contextmanager
def statements_for(caller: Principal) -> Iterator[list[str]]:
    """Give the statements of all services of this process for a caller's RPCs, as they come.

    Values are not among them, only their places. What loops ask meanwhile is for nobody.
    """
    seen: list[str] = []

    def note(statement: str) -> None:
        if _is_acting_for(caller):
            seen.append(statement)

    listeners: dict[str, Callable[..., None]] = {
        "begin": lambda connection: note("BEGIN"),
        "before_cursor_execute": lambda connection, cursor, statement, *rest: note(statement),
        "commit": lambda connection: note("COMMIT"),
        "rollback": lambda connection: note("ROLLBACK"),
    }
    for name, listener in listeners.items():
        sa.event.listen(sa.Engine, name, listener)
    try:
        yield seen
    finally:
        for name, listener in listeners.items():
            sa.event.remove(sa.Engine, name, listener)


def _is_acting_for(caller: Principal) -> bool:
    try:
        return principal() == caller
    except Unauthenticated:
        return False
