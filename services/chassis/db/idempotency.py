"""A repeated request has one effect.

Owns: remembering, in the commit of the request's effects, which (tenant, method, key) was asked
with which body and what was answered; kept for a day (`janitor`). Leaves to callers: bytes of the
request that are equal for equal requests, and of the answer.

Always holds: of two concurrent requests with one key only one goes on: the second waits for the
first's commit at the unique index and then reads its answer, or is told InProgress.
"""

import hashlib

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError

from services.chassis.db.errors import LOCK_TIMEOUT, sqlstate
from services.chassis.db.unit_of_work import Transaction
from services.chassis.errors import InProgress, KeyReused


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
    try:
        inserted = await tx.connection.execute(
            insert(table)
            .values(**identity, request_hash=request_hash, response=response, created_at=tx.now)
            .on_conflict_do_nothing()
        )
    except DBAPIError as error:
        if sqlstate(error) == LOCK_TIMEOUT:
            raise InProgress from error
        raise
    if inserted.rowcount == 1:
        return None
    earlier = await tx.connection.execute(
        sa.select(table.c.request_hash, table.c.response).filter_by(**identity)
    )
    stored = earlier.one_or_none()
    if stored is None:  # its day was over and it was deleted between the two statements
        raise InProgress
    if stored.request_hash != request_hash:
        raise KeyReused
    if stored.response is None:
        raise InProgress
    return bytes(stored.response)


async def answer(tx: Transaction, *, method: str, key: str, response: bytes) -> None:
    """Store the answer of a request that `remember` called the first, in the same transaction."""
    stored = await tx.connection.execute(
        sa.update(tx.tables.idempotency)
        .filter_by(tenant=tx.tenant, method=method, key=key)
        .values(response=response)
    )
    assert stored.rowcount == 1, "remember() comes before answer(), in the same transaction"
