"""Jobs are of queues, which have rows while they are paused.

Jobs of the default queue cost nothing in the index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0012_pre_queues"
down_revision = "0011_pre_line_changes"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("queue", sa.Text, nullable=False, server_default="default"))
    op.create_index(
        "ix_job_of_queue",
        "job",
        ["tenant", "queue", sa.text("id DESC")],
        postgresql_where=sa.text("queue <> 'default'"),
    )
    op.create_table(
        "queue",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("paused_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("paused_reason", sa.Text, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("queue")
    op.drop_index("ix_job_of_queue", "job")
    op.drop_column("job", "queue")
