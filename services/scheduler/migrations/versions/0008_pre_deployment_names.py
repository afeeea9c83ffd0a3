"""The earlier deployments of a name are looked up when it is given again."""

from alembic import op

revision = "0008_pre_deployment_names"
down_revision = "0007_pre_ended_jobs"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("ix_deployment_of_name", "deployment", ["tenant", "name", "id"])


def downgrade() -> None:
    op.drop_index("ix_deployment_of_name", "deployment")
