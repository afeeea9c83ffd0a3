"""How many stand in line is kept by the notes of its changes, so that nobody walks through them.

Each note says by how much it changes which count; whoever deletes notes folds them into the counts,
in the same statement, by a trigger: also a leader of a release that knows of no counts.
"""

import sqlalchemy as sa
from alembic import op

revision = "0016_pre_line_counts"
down_revision = "0015_pre_tasks"
branch_labels = None
depends_on = None

_KEY = (
    sa.Column("tenant", sa.Text),
    sa.Column("priority", sa.Integer),
    sa.Column("queue", sa.Text),
    sa.Column("cpu_millicores", sa.BigInteger),
    sa.Column("memory_bytes", sa.BigInteger),
    sa.Column("gpu_count", sa.Integer),
    sa.Column("run_max", sa.Text),
    sa.Column("task_count", sa.Integer),
    sa.Column("stretch", sa.BigInteger),
)
_NAMES = ", ".join(column.name for column in _KEY)
_WHEN = (
    ("in", "INSERT", "NEW.state = 'QUEUED'"),
    ("change", "UPDATE", "OLD.state = 'QUEUED' OR NEW.state = 'QUEUED'"),
    ("out", "DELETE", "OLD.state = 'QUEUED'"),
)


def _key_of(job: str) -> str:
    return (
        f"{job}.tenant, {job}.priority, {job}.queue, {job}.cpu_millicores, {job}.memory_bytes,"
        f" {job}.gpu_count, COALESCE({job}.spec #>> '{{timeouts,run}}', ''), {job}.task_count,"
        f" {job}.queue_seq >> 12"
    )


_NOTE = f"""
CREATE FUNCTION note_job_line_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    was_in_line boolean := (OLD.state = 'QUEUED' AND OLD.needs_count = 0) IS TRUE;
    is_in_line boolean := (NEW.state = 'QUEUED' AND NEW.needs_count = 0) IS TRUE;
BEGIN
    IF was_in_line THEN
        INSERT INTO line_change (kind, id, {_NAMES}, change)
        VALUES ('JOB', OLD.id, {_key_of("OLD")}, -1);
    END IF;
    IF is_in_line THEN
        INSERT INTO line_change (kind, id, {_NAMES}, change)
        VALUES ('JOB', NEW.id, {_key_of("NEW")}, 1);
    END IF;
    IF NOT was_in_line AND NOT is_in_line THEN
        INSERT INTO line_change (kind, id) VALUES ('JOB', COALESCE(NEW.id, OLD.id));
    END IF;
    RETURN NULL;
END $$
"""  # noqa: S608 (of this module's own names)
_FOLD = f"""
CREATE FUNCTION fold_line_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO line_count AS kept ({_NAMES}, job_count)
    SELECT {_NAMES}, sum(change) FROM taken WHERE change IS NOT NULL
    GROUP BY {_NAMES} HAVING sum(change) <> 0 ORDER BY {_NAMES}
    ON CONFLICT ({_NAMES}) DO UPDATE SET job_count = kept.job_count + excluded.job_count;
    DELETE FROM line_count WHERE job_count = 0
    AND ({_NAMES}) IN (SELECT {_NAMES} FROM taken WHERE change IS NOT NULL);
    RETURN NULL;
END $$
"""  # noqa: S608 (of this module's own names)
_COUNT = f"""
INSERT INTO line_count ({_NAMES}, job_count)
SELECT {_key_of("job")}, count(*) FROM job WHERE state = 'QUEUED' AND needs_count = 0
GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
"""  # noqa: S608 (of this module's own names)


def upgrade() -> None:
    _keep_everybody_away()
    for column in _KEY:
        op.add_column("line_change", sa.Column(column.name, column.type))
    op.add_column("line_change", sa.Column("change", sa.Integer, comment="of the jobs in line"))
    op.create_table(
        "line_count",
        *(sa.Column(column.name, column.type, nullable=False) for column in _KEY),
        sa.Column("job_count", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint(*(column.name for column in _KEY), name="pk_line_count"),
        comment="written by a trigger on line_change: what its deleted rows have come to",
    )
    # Written in each cycle: the dead are to be swept before a look walks through many.
    op.execute(
        sa.text(
            "ALTER TABLE line_count SET (autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 1000)"
        )
    )
    op.execute(sa.text(_NOTE))
    op.execute(sa.text(_FOLD))
    _retrigger("note_job_line_change()")
    op.execute(
        sa.text(
            "CREATE TRIGGER line_change_fold AFTER DELETE ON line_change"
            " REFERENCING OLD TABLE AS taken FOR EACH STATEMENT"
            " EXECUTE FUNCTION fold_line_changes()"
        )
    )
    op.execute(sa.text(_COUNT))


def downgrade() -> None:
    _keep_everybody_away()
    _retrigger("note_line_change('JOB')")
    op.execute(sa.text("DROP TRIGGER line_change_fold ON line_change"))
    op.execute(sa.text("DROP FUNCTION fold_line_changes"))
    op.execute(sa.text("DROP FUNCTION note_job_line_change"))
    op.drop_table("line_count")
    op.drop_column("line_change", "change")
    for column in _KEY:
        op.drop_column("line_change", column.name)


def _keep_everybody_away() -> None:
    """Let whoever changes the line be done, and nobody else begin, also who only reads it yet.

    First the scheduling cycle, which locks notes before jobs.
    """
    op.execute(sa.text("SELECT 1 FROM lease WHERE name = 'scheduling' FOR UPDATE"))
    op.execute(sa.text("LOCK TABLE job IN ACCESS EXCLUSIVE MODE"))


def _retrigger(function: str) -> None:
    for name, event, condition in _WHEN:
        op.execute(sa.text(f"DROP TRIGGER job_line_{name} ON job"))
        op.execute(
            sa.text(
                f"CREATE TRIGGER job_line_{name} AFTER {event} ON job FOR EACH ROW"
                f" WHEN ({condition}) EXECUTE FUNCTION {function}"
            )
        )
