"""Whoever leads hears of each change in the line, and keeps what tenants held lately.

By triggers, so that nothing that writes rows can forget it: not a purge, nor a statement by hand.
"""

import sqlalchemy as sa
from alembic import op

revision = "0011_pre_line_changes"
down_revision = "0010_pre_job_labels"
branch_labels = None
depends_on = None

_IN_LINE = sa.text("state = 'QUEUED'")
_NOTE = """
CREATE FUNCTION note_line_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO line_change (kind, id) VALUES (TG_ARGV[0], COALESCE(NEW.id, OLD.id));
    RETURN NULL;
END $$
"""
_WHEN = (
    ("in", "INSERT", "NEW.state = 'QUEUED'"),
    ("change", "UPDATE", "OLD.state = 'QUEUED' OR NEW.state = 'QUEUED'"),
    ("out", "DELETE", "OLD.state = 'QUEUED'"),
)


def upgrade() -> None:
    op.create_table(
        "line_change",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("id", sa.Text, nullable=False),
        comment="written by triggers on job and replica, deleted by the leader that has read it",
    )
    # Its rows live for a moment: the dead are to be swept before a look walks through many.
    op.execute(
        sa.text(
            "ALTER TABLE line_change SET (autovacuum_vacuum_scale_factor = 0,"
            " autovacuum_vacuum_threshold = 1000)"
        )
    )
    op.execute(sa.text(_NOTE))
    for table in ("replica", "job"):  # in the order in which everybody locks them
        for name, event, condition in _WHEN:
            op.execute(
                sa.text(
                    f"CREATE TRIGGER {table}_line_{name} AFTER {event} ON {table} FOR EACH ROW"
                    f" WHEN ({condition}) EXECUTE FUNCTION note_line_change('{table.upper()}')"
                )
            )
    op.create_table(
        "tenant_usage",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("cpu_millicores", sa.Double, nullable=False),
        sa.Column("memory_bytes", sa.Double, nullable=False),
        sa.Column("gpu_count", sa.Double, nullable=False),
        sa.Column("as_of", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", name="pk_tenant_usage"),
    )
    op.drop_index("ix_job_queued", "job")
    op.drop_index("ix_job_line", "job")
    op.create_index(
        "ix_job_line",
        "job",
        ["tenant", sa.text("priority DESC"), "queue_seq"],
        postgresql_where=_IN_LINE,
    )


def downgrade() -> None:
    op.drop_index("ix_job_line", "job")
    op.create_index(
        "ix_job_line", "job", [sa.text("priority DESC"), "queue_seq"], postgresql_where=_IN_LINE
    )
    op.create_index("ix_job_queued", "job", ["tenant"], postgresql_where=_IN_LINE)
    op.drop_table("tenant_usage")
    for table in ("replica", "job"):
        for name, _, _ in _WHEN:
            op.execute(sa.text(f"DROP TRIGGER {table}_line_{name} ON {table}"))
    op.execute(sa.text("DROP FUNCTION note_line_change"))
    op.drop_table("line_change")
