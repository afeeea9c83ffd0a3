"""Who else has stored a digest is asked when a tenant's artifacts are deleted."""

from alembic import op

revision = "0002_pre_artifact_digest"
down_revision = "0001_pre_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_artifact_digest", "artifact", ["digest"])


def downgrade() -> None:
    op.drop_index("ix_artifact_digest", "artifact")
