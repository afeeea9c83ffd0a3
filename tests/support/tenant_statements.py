"""Looks at every statement of a tenant's unit of work: it names the tenant, or fails (ADR-0020).

Owns: what counts as naming. A statement that reads, changes or deletes rows of a table with a
column `tenant` has `tenant = <the unit of work's>` among the conditions that all must hold; an
inserted row is stamped with it. Leaves alone what touches no such table (nodes, leases), and what
is no tenant's (`system`, `reading(because=…)`).

It looks at what is about to be sent, so a statement is judged whether or not there are rows that a
missing condition would have shown.
"""

import re
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import (
    BinaryExpression,
    BindParameter,
    BooleanClauseList,
    CollectionAggregate,
)

from services.chassis.db.unit_of_work import PostgresUnitOfWork, Transaction
from services.chassis.tenancy import TenantId

_COLUMN: Final = "tenant"
_OF_TABLES: Final = re.compile(r"\b(from|into|update|table|using|call|do)\b", re.IGNORECASE)
"""Without one of these words SQL as text reaches no table; with one it can't be looked at."""


class TenantNotNamed(AssertionError):
    """A statement of a tenant's unit of work could have touched another tenant's rows."""


@contextmanager
def looked_at(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Look at all statements of this process's tenants while the block runs."""
    opened = PostgresUnitOfWork.__call__
    tenants: dict[sa.Connection | None, TenantId] = {}

    @asynccontextmanager
    async def watched(
        unit_of_work: PostgresUnitOfWork, tenant: TenantId
    ) -> AsyncIterator[Transaction]:
        async with AsyncExitStack() as stack:
            tx = await stack.enter_async_context(opened(unit_of_work, tenant))
            connection = tx.connection.sync_connection
            tenants[connection] = tenant
            try:
                yield tx
                await stack.aclose()  # the events' rows are sent as it ends
            finally:
                del tenants[connection]

    def look(
        connection: sa.Connection,
        statement: object,
        many: Sequence[Mapping[str, Any]],
        one: Mapping[str, Any],
        _options: Mapping[str, Any],
    ) -> None:
        if connection in tenants:
            check_names(statement, tenants[connection], many or [one])

    monkeypatch.setattr(PostgresUnitOfWork, "__call__", watched)
    event.listen(sa.Engine, "before_execute", look)
    try:
        yield
    finally:
        event.remove(sa.Engine, "before_execute", look)


def check_names(statement: object, tenant: TenantId, rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise TenantNotNamed unless a statement, given these parameters, stays within a tenant."""
    if isinstance(statement, sa.TextClause) and not _OF_TABLES.search(statement.text):
        return
    if not isinstance(statement, sa.Select | sa.Insert | sa.Update | sa.Delete):
        raise TenantNotNamed(f"{tenant}'s unit of work, can't be looked at: {statement}")
    for part in visitors.iterate(statement):
        if isinstance(part, sa.Insert):
            tables, named = _tables_in([part.table]), _stamps(part, rows)
        elif isinstance(part, sa.Update | sa.Delete):
            tables, named = _tables_in([part.table]), _asked(part.whereclause, rows)
        elif isinstance(part, sa.Select):
            tables, named = _tables_in(part.get_final_froms()), _asked(part.whereclause, rows)
        else:
            continue
        if tables and (not named or any(value != tenant for value in named)):
            raise TenantNotNamed(f"{tenant}'s unit of work, rows of {tables}: {part}")


def _tables_in(sources: Sequence[sa.FromClause]) -> list[str]:
    """Return the tables with rows of tenants that a statement itself reads or writes."""
    return [
        part.name
        for source in sources
        for part in visitors.iterate(source)
        if isinstance(part, sa.Table) and _COLUMN in part.columns
    ]


def _stamps(statement: sa.Insert, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the tenants of inserted rows."""
    stamped = statement.compile().params.get(_COLUMN)
    return [row.get(_COLUMN, stamped) for row in rows]


def _asked(clause: Any, rows: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Return the tenants that the conditions ask for."""
    named: list[Any] = []
    for condition in _all_must_hold(clause):
        if not isinstance(condition, BinaryExpression):
            continue
        left, right = condition.left, condition.right
        is_any = isinstance(right, CollectionAggregate) and right.operator is operators.any_op
        if is_any:
            right = right.element.element
        if getattr(left, "name", None) != _COLUMN or not isinstance(right, BindParameter):
            continue
        values = [row.get(right.key, right.value) for row in rows]
        is_equal = condition.operator is operators.eq
        if is_equal and not is_any:
            named += values
        elif is_equal or condition.operator is operators.in_op:
            named += [each for value in values for each in value]
    return named


def _all_must_hold(clause: Any) -> Iterator[Any]:
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _all_must_hold(part)
    elif clause is not None:
        yield clause
