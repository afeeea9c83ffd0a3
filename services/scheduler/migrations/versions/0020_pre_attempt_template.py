"""An attempt says which jobs are like its own, and how long those took lately.

So an estimate may go by history (ADR-0042). Attempts from before are like none, and none expects
anything of them.
"""

import sqlalchemy as sa
from alembic import op

revision = "0020_pre_attempt_template"
down_revision = "0019_pre_attempt_run_max"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # One wait for the table, however many columns.
    op.add_column(
        "attempt",
        sa.Column(
            "template",
            sa.Text,
            nullable=False,
            server_default="",
            comment="what a job's are alike by; a replica's is empty",
        ),
    )
    op.add_column(
        "attempt",
        sa.Column("run_expected", sa.Interval, comment="how long those of its template took"),
    )
    op.create_index(
        "ix_attempt_succeeded",
        "attempt",
        ["tenant", "template", sa.text("ended_at DESC")],
        postgresql_include=["created_at"],
        postgresql_where=sa.text("template <> '' AND task = 0 AND end_reason = 'succeeded'"),
    )


def downgrade() -> None:
    op.drop_index("ix_attempt_succeeded", "attempt")
    op.drop_column("attempt", "run_expected")
    op.drop_column("attempt", "template")
