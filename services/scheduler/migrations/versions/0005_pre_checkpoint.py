"""A job keeps what an attempt leaves for the next one."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0005_pre_checkpoint"
down_revision = "0004_pre_drain"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("job", sa.Column("checkpoint", JSONB(none_as_null=True), nullable=True))


def downgrade() -> None:
    op.drop_column("job", "checkpoint")
