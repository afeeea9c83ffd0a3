"""A node may be closed to what is new, and emptied; a replica leaves before it is stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0004_pre_drain"
down_revision = "0003_pre_job_retries"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("node", sa.Column("cordoned_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("node", sa.Column("draining_since", sa.DateTime(timezone=True), nullable=True))
    op.add_column("replica", sa.Column("leaving_at", sa.DateTime(timezone=True), nullable=True))
    op.create_index(
        "ix_replica_leaving",
        "replica",
        ["leaving_at"],
        postgresql_where=sa.text("leaving_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_replica_leaving", "replica")
    op.drop_column("replica", "leaving_at")
    op.drop_column("node", "draining_since")
    op.drop_column("node", "cordoned_at")
