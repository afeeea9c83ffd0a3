"""The collector's tables.

Owns: their columns and constraints; `migrations` makes them. Records are in segments, not here.
Always holds: (tenant, owner, attempt number) names one stream, so that positions are unambiguous.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    true,
)

from services.chassis.db.tables import NAMING, chassis_tables, utc

metadata = MetaData(naming_convention=NAMING)

chassis = chassis_tables(metadata)

log_stream = Table(
    "log_stream",
    metadata,
    Column("attempt_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner_kind", Text, nullable=False, comment="job or replica"),
    Column("owner_id", Text, nullable=False, comment="job id or deployment id"),
    Column("attempt_number", Integer, nullable=False, comment="place in the owner's output"),
    Column("node_id", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("location_format", Text, comment="null before the attempt has started"),
    Column("location_path", Text),
    Column("record_count", BigInteger, nullable=False, comment="0 before it is completed"),
    Column("traceparent", Text, comment="of the job or deployment"),
    utc("expected_at"),
    utc("opened_at", nullable=True),
    utc("ended_at", nullable=True),
    Column(
        "is_end_seen",
        Boolean,
        nullable=False,
        server_default=true(),
        comment="false: the last of its output may be missing",
    ),
    utc("completed_at", nullable=True),
    UniqueConstraint("tenant", "owner_id", "attempt_number"),
)

# What collectors look for each second, beside all that is completed.
Index(
    "ix_log_stream_collected",
    log_stream.c.expected_at,
    postgresql_where=log_stream.c.state.in_(["opened", "ending"]),
)
