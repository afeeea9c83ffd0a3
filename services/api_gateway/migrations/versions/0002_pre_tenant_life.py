"""A tenant has a state, a version, a plan; the first tenant's first key administers all of them.

Tenants that exist are active at version 1, without limits of their own.
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0002_pre_tenant_life"
down_revision = "0001_pre_first_tables"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("tenant", sa.Column("state", sa.Text, nullable=False, server_default="ACTIVE"))
    op.add_column("tenant", sa.Column("version", sa.BigInteger, nullable=False, server_default="1"))
    op.add_column("tenant", sa.Column("reason", sa.Text, nullable=False, server_default=""))
    op.add_column("tenant", sa.Column("plan", JSONB, nullable=False, server_default="{}"))
    op.add_column(
        "tenant",
        sa.Column(
            "changed_at",
            sa.DateTime(timezone=True),
            nullable=False,
            server_default=sa.func.now(),
        ),
    )
    op.execute(
        "UPDATE api_key SET scopes = scopes || '{tenants:read,tenants:write}'::text[]"
        " WHERE tenant = 'default' AND name = 'first' AND scopes = '{admin}'"
        " AND id = (SELECT min(id) FROM api_key WHERE tenant = 'default')"
    )


def downgrade() -> None:
    op.execute(
        "UPDATE api_key SET scopes ="
        " array_remove(array_remove(scopes, 'tenants:read'), 'tenants:write')"
    )
    for column in ("changed_at", "plan", "reason", "version", "state"):
        op.drop_column("tenant", column)
