"""A node says which runtime it has, and since when that is away."""

import sqlalchemy as sa
from alembic import op

revision = "0002_pre_node_runtime"
down_revision = "0001_pre_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("node", sa.Column("runtime", sa.Text, nullable=False, server_default=""))
    op.add_column(
        "node", sa.Column("runtime_down_since", sa.DateTime(timezone=True), nullable=True)
    )


def downgrade() -> None:
    op.drop_column("node", "runtime_down_since")
    op.drop_column("node", "runtime")
