"""An attempt says why it ended; those that ended before have nothing to say."""

import sqlalchemy as sa
from alembic import op

revision = "0013_pre_attempt_ends"
down_revision = "0010_pre_job_labels"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("attempt", sa.Column("end_reason", sa.Text, nullable=True))
    op.add_column("attempt", sa.Column("end_message", sa.Text, nullable=True))


def downgrade() -> None:
    op.drop_column("attempt", "end_message")
    op.drop_column("attempt", "end_reason")
