"""A member who is added again begins above the versions of all who were removed.

The last release removes without telling; whoever it removes may begin at a version that was there.
"""

import sqlalchemy as sa
from alembic import op

revision = "0007_pre_member_versions"
down_revision = "0006_pre_key_makers"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "tenant",
        sa.Column("removed_member_version_max", sa.BigInteger, nullable=False, server_default="0"),
    )


def downgrade() -> None:
    op.drop_column("tenant", "removed_member_version_max")
