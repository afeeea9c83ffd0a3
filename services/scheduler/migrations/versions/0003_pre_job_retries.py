"""A job says how often it was tried again, when it may be next, and how long it may wait."""

import sqlalchemy as sa
from alembic import op

revision = "0003_pre_job_retries"
down_revision = "0002_pre_node_runtime"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("retry_count", sa.Integer, nullable=False, server_default="0"))
    op.add_column("job", sa.Column("retry_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("job", sa.Column("queue_expires_at", sa.DateTime(timezone=True), nullable=True))
    # Nothing is in them yet, so building them reads the table once and keeps writers out so long.
    op.create_index(
        "ix_job_queue_expires_at",
        "job",
        ["queue_expires_at"],
        postgresql_where=sa.text("state = 'QUEUED' AND queue_expires_at IS NOT NULL"),
    )
    op.create_index(
        "ix_job_retried",
        "job",
        ["tenant", "retry_at"],
        postgresql_where=sa.text("retry_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_job_retried", "job")
    op.drop_index("ix_job_queue_expires_at", "job")
    op.drop_column("job", "queue_expires_at")
    op.drop_column("job", "retry_at")
    op.drop_column("job", "retry_count")
