"""Which jobs wait for which others, and on each job's row for how many."""

import sqlalchemy as sa
from alembic import op

revision = "0014_pre_job_dependencies"
down_revision = "0013_pre_attempt_ends"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "job",
        sa.Column(
            "needs_count",
            sa.Integer,
            nullable=False,
            server_default="0",
            comment="rows of job_dependency",
        ),
    )
    op.create_table(
        "job_dependency",
        sa.Column("job_id", sa.Text, nullable=False),
        sa.Column("needs_job_id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("condition", sa.Text, nullable=False),
        sa.Column("position", sa.Integer, nullable=False, comment="in the job's spec"),
        sa.PrimaryKeyConstraint("job_id", "needs_job_id", name="pk_job_dependency"),
        sa.ForeignKeyConstraint(
            ["job_id"], ["job.id"], name="fk_job_dependency_job_id_job", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_job_dependency_needed", "job_dependency", ["needs_job_id"])


def downgrade() -> None:
    op.drop_table("job_dependency")
    op.drop_column("job", "needs_count")
