"""A stream tells whether its attempt's end was seen, or the last of its output may be missing."""

import sqlalchemy as sa
from alembic import op

revision = "0002_pre_end_seen"
down_revision = "0001_pre_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "log_stream",
        sa.Column(
            "is_end_seen",
            sa.Boolean,
            nullable=False,
            server_default=sa.true(),
            comment="false: the last of its output may be missing",
        ),
    )


def downgrade() -> None:
    op.drop_column("log_stream", "is_end_seen")
