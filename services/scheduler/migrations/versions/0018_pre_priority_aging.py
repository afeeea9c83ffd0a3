"""Since when jobs stand in line with their priority, to which waiting may add."""

import sqlalchemy as sa
from alembic import op

revision = "0018_pre_priority_aging"
down_revision = "0017_pre_job_arrays"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "job",
        sa.Column("ages_from", sa.DateTime(timezone=True)),
    )


def downgrade() -> None:
    op.drop_column("job", "ages_from")
