"""The registry's first tables, and the chassis'."""

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
    op.create_table(
        "model",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("name", sa.Text(collation="C"), nullable=False),
        sa.Column("description", sa.Text, nullable=False),
        sa.Column("tags", JSONB, nullable=False),
        sa.Column("aliases", JSONB, nullable=False, comment="alias -> version number"),
        sa.Column("newest_version", sa.BigInteger, nullable=False, comment="last number given"),
        sa.Column(
            "revision", sa.BigInteger, nullable=False, comment="number of the last published fact"
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_model"),
        sa.UniqueConstraint("tenant", "name", name="uq_model_tenant_name"),
    )
    op.create_table(
        "model_version",
        sa.Column("model_id", sa.Text, nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, autoincrement=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("files", JSONB, nullable=False, comment="path, digest, size_bytes of each"),
        sa.Column("tags", JSONB, nullable=False),
        sa.Column("metrics", JSONB, nullable=False),
        sa.Column("job_id", sa.Text, comment="null when no job made it"),
        sa.Column("output_name", sa.Text),
        sa.Column("source_digest", sa.Text),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("model_id", "number", name="pk_model_version"),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name="fk_model_version_model_id_model"),
        sa.UniqueConstraint(
            "tenant", "job_id", "output_name", name="uq_model_version_tenant_job_id_output_name"
        ),
    )
    op.create_table(
        "artifact",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "digest", name="pk_artifact"),
    )


def downgrade() -> None:
    op.drop_table("artifact")
    op.drop_table("model_version")
    op.drop_table("model")
    drop_chassis_tables(op)
