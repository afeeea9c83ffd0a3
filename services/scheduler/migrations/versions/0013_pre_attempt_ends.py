"""An attempt says why it ended, and a tenant's jobs of a window of time are found.

Attempts that ended before have nothing to say.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013_pre_attempt_ends"
down_revision = "0012_pre_queues"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("end_reason", sa.Text, nullable=True))
    op.add_column("attempt", sa.Column("end_message", sa.Text, nullable=True))
    # For what is asked of all jobs of a tenant that were admitted or ended since some instant: who
    # has few would walk through everybody's otherwise. With what is asked, so that the rows, which
    # are wide, need not be read. Each is written once a job.
    op.create_index(
        "ix_attempt_first_of_job",
        "attempt",
        ["tenant", "created_at"],
        postgresql_include=["owner_id"],
        postgresql_where=sa.text("owner_kind = 'JOB' AND number = 1"),
    )
    op.create_index(
        "ix_job_ended_of_tenant",
        "job",
        ["tenant", "ended_at"],
        postgresql_include=["state", "started_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_index("ix_job_ended_of_tenant", "job")
    op.drop_index("ix_attempt_first_of_job", "attempt")
    op.drop_column("attempt", "end_message")
    op.drop_column("attempt", "end_reason")
