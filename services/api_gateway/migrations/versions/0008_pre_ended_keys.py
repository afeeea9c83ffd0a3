"""Keys that ended long ago are looked up by their end."""

import sqlalchemy as sa
from alembic import op

revision = "0008_pre_ended_keys"
down_revision = "0007_pre_member_versions"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(
        "ix_api_key_ended_at", "api_key", [sa.text("least(revoked_at, expires_at)"), "id"]
    )


def downgrade() -> None:
    op.drop_index("ix_api_key_ended_at", "api_key")
