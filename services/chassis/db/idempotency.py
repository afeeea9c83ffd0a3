"""A repeated request has one effect.

Owns: remembering, in the commit of the request's effects, which (tenant, method, key) was asked
with which body and what was answered; kept for a day (`janitor`). Leaves to callers: bytes of the
request that are equal for equal requests, and of the answer.

Always holds: of two concurrent requests with one key only one goes on: the second waits for the
first's commit at the unique index and then reads its answer, or is told InProgress.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from services.chassis.db.errors import LOCK_TIMEOUT, sqlstate
from services.chassis.db.unit_of_work import Transaction
from services.chassis.errors import InProgress, KeyReused
from services.chassis.tenancy import TenantId


def request_hash(request: bytes) -> bytes:
    """Return the SHA-256 of a request's bytes; serialize protobuf with `deterministic=True`."""
    return hashlib.sha256(request).digest()


async def remember(
    tx: Transaction, *, method: str, key: str, request_hash: bytes, response: bytes | None = None
) -> bytes | None:
    """Return the stored answer of an equal earlier request; None when this is the first.

    As the first, do the work in this transaction. Its answer is `response`, or where that isn't
    known before, what `answer` is given at the end. Raises KeyReused when
    the key came with another request, InProgress when its twin takes longer than the session's
    `lock_timeout`; the transaction is of no further use then and must be left.
    """
    assert tx.tenant is not None, "idempotency keys belong to a tenant"
    table = tx.tables.idempotency
    identity = {"tenant": tx.tenant, "method": method, "key": key}
    with _waiting_for_twins():
        inserted = await tx.connection.execute(
            insert(table)
            .values(**identity, request_hash=request_hash, response=response, created_at=tx.now)
            .on_conflict_do_nothing()
        )
    if inserted.rowcount == 1:
        return None
    earlier = await tx.connection.execute(
        sa.select(table.c.request_hash, table.c.response).filter_by(**identity)
    )
    told = _told(earlier.one_or_none(), request_hash)
    if isinstance(told, bytes):
        return told
    raise told


@dataclass(frozen=True, slots=True)
class Request:
    """A repeatable request, with the answer to give again if it is the first of its key."""

    tenant: TenantId
    key: str
    request_hash: bytes
    response: bytes


async def remember_all(
    tx: Transaction, *, method: str, requests: Sequence[Request]
) -> Sequence[bytes | KeyReused | InProgress | None]:
    """Do for each, in two statements, what `remember` does for one whose answer is known before.

    No two have the same tenant and key. Raises InProgress when some twin takes longer than the
    session's `lock_timeout`; the transaction is of no further use then and must be left.
    """
    if not requests:
        return []
    table = tx.tables.idempotency
    given = [
        {
            "tenant": each.tenant,
            "method": method,
            "key": each.key,
            "request_hash": each.request_hash,
            "response": each.response,
            "created_at": tx.now,
        }
        # In one order for everybody: nobody waits in a ring.
        for each in sorted(requests, key=lambda each: (each.tenant, each.key))
    ]
    with _waiting_for_twins():
        inserted = await tx.connection.execute(
            insert(table).on_conflict_do_nothing().returning(table.c.tenant, table.c.key), given
        )
    first = {(row.tenant, row.key) for row in inserted}
    repeated = [each for each in requests if (each.tenant, each.key) not in first]
    if not repeated:
        return [None] * len(requests)
    found = await tx.connection.execute(
        sa.select(table.c.tenant, table.c.key, table.c.request_hash, table.c.response).where(
            table.c.method == method, _are(table, [(each.tenant, each.key) for each in repeated])
        )
    )
    earlier = {(row.tenant, row.key): row for row in found}
    return [
        None
        if (each.tenant, each.key) in first
        else _told(earlier.get((each.tenant, each.key)), each.request_hash)
        for each in requests
    ]


async def forget(tx: Transaction, *, method: str, keys: Sequence[tuple[TenantId, str]]) -> None:
    """Take back what `remember_all` called the first, in the same transaction."""
    if keys:
        table = tx.tables.idempotency
        await tx.connection.execute(
            sa.delete(table).where(table.c.method == method, _are(table, keys))
        )


@contextmanager
def _waiting_for_twins() -> Iterator[None]:
    """Insert inside; raises InProgress when a twin's commit takes too long."""
    try:
        yield
    except DBAPIError as error:
        if sqlstate(error) == LOCK_TIMEOUT:
            raise InProgress from error
        raise


def _told(
    stored: sa.Row[*tuple[Any, ...]] | None, request_hash: bytes
) -> bytes | KeyReused | InProgress:
    """Return what a request is told whose key was there before."""
    if stored is None:  # its day was over and it was deleted between the two statements
        return InProgress()
    if stored.request_hash != request_hash:
        return KeyReused()
    if stored.response is None:
        return InProgress()
    return bytes(stored.response)


def _are(table: sa.Table, keys: Sequence[tuple[TenantId, str]]) -> sa.ColumnElement[bool]:
    return sa.tuple_(table.c.tenant, table.c.key).in_(keys)


async def answer(tx: Transaction, *, method: str, key: str, response: bytes) -> None:
    """Store the answer of a request that `remember` called the first, in the same transaction."""
    stored = await tx.connection.execute(
        sa.update(tx.tables.idempotency)
        .filter_by(tenant=tx.tenant, method=method, key=key)
        .values(response=response)
    )
    assert stored.rowcount == 1, "remember() comes before answer(), in the same transaction"
