"""People of an issuer may be members of tenants."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0005_pre_members"
down_revision = "0004_pre_tenant_purge"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "member",
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("issuer", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("roles", ARRAY(sa.Text), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("added_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("changed_by", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant", "issuer", "subject", name="pk_member"),
        sa.ForeignKeyConstraint(["tenant"], ["tenant.id"], name="fk_member_tenant_tenant"),
    )
    op.create_index("ix_member_issuer_subject", "member", ["issuer", "subject"])


def downgrade() -> None:
    op.drop_table("member")
