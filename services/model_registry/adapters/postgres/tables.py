"""The registry's tables.

Owns: their columns and constraints; `migrations` makes them. A model is one row with its aliases
and tags, since they are read and changed together under that row's lock; a version's manifest is a
column, since it never changes.
Always holds: every row has its tenant, and every unique rule is the database's too.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.db.tables import NAMING, chassis_tables, utc

metadata = MetaData(naming_convention=NAMING)

chassis = chassis_tables(metadata)

model = Table(
    "model",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    # By code points, so that an order is the same on every machine.
    Column("name", Text(collation="C"), nullable=False),
    Column("description", Text, nullable=False),
    Column("tags", JSONB, nullable=False),
    Column("aliases", JSONB, nullable=False, comment="alias -> version number"),
    Column(
        "alias_revisions",
        JSONB,
        nullable=False,
        server_default="{}",
        comment="alias -> the revision of its last move",
    ),
    Column("newest_version", BigInteger, nullable=False, comment="last number given"),
    Column("revision", BigInteger, nullable=False, comment="number of the last published fact"),
    utc("created_at"),
    UniqueConstraint("tenant", "name"),
)

model_version = Table(
    "model_version",
    metadata,
    Column("model_id", Text, ForeignKey(model.c.id), primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("tenant", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("files", JSONB, nullable=False, comment="path, digest, size_bytes of each"),
    Column("tags", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False),
    Column("job_id", Text, comment="null when no job made it"),
    Column("output_name", Text),
    Column("source_digest", Text),
    utc("created_at"),
    # Besides the inbox: an output is one version even when two events tell of it.
    UniqueConstraint("tenant", "job_id", "output_name"),
)

artifact = Table(
    "artifact",
    metadata,
    Column("tenant", Text, primary_key=True),
    # By itself, too: bytes go with the last tenant that has them.
    Column("digest", Text, primary_key=True, index=True),
    Column("size_bytes", BigInteger, nullable=False),
    utc("created_at"),
)
