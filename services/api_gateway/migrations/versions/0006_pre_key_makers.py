"""A key tells who made it, and which person is behind it; of older ones nobody knows."""

import sqlalchemy as sa
from alembic import op

revision = "0006_pre_key_makers"
down_revision = "0005_pre_members"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_key", sa.Column("created_by", sa.Text))
    op.add_column("api_key", sa.Column("person_issuer", sa.Text))
    op.add_column("api_key", sa.Column("person_subject", sa.Text))


def downgrade() -> None:
    for column in ("person_subject", "person_issuer", "created_by"):
        op.drop_column("api_key", column)
