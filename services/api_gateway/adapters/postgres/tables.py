"""The gateway's tables."""

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

from services.chassis.db.tables import NAMING, chassis_tables

metadata = MetaData(naming_convention=NAMING)
chassis = chassis_tables(metadata)

tenant_table = Table(
    "tenant",
    metadata,
    Column("id", Text, primary_key=True),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("state", Text, nullable=False, server_default="ACTIVE"),
    Column("version", BigInteger, nullable=False, server_default="1"),
    Column("reason", Text, nullable=False, server_default=""),
    Column("plan", JSONB, nullable=False, server_default="{}"),
    Column("changed_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("purge_at", DateTime(timezone=True)),
    Column("removed_member_version_max", BigInteger, nullable=False, server_default="0"),
    Index("ix_tenant_purge_at", "purge_at", postgresql_where=text("state = 'DELETING'")),
)

member_table = Table(
    "member",
    metadata,
    Column("tenant", Text, ForeignKey("tenant.id"), primary_key=True),
    Column("issuer", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("roles", ARRAY(Text), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("added_at", DateTime(timezone=True), nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
    Column("changed_by", Text, nullable=False),
    Index("ix_member_issuer_subject", "issuer", "subject"),
)

api_key_table = Table(
    "api_key",
    metadata,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, ForeignKey("tenant.id"), nullable=False),
    Column("name", Text, nullable=False),
    Column("scopes", ARRAY(Text), nullable=False),
    Column("secret_digest", LargeBinary, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("expires_at", DateTime(timezone=True)),
    Column("revoked_at", DateTime(timezone=True)),
    Column("role", Text),
    Column("last_used_at", DateTime(timezone=True)),
    Column("replaced_by", Text),
    Column("created_by", Text),
    Column("person_issuer", Text),
    Column("person_subject", Text),
    Index("ix_api_key_tenant_id", "tenant", "id"),
)
key_ended_at = func.least(api_key_table.c.revoked_at, api_key_table.c.expires_at)
"""From when on a key is not in force; NULL: it is for ever."""
Index("ix_api_key_ended_at", key_ended_at, api_key_table.c.id)
