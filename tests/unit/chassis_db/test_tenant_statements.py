"""What the integration tests' look at tenants' statements lets pass, and what not (ADR-0020)."""

from collections.abc import Mapping
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from services.chassis.tenancy import TenantId
from tests.support.tenant_statements import TenantNotNamed, check_names

ACME = TenantId("acme")
METADATA = sa.MetaData()
ITEMS, PARTS, NODES = (
    sa.Table(name, METADATA, *(sa.Column(column, sa.Text) for column in columns))
    for name, columns in (
        ("item", ("id", "tenant", "size")),
        ("part", ("id", "tenant", "item_id")),
        ("node", ("id",)),
    )
)
OURS = ITEMS.c.tenant == ACME
GIVEN = ITEMS.c.tenant == sa.bindparam("whose")
AMONG = ITEMS.c.tenant.in_(sa.bindparam("tenants", expanding=True))
ANY = ITEMS.c.tenant == sa.any_(sa.bindparam("tenants", type_=sa.ARRAY(sa.Text)))
ALL = ITEMS.c.tenant == sa.all_(sa.bindparam("tenants", type_=sa.ARRAY(sa.Text)))


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        (sa.select(ITEMS).where(OURS), {}),
        (sa.select(ITEMS).where(ITEMS.c.id == "1").where(GIVEN), {"whose": ACME}),
        (sa.select(ITEMS.c.id).where(AMONG), {"tenants": [ACME]}),
        (sa.select(ITEMS.c.id).where(ANY), {"tenants": [ACME]}),
        (sa.select(PARTS).join(ITEMS, ITEMS.c.id == PARTS.c.item_id).where(OURS), {}),
        (sa.select(sa.exists().where(OURS, ITEMS.c.id == "1")), {}),
        (sa.update(ITEMS).where(GIVEN), {"whose": ACME, "size": "1"}),
        (sa.delete(ITEMS).where(OURS), {}),
        (sa.insert(ITEMS), {"id": "1", "tenant": ACME}),
        (insert(ITEMS).values(id="1", tenant=ACME).on_conflict_do_nothing(), {}),
        (sa.select(NODES), {}),
        (sa.select(sa.func.now()), {}),
        (sa.text("SET LOCAL lock_timeout = '1s'"), {}),
    ],
    ids=str,
)
def test_a_statement_passes_when_it_stays_within_its_tenant(
    statement: sa.Executable, row: Mapping[str, Any]
) -> None:
    check_names(statement, ACME, [row])


@pytest.mark.parametrize(
    ("statement", "row"),
    [
        (sa.select(ITEMS), {}),
        (sa.select(ITEMS.c.size).where(ITEMS.c.id == "1"), {}),
        (sa.select(ITEMS).where(GIVEN), {"whose": "umbrella"}),
        (sa.select(ITEMS).where(AMONG), {"tenants": [ACME, "umbrella"]}),
        (sa.select(ITEMS).where(AMONG), {"tenants": []}),
        (sa.select(ITEMS).where(ANY), {"tenants": [ACME, "umbrella"]}),
        (sa.select(ITEMS).where(ANY), {"tenants": []}),
        (sa.select(ITEMS).where(~ANY), {"tenants": [ACME]}),
        (sa.select(ITEMS).where(ALL), {"tenants": [ACME]}),
        (sa.select(ITEMS).where(sa.or_(OURS, ITEMS.c.size == "1")), {}),
        (sa.select(ITEMS).where(~OURS), {}),
        (sa.select(sa.exists().where(ITEMS.c.id == "1")), {}),
        (sa.select(NODES).where(NODES.c.id.in_(sa.select(ITEMS.c.id))), {}),
        (sa.update(ITEMS).where(ITEMS.c.id == "1"), {"size": "1"}),
        (sa.delete(ITEMS), {}),
        (sa.insert(ITEMS), {"id": "1"}),
        (sa.insert(ITEMS), {"id": "1", "tenant": "umbrella"}),
        (sa.text("SELECT id FROM item WHERE tenant = 'acme'"), {}),
    ],
    ids=str,
)
def test_a_statement_is_refused_when_it_could_reach_another_tenants_rows(
    statement: sa.Executable, row: Mapping[str, Any]
) -> None:
    with pytest.raises(TenantNotNamed):
        check_names(statement, ACME, [row])
