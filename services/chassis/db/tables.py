"""The tables that every service's database has for the chassis.

Owns: their columns and the naming of constraints. Services add them to their own metadata, so that
one alembic history covers both (`chassis.db.migrate.create_chassis_tables`).

The outbox has the columns that Debezium's outbox event router reads (id, aggregatetype,
aggregateid, type, payload), so that change data capture can replace the relay.
Source: https://debezium.io/documentation/reference/stable/transformations/outbox-event-router.html
"""

import zlib
from dataclasses import dataclass
from typing import Final

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Identity,
    Index,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    text,
)

NAMING: Final = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
"""Give this to the service's `MetaData(naming_convention=NAMING)`."""

SHARD_COUNT: Final = 4
"""Into how many parts the outbox is split; written into rows, so changing it needs a migration."""

OUTBOX_LEASE_PREFIX: Final = "outbox/"
"""Before a shard's number: the lease of whoever sends it."""


@dataclass(frozen=True, slots=True)
class ChassisTables:
    """The chassis' tables, bound to one service's metadata."""

    outbox: Table
    inbox: Table
    idempotency: Table
    lease: Table

    def all(self) -> tuple[Table, ...]:
        """Return every table, for creating and dropping them together."""
        return (self.outbox, self.inbox, self.idempotency, self.lease)


def utc(name: str, *, nullable: bool = False) -> Column[object]:
    """Return a column for an instant: stored with its zone, read back aware and in UTC."""
    return Column(name, DateTime(timezone=True), nullable=nullable)


def shard_of(key: str) -> int:
    """Return the outbox shard of a key: equal for equal keys, in every process and release."""
    return zlib.crc32(key.encode()) % SHARD_COUNT


def chassis_tables(metadata: MetaData) -> ChassisTables:
    """Add the chassis' tables to a service's metadata and return them."""
    return ChassisTables(
        outbox=_outbox(metadata),
        inbox=_inbox(metadata),
        idempotency=_idempotency(metadata),
        lease=_lease(metadata),
    )


def _outbox(metadata: MetaData) -> Table:
    outbox = Table(
        "outbox",
        metadata,
        Column("seq", BigInteger, Identity(always=True), primary_key=True),
        Column("id", Text, nullable=False, unique=True, comment="event id, ce_id"),
        Column("shard", SmallInteger, nullable=False, comment="hash of aggregateid"),
        Column("aggregatetype", Text, nullable=False, comment="topic"),
        Column("aggregateid", Text, nullable=False, comment="record key; order holds within it"),
        Column("type", Text, nullable=False, comment="ce_type"),
        Column("payload", LargeBinary, comment="protobuf bytes; null is a tombstone"),
        Column("source", Text, nullable=False, comment="ce_source"),
        Column("subject", Text, nullable=False, comment="ce_subject"),
        Column("tenant", Text, nullable=False, comment="ce_tenant"),
        Column("dataschema", Text, nullable=False, comment="ce_dataschema"),
        Column("traceparent", Text, comment="context of the fact's creation, sent unchanged"),
        Column("tracestate", Text),
        utc("time"),
        utc("published_at", nullable=True),
    )
    # A row may become visible after rows with greater numbers have left: the relay reads what is
    # unpublished, never what is past a number.
    Index(
        "ix_outbox_unpublished",
        outbox.c.seq,
        postgresql_where=text("published_at IS NULL"),
    )
    Index(
        "ix_outbox_published_at",
        outbox.c.published_at,
        postgresql_where=text("published_at IS NOT NULL"),
    )
    return outbox


def _inbox(metadata: MetaData) -> Table:
    return Table(
        "inbox",
        metadata,
        Column("consumer", Text, primary_key=True),
        Column("event_id", Text, primary_key=True),
        Column("claimed_at", DateTime(timezone=True), nullable=False, index=True),
    )


def _idempotency(metadata: MetaData) -> Table:
    return Table(
        "idempotency",
        metadata,
        Column("tenant", Text, primary_key=True),
        Column("method", Text, primary_key=True),
        Column("key", Text, primary_key=True),
        Column("request_hash", LargeBinary, nullable=False, comment="SHA-256 of the request"),
        Column("response", LargeBinary, comment="the answer to give again"),
        Column("created_at", DateTime(timezone=True), nullable=False, index=True),
    )


def _lease(metadata: MetaData) -> Table:
    return Table(
        "lease",
        metadata,
        Column("name", Text, primary_key=True),
        Column("holder", Text, nullable=False, comment="one process incarnation"),
        Column("epoch", BigInteger, nullable=False, comment="+1 for every new holder"),
        Column("expires_at", DateTime(timezone=True), nullable=False, comment="database clock"),
    )
