"""Jobs are found by their labels; what has none costs nothing.

The statistics tell the planner how seldom a label is: those of an index on some rows only it leaves
aside, and then walks through all jobs for a label that few have.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010_pre_job_labels"
down_revision = "0009_pre_mixed_tenants"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute(
        sa.text(
            "CREATE INDEX ix_job_labels ON job USING gin ((spec -> 'labels') jsonb_path_ops) "
            "WHERE (spec -> 'labels') <> '{}'"
        )
    )
    op.execute(sa.text("CREATE STATISTICS st_job_labels ON (spec -> 'labels') FROM job"))


def downgrade() -> None:
    op.execute(sa.text("DROP STATISTICS st_job_labels"))
    op.drop_index("ix_job_labels", "job")
