"""A node says whether it takes several tenants' work at a time.

Until its runner has said so it does, as every node did before.
"""

import sqlalchemy as sa
from alembic import op

revision = "0009_pre_mixed_tenants"
down_revision = "0008_pre_deployment_names"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "node",
        sa.Column(
            "allows_mixed_tenants", sa.Boolean, nullable=False, server_default=sa.text("true")
        ),
    )


def downgrade() -> None:
    op.drop_column("node", "allows_mixed_tenants")
