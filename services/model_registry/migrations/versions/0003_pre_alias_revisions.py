"""An alias knows the model's revision of its last move; of an older move it is none's, 1.

The last release moves without telling: whoever saw the alias before may move it once more.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0003_pre_alias_revisions"
down_revision = "0002_pre_artifact_digest"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "model",
        sa.Column(
            "alias_revisions",
            JSONB,
            nullable=False,
            server_default="{}",
            comment="alias -> the revision of its last move",
        ),
    )


def downgrade() -> None:
    op.drop_column("model", "alias_revisions")
