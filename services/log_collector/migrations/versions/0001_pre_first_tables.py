"""The collector's first table, and the chassis'."""

import sqlalchemy as sa
from alembic import op

from services.chassis.db.migrate import create_chassis_tables, drop_chassis_tables

revision = "0001_pre_first_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_chassis_tables(op)
    op.create_table(
        "log_stream",
        sa.Column("attempt_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("owner_kind", sa.Text, nullable=False, comment="job or replica"),
        sa.Column("owner_id", sa.Text, nullable=False, comment="job id or deployment id"),
        sa.Column(
            "attempt_number", sa.Integer, nullable=False, comment="place in the owner's output"
        ),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("location_format", sa.Text, comment="null before the attempt has started"),
        sa.Column("location_path", sa.Text),
        sa.Column(
            "record_count", sa.BigInteger, nullable=False, comment="0 before it is completed"
        ),
        sa.Column("traceparent", sa.Text, comment="of the job or deployment"),
        sa.Column("expected_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("opened_at", sa.DateTime(timezone=True)),
        sa.Column("ended_at", sa.DateTime(timezone=True)),
        sa.Column("completed_at", sa.DateTime(timezone=True)),
        sa.PrimaryKeyConstraint("attempt_id", name="pk_log_stream"),
        sa.UniqueConstraint(
            "tenant",
            "owner_id",
            "attempt_number",
            name="uq_log_stream_tenant_owner_id_attempt_number",
        ),
    )
    op.create_index(
        "ix_log_stream_collected",
        "log_stream",
        ["expected_at"],
        postgresql_where=sa.text("state IN ('opened', 'ending')"),
    )


def downgrade() -> None:
    op.drop_table("log_stream")
    drop_chassis_tables(op)
