"""A node may be lost: given up because nobody holds its lease."""

import sqlalchemy as sa
from alembic import op

revision = "0006_pre_node_lost"
down_revision = "0005_pre_checkpoint"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("node", sa.Column("lost_at", sa.DateTime(timezone=True), nullable=True))


def downgrade() -> None:
    op.drop_column("node", "lost_at")
