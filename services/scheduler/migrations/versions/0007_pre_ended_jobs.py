"""Jobs that ended long ago are found by when they did."""

import sqlalchemy as sa
from alembic import op

revision = "0007_pre_ended_jobs"
down_revision = "0006_pre_node_lost"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_job_ended", "job", ["ended_at"], postgresql_where=sa.text("ended_at IS NOT NULL")
    )


def downgrade() -> None:
    op.drop_index("ix_job_ended", "job")
