"""The scheduler's first tables, and the chassis'."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.db.migrate import create_chassis_tables, drop_chassis_tables

revision = "0001_pre_first_tables"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    create_chassis_tables(op)
    op.execute(sa.schema.CreateSequence(sa.Sequence("queue_seq")))
    op.create_table(
        "deployment",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("model", JSONB, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False, comment="of its routing entry"),
        sa.Column("cpu_millicores", sa.BigInteger, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("gpu_count", sa.Integer, nullable=False),
        sa.Column("traceparent", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("deleting_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_deployment"),
    )
    op.create_index(
        "ix_deployment_deleting",
        "deployment",
        ["id"],
        postgresql_where=sa.text("state = 'DELETING'"),
    )
    op.create_index("ix_deployment_newest", "deployment", ["tenant", sa.literal_column("id DESC")])
    op.create_index(
        "uq_deployment_name",
        "deployment",
        ["tenant", "name"],
        unique=True,
        postgresql_where=sa.text("state <> 'DELETED'"),
    )
    op.create_table(
        "job",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("spec", JSONB, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("queue_seq", sa.BigInteger, nullable=False),
        sa.Column("cpu_millicores", sa.BigInteger, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("gpu_count", sa.Integer, nullable=False),
        sa.Column("attempt_number", sa.Integer, nullable=False),
        sa.Column("attempt_id", sa.Text, nullable=True),
        sa.Column("node_id", sa.Text, nullable=True),
        sa.Column("progress", JSONB, nullable=True),
        sa.Column("failure", JSONB, nullable=True),
        sa.Column("stop", JSONB, nullable=True),
        sa.Column("traceparent", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("admitted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("id", name="pk_job"),
    )
    op.create_index(
        "ix_job_line",
        "job",
        [sa.literal_column("priority DESC"), "queue_seq"],
        postgresql_where=sa.text("state = 'QUEUED'"),
    )
    op.create_index("ix_job_newest", "job", ["tenant", sa.literal_column("id DESC")])
    op.create_index(
        "ix_job_queued", "job", ["tenant"], postgresql_where=sa.text("state = 'QUEUED'")
    )
    op.create_table(
        "node",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("cpu_millicores", sa.BigInteger, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("gpu_count", sa.Integer, nullable=False),
        sa.Column("used_cpu_millicores", sa.BigInteger, nullable=False),
        sa.Column("used_memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("used_gpu_count", sa.Integer, nullable=False),
        sa.Column("heartbeat_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("registered_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint(
            "used_cpu_millicores >= 0 AND used_memory_bytes >= 0 AND used_gpu_count >= 0",
            name="ck_node_used_not_negative",
        ),
        sa.PrimaryKeyConstraint("id", name="pk_node"),
    )
    op.create_table(
        "attempt",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("owner_kind", sa.Text, nullable=False),
        sa.Column("owner_id", sa.Text, nullable=False),
        sa.Column(
            "public_owner_id", sa.Text, nullable=False, comment="job, or the replica's deployment"
        ),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("node_id", sa.Text, nullable=False),
        sa.Column("cpu_millicores", sa.BigInteger, nullable=False),
        sa.Column("memory_bytes", sa.BigInteger, nullable=False),
        sa.Column("gpu_count", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("log_location", JSONB, nullable=True),
        sa.Column("exit_code", sa.Integer, nullable=True),
        sa.Column("traceparent", sa.Text, nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["node_id"], ["node.id"], name="fk_attempt_node_id_node"),
        sa.PrimaryKeyConstraint("id", name="pk_attempt"),
    )
    op.create_index(
        "ix_attempt_open_on_node",
        "attempt",
        ["node_id", "id"],
        postgresql_where=sa.text("state IN ('CREATED', 'STARTED')"),
    )
    op.create_index("uq_attempt_number", "attempt", ["owner_id", "number"], unique=True)
    op.create_index(
        "uq_attempt_open_owner",
        "attempt",
        ["owner_id"],
        unique=True,
        postgresql_where=sa.text("state IN ('CREATED', 'STARTED')"),
    )
    op.create_table(
        "replica",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("deployment_id", sa.Text, nullable=False),
        sa.Column("ordinal", sa.Integer, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("queue_seq", sa.BigInteger, nullable=False),
        sa.Column("attempt_number", sa.Integer, nullable=False),
        sa.Column("attempt_id", sa.Text, nullable=True),
        sa.Column("node_id", sa.Text, nullable=True),
        sa.Column("address", sa.Text, nullable=True),
        sa.Column("restart_count", sa.Integer, nullable=False),
        sa.Column("failure_count", sa.Integer, nullable=False),
        sa.Column("ready_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("stop_requested_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("restart_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["deployment_id"], ["deployment.id"], name="fk_replica_deployment_id_deployment"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_replica"),
    )
    op.create_index(
        "ix_replica_line", "replica", ["queue_seq"], postgresql_where=sa.text("state = 'QUEUED'")
    )
    op.create_index(
        "ix_replica_restart",
        "replica",
        ["restart_at"],
        postgresql_where=sa.text("restart_at IS NOT NULL"),
    )
    op.create_index("uq_replica_ordinal", "replica", ["deployment_id", "ordinal"], unique=True)


def downgrade() -> None:
    for table in ("replica", "attempt", "node", "job", "deployment"):
        op.drop_table(table)
    op.execute(sa.schema.DropSequence(sa.Sequence("queue_seq")))
    drop_chassis_tables(op)
