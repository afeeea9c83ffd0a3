"""An attempt has its job's run time limit, and jobs that are asked to stop are found.

So what holds nodes for how long is told without a look at each one's job. Attempts from before have
none, and their jobs are looked at.
"""

import sqlalchemy as sa
from alembic import op

revision = "0019_pre_attempt_run_max"
down_revision = "0018_pre_priority_aging"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _keep_cycles_away()
    # In the order in which everybody locks them.
    op.add_column(
        "attempt", sa.Column("run_max", sa.Interval, comment="a job's, since its placement")
    )
    op.create_index(
        "ix_job_stopping", "job", ["id"], postgresql_where=sa.text("state = 'STOPPING'")
    )


def downgrade() -> None:
    _keep_cycles_away()
    op.drop_column("attempt", "run_max")
    op.drop_index("ix_job_stopping", "job")


def _keep_cycles_away() -> None:
    """Wait for the scheduling cycle under way, and let none begin: it locks in another order."""
    op.execute(sa.text("SELECT 1 FROM lease WHERE name = 'scheduling' FOR UPDATE"))
