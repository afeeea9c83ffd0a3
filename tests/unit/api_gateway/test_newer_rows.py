"""What a newer release has stored, as this one reads it: nobody may do more for that."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from services.api_gateway.adapters.postgres import keys, members, tenants
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.tenant import Plan, Tenant, TenantState
from services.api_gateway.entrypoints.facts import tenant_to_pb
from services.api_gateway.use_cases.manage_tenants import RepublishTenants
from services.chassis.db.lease import HeldLease
from services.chassis.errors import FailedPrecondition, TenantSuspended
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Clock, Edge, FakeKeys, FakeTenants

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def key_row(role: str | None, *scopes: str) -> Any:
    return {
        "id": "key_1",
        "tenant": "acme",
        "name": "ours",
        "scopes": list(scopes),
        "secret_digest": bytes(32),
        "created_at": NOW,
        "expires_at": None,
        "revoked_at": None,
        "role": role,
        "last_used_at": None,
        "replaced_by": None,
        "created_by": None,
        "person_issuer": None,
        "person_subject": None,
    }


def tenant_row(state: str, purge_at: datetime | None = None) -> Any:
    return {
        "id": "acme",
        "state": state,
        "version": 7,
        "reason": "unpaid",
        "created_at": NOW,
        "changed_at": NOW,
        "purge_at": purge_at,
        "plan": {},
    }


@pytest.mark.parametrize("role", Role)
def test_a_known_role_is_read_as_it_was_stored(role: Role) -> None:
    assert keys.from_row(key_row(role.value)).principal.scopes == SCOPES_BY_ROLE[role]


def test_a_key_of_an_unknown_role_may_nothing() -> None:
    principal = keys.from_row(key_row("auditor")).principal

    assert (principal.scopes, principal.roles) == (frozenset(), frozenset())


def test_a_key_of_scopes_keeps_those_that_are_known() -> None:
    assert keys.from_row(key_row(None, "jobs:read", "queues:read")).principal.scopes == {
        "jobs:read"
    }


def test_a_key_of_which_not_all_is_known_may_do_more_than_anybody() -> None:
    for row in (key_row("auditor"), key_row(None, "jobs:read", "queues:read")):
        assert keys.from_row(row).may_more_than(SCOPES_BY_ROLE[Role.PLATFORM_ADMIN])
    for row in (key_row("viewer"), key_row(None, "jobs:read"), key_row(None, "admin")):
        assert not keys.from_row(row).may_more_than(SCOPES_BY_ROLE[Role.ADMIN])


def test_a_member_keeps_the_roles_that_are_known() -> None:
    row: Any = {
        "tenant": "acme",
        "issuer": "https://login.example.org",
        "subject": "anna",
        "roles": ["auditor", "viewer"],
        "version": 1,
        "added_at": NOW,
        "changed_at": NOW,
        "changed_by": "key:1",
    }
    assert members.from_row(row).roles == {Role.VIEWER}


@pytest.mark.parametrize("state", set(TenantState) - {TenantState.UNKNOWN})
def test_a_known_state_is_read_as_it_was_stored(state: TenantState) -> None:
    assert tenants.from_row(tenant_row(state.value)).state is state


@pytest.mark.parametrize("state", ["FROZEN", "", "active", "UNKNOWN"])
def test_a_tenant_in_an_unknown_state_counts_as_suspended(state: str) -> None:
    tenant = tenants.from_row(tenant_row(state))

    assert not tenant.is_purged
    with pytest.raises(TenantSuspended, match="unpaid"):
        tenant.check_active()
    assert tenant_to_pb(tenant).state == tenant_to_pb(suspended()).state


@pytest.mark.parametrize("purge_at", [None, NOW + timedelta(days=9)])
def test_nothing_changes_a_tenant_in_an_unknown_state(purge_at: datetime | None) -> None:
    tenant = tenants.from_row(tenant_row("FROZEN", purge_at))

    changes: list[Callable[[], object]] = [
        lambda: tenant.resumed(at=NOW),
        lambda: tenant.suspended(reason="again", at=NOW),
        lambda: tenant.deleted(grace=timedelta(0), at=NOW),
        lambda: tenant.planned(Plan(replicas_max=1), at=NOW),
    ]
    for change in changes:
        with pytest.raises(FailedPrecondition):
            change()


async def test_a_tenant_in_an_unknown_state_is_not_told_again_as_another() -> None:
    store = FakeTenants(Clock(), FakeKeys())
    known = replace(suspended(), id=TenantId("beta"))
    for tenant in (tenants.from_row(tenant_row("FROZEN")), known):
        store.tenants[tenant.id] = tenant

    assert await RepublishTenants(store, batch_max=10)(HeldLease("tenants", "proc_1", 1)) == 2

    assert store.published == [known]


async def test_a_key_of_an_unknown_role_is_not_rotated_into_one_without() -> None:
    edge = Edge()
    text = await edge.key("jobs:read")
    found = edge.keys.keys["key_" + text.split("_")[1]]
    edge.keys.keys[found.id] = replace(found, scopes=frozenset(), role=None)
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post(f"/v1/api-keys/{found.id}/rotate", json={"overlap": "PT1H"})

    assert (answer.status_code, answer.json()["code"]) == (409, "FAILED_PRECONDITION")


def suspended() -> Tenant:
    return tenants.from_row(tenant_row(TenantState.SUSPENDED))
