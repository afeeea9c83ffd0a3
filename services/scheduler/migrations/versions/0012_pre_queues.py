"""Jobs are of queues; those of the default one cost nothing in the index."""

import sqlalchemy as sa
from alembic import op

revision = "0012_pre_queues"
down_revision = "0010_pre_job_labels"
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


def downgrade() -> None:
    op.drop_index("ix_job_of_queue", "job")
    op.drop_column("job", "queue")
