"""A tenant that is being deleted knows from when on nothing brings it back."""

import sqlalchemy as sa
from alembic import op

revision = "0004_pre_tenant_purge"
down_revision = "0003_pre_key_life"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenant", sa.Column("purge_at", sa.DateTime(timezone=True)))
    op.create_index(
        "ix_tenant_purge_at",
        "tenant",
        ["purge_at"],
        postgresql_where=sa.text("state = 'DELETING'"),
    )


def downgrade() -> None:
    op.drop_index("ix_tenant_purge_at", "tenant")
    op.drop_column("tenant", "purge_at")
