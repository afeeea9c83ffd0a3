"""Jobs may be arrays, which stand in line as one row, and elements of arrays.

A note of the line counts all that stand in it as one row. Who waits for other jobs does not stand
in it, so its changes leave none any more.
"""

import sqlalchemy as sa
from alembic import op

revision = "0017_pre_job_arrays"
down_revision = "0016_pre_line_counts"
branch_labels = None
depends_on = None

_NAMES = (
    "tenant, priority, queue, cpu_millicores, memory_bytes, gpu_count, run_max, task_count, stretch"
)


def _key_of(job: str) -> str:
    return (
        f"{job}.tenant, {job}.priority, {job}.queue, {job}.cpu_millicores, {job}.memory_bytes,"
        f" {job}.gpu_count, COALESCE({job}.spec #>> '{{timeouts,run}}', ''), {job}.task_count,"
        f" {job}.queue_seq >> 12"
    )


def _note(*, old: str, new: str, otherwise: str = "") -> str:
    return f"""
CREATE OR REPLACE FUNCTION note_job_line_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was_in_line boolean := (OLD.state = 'QUEUED' AND OLD.needs_count = 0) IS TRUE;
    is_in_line boolean := (NEW.state = 'QUEUED' AND NEW.needs_count = 0) IS TRUE;
BEGIN
    IF was_in_line THEN
        INSERT INTO line_change (kind, id, {_NAMES}, change)
        VALUES ('JOB', OLD.id, {_key_of("OLD")}, -{old});
    END IF;
    IF is_in_line THEN
        INSERT INTO line_change (kind, id, {_NAMES}, change)
        VALUES ('JOB', NEW.id, {_key_of("NEW")}, {new});
    END IF;
    {otherwise}
    RETURN NULL;
END $$
"""  # noqa: S608 (of this module's own names)


_OTHERWISE = """
    IF NOT was_in_line AND NOT is_in_line THEN
        INSERT INTO line_change (kind, id) VALUES ('JOB', COALESCE(NEW.id, OLD.id));
    END IF;
"""


def upgrade() -> None:
    _keep_everybody_away()
    op.add_column(
        "job",
        sa.Column("is_array", sa.Boolean, nullable=False, server_default=sa.text("false")),
    )
    op.add_column(
        "job",
        sa.Column(
            "rest_count",
            sa.Integer,
            nullable=False,
            server_default="1",
            comment="how many stand in line as this row: of an array its elements that have none",
        ),
    )
    op.add_column(
        "job",
        sa.Column(
            "array_id",
            sa.Text,
            nullable=False,
            server_default="",
            comment="an element's; else empty",
        ),
    )
    op.add_column(
        "job",
        sa.Column(
            "array_index",
            sa.Integer,
            nullable=False,
            server_default="0",
            comment="an element's, or an array's next one's",
        ),
    )
    op.execute(sa.text(_note(old="OLD.rest_count", new="NEW.rest_count")))
    _index(newest=["array_id"], ended=["is_array"], but_for_elements=" AND array_id = ''")
    op.create_index(
        "uq_job_element",
        "job",
        ["array_id", "array_index"],
        unique=True,
        postgresql_include=["tenant", "state"],
        postgresql_where=sa.text("array_id <> ''"),
    )
    op.create_index(
        "ix_job_element_open",
        "job",
        ["array_id"],
        postgresql_include=["state"],
        postgresql_where=sa.text("array_id <> '' AND ended_at IS NULL"),
    )
    op.create_index(
        "ix_job_array_open",
        "job",
        ["id"],
        postgresql_where=sa.text("is_array AND state IN ('RUNNING', 'STOPPING')"),
    )


def downgrade() -> None:
    _keep_everybody_away()
    op.execute(sa.text(_note(old="1", new="1", otherwise=_OTHERWISE)))
    op.drop_index("ix_job_array_open", "job")
    op.drop_index("ix_job_element_open", "job")
    op.drop_index("uq_job_element", "job")
    _index(newest=[], ended=[], but_for_elements="")
    for name in ("array_index", "array_id", "rest_count", "is_array"):
        op.drop_column("job", name)


def _keep_everybody_away() -> None:
    """Let whoever changes the line be done, and nobody else begin, also who only reads it yet.

    First the scheduling cycle, which locks notes before jobs.
    """
    op.execute(sa.text("SELECT 1 FROM lease WHERE name = 'scheduling' FOR UPDATE"))
    op.execute(sa.text("LOCK TABLE job IN ACCESS EXCLUSIVE MODE"))


def _index(*, newest: list[str], ended: list[str], but_for_elements: str) -> None:
    """Make anew what else would be walked through past all elements of arrays."""
    op.drop_index("ix_job_newest", "job")
    op.create_index("ix_job_newest", "job", ["tenant", *newest, sa.text("id DESC")])
    op.drop_index("ix_job_ended_of_tenant", "job")
    op.create_index(
        "ix_job_ended_of_tenant",
        "job",
        ["tenant", "ended_at"],
        postgresql_include=["state", "started_at", *ended],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )
    op.drop_index("ix_job_ended", "job")
    op.create_index(
        "ix_job_ended",
        "job",
        ["ended_at"],
        postgresql_where=sa.text(f"ended_at IS NOT NULL{but_for_elements}"),
    )
    op.drop_index("ix_job_of_queue", "job")
    op.create_index(
        "ix_job_of_queue",
        "job",
        ["tenant", "queue", sa.text("id DESC")],
        postgresql_where=sa.text(f"queue <> 'default'{but_for_elements}"),
    )
    op.execute(sa.text("DROP INDEX ix_job_labels"))
    op.execute(
        sa.text(
            "CREATE INDEX ix_job_labels ON job USING gin ((spec -> 'labels') jsonb_path_ops)"
            f" WHERE (spec -> 'labels') <> '{{}}'{but_for_elements}"
        )
    )
