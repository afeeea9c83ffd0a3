"""A key may have a role, tells when it was last used, and which key took its place."""

import sqlalchemy as sa
from alembic import op

revision = "0003_pre_key_life"
down_revision = "0002_pre_tenant_life"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("role", sa.Text))
    op.add_column("api_key", sa.Column("last_used_at", sa.DateTime(timezone=True)))
    op.add_column("api_key", sa.Column("replaced_by", sa.Text))


def downgrade() -> None:
    for column in ("replaced_by", "last_used_at", "role"):
        op.drop_column("api_key", column)
