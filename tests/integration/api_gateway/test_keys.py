"""Tenants and keys in a real database."""

import asyncio
from datetime import datetime, timedelta

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.postgres.keys import KeyUnitOfWork, PostgresDirectory
from services.api_gateway.adapters.postgres.tables import chassis, metadata
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.domain.api_key import ApiKey
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.manage_keys import (
    IssueKey,
    ListKeys,
    NewKeys,
    RevokeKey,
    RotateKey,
)
from services.chassis.clock import SystemClock
from services.chassis.db.migrate import drift
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    Unauthenticated,
)
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import Principal, TenantId
from tests.support.databases import Databases

CLOCK = SystemClock()
NEW_KEYS = NewKeys(CLOCK, TimeOrderedIds(CLOCK), lambda: "s" * 43)
ACME, OTHER = TenantId("acme"), TenantId("other")


ADMIN = Principal(ACME, "test", SCOPES)


@pytest.fixture
async def base(engine: AsyncEngine) -> PostgresUnitOfWork:
    return PostgresUnitOfWork(
        engine, chassis, source="/api-gateway", clock=CLOCK, ids=TimeOrderedIds(CLOCK)
    )


async def test_the_migrated_database_is_what_the_code_declares(database_url: Databases) -> None:
    assert await drift(database_url("api_gateway"), metadata) == []


async def test_a_tenants_first_key_is_made_once_and_opens_the_tenant(
    base: PostgresUnitOfWork,
) -> None:
    directory = PostgresDirectory(base)
    create = CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)
    _, text = await create(ACME)
    with pytest.raises(AlreadyExists):
        await create(ACME)
    principal = await Authenticate(directory, CLOCK)(f"Bearer {text}")
    assert principal.tenant == ACME
    assert "jobs:write" in principal.scopes


async def test_a_key_is_listed_and_revoked_within_its_tenant_only(
    base: PostgresUnitOfWork,
) -> None:
    directory, keys = PostgresDirectory(base), KeyUnitOfWork(base)
    for tenant in (ACME, OTHER):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    key, text = await IssueKey(keys, NEW_KEYS)(
        ADMIN,
        name="ci",
        scopes=frozenset({"jobs:read"}),
        lifetime=timedelta(days=1),
    )
    assert [found.name for found in await ListKeys(keys)(ACME)] == ["ci", "first"]
    assert [found.name for found in await ListKeys(keys)(OTHER)] == ["first"]
    revoke = RevokeKey(keys, CLOCK)
    with pytest.raises(NotFound):
        await revoke(OTHER, key.id)
    await revoke(ACME, key.id)
    await revoke(ACME, key.id)
    with pytest.raises(Unauthenticated):
        await Authenticate(directory, CLOCK)(f"Bearer {text}")


async def a_key(base: PostgresUnitOfWork, *, lifetime: timedelta | None = None) -> ApiKey:
    """Make the tenant and a developer's key in it."""
    await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(ACME)
    issue = IssueKey(KeyUnitOfWork(base), NEW_KEYS)
    key, _ = await issue(ADMIN, name="ci", role=Role.DEVELOPER, lifetime=lifetime)
    return key


async def test_a_key_of_a_role_may_do_what_the_role_may(base: PostgresUnitOfWork) -> None:
    key = await a_key(base)
    found = await PostgresDirectory(base).find_key(key.id)
    assert found == key
    assert found.principal.roles == {Role.DEVELOPER}
    assert found.principal.scopes == SCOPES_BY_ROLE[Role.DEVELOPER]


async def test_rotation_is_stored_and_its_twin_refused(base: PostgresUnitOfWork) -> None:
    key = await a_key(base, lifetime=timedelta(days=90))
    rotate = RotateKey(KeyUnitOfWork(base), NEW_KEYS, CLOCK)

    twins = await asyncio.gather(
        *(rotate(ADMIN, key.id, overlap=timedelta(hours=1)) for _ in range(4)),
        return_exceptions=True,
    )

    [done] = [twin for twin in twins if not isinstance(twin, BaseException)]
    assert [type(twin) for twin in twins if twin is not done] == [FailedPrecondition] * 3
    new, _, replaced = done
    directory = PostgresDirectory(base)
    assert await directory.find_key(key.id) == replaced
    assert await directory.find_key(new.id) == new
    assert (new.name, new.role, new.lifetime) == (key.name, key.role, key.lifetime)
    assert replaced.replaced_by == new.id
    assert replaced.expires_at is not None
    assert timedelta(minutes=59) < replaced.expires_at - new.created_at <= timedelta(hours=1)
    with pytest.raises(NotFound):
        await rotate(Principal(OTHER, "test", SCOPES), new.id, overlap=timedelta(0))


async def test_uses_are_written_once_a_minute_and_never_backwards(
    base: PostgresUnitOfWork,
) -> None:
    key = await a_key(base)
    directory, minute = PostgresDirectory(base), timedelta(minutes=1)
    first = key.created_at

    async def written(at: datetime) -> datetime | None:
        await directory.write_uses({key.id: at, "key_gone": at}, again_after=minute)
        found = await directory.find_key(key.id)
        assert found is not None
        return found.last_used_at

    assert await written(first) == first
    assert await written(first + timedelta(seconds=59)) == first
    assert await written(first + minute) == first + minute
    assert await written(first) == first + minute


async def test_two_gateways_that_write_the_same_uses_do_not_wait_in_a_ring(
    base: PostgresUnitOfWork,
) -> None:
    await a_key(base)
    issue, directory = IssueKey(KeyUnitOfWork(base), NEW_KEYS), PostgresDirectory(base)
    made = [await issue(ADMIN, name="k", role=Role.VIEWER) for _ in range(50)]
    ids = [key.id for key, _ in made]
    for round_number in range(10):
        at = made[0][0].created_at + timedelta(hours=round_number)
        await asyncio.gather(
            directory.write_uses(dict.fromkeys(ids, at), again_after=timedelta(0)),
            directory.write_uses(dict.fromkeys(reversed(ids), at), again_after=timedelta(0)),
        )
