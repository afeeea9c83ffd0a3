"""Jobs have tasks, each with an attempt of its own of the same number.

Downgrading fails while there are attempts of further tasks: what is before knows of one a number.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0015_pre_tasks"
down_revision = "0014_pre_job_dependencies"
branch_labels = None
depends_on = None

_IS_OPEN = sa.text("state IN ('CREATED', 'STARTED')")
_IS_FIRST_OF_JOB = sa.text("owner_kind = 'JOB' AND number = 1")


def upgrade() -> None:
    _keep_cycles_away()
    # In the order in which everybody locks them.
    op.add_column("attempt", sa.Column("task", sa.Integer, nullable=False, server_default="0"))
    op.add_column(
        "attempt", sa.Column("task_count", sa.Integer, nullable=False, server_default="1")
    )
    _index(of_each=["task"])
    op.add_column("job", sa.Column("task_count", sa.Integer, nullable=False, server_default="1"))
    op.add_column("job", sa.Column("kept_outputs", JSONB(none_as_null=True)))
    # Those that wait from before a downgrade.
    op.execute(
        sa.text(
            "UPDATE job SET task_count = (spec ->> 'task_count')::integer"
            " WHERE state = 'QUEUED' AND spec ? 'task_count'"
        )
    )


def downgrade() -> None:
    _index(of_each=[])
    op.drop_column("attempt", "task_count")
    op.drop_column("attempt", "task")
    op.drop_column("job", "kept_outputs")
    op.drop_column("job", "task_count")


def _keep_cycles_away() -> None:
    """Wait for the scheduling cycle under way, and let none begin: it locks in another order."""
    op.execute(sa.text("SELECT 1 FROM lease WHERE name = 'scheduling' FOR UPDATE"))


def _index(*, of_each: list[str]) -> None:
    for name in ("uq_attempt_number", "uq_attempt_open_owner", "ix_attempt_first_of_job"):
        op.drop_index(name, "attempt")
    op.create_index("uq_attempt_number", "attempt", ["owner_id", "number", *of_each], unique=True)
    op.create_index(
        "uq_attempt_open_owner",
        "attempt",
        ["owner_id", *of_each],
        unique=True,
        postgresql_where=_IS_OPEN,
    )
    op.create_index(
        "ix_attempt_first_of_job",
        "attempt",
        ["tenant", "created_at"],
        postgresql_include=["owner_id", *of_each],
        postgresql_where=_IS_FIRST_OF_JOB,
    )
