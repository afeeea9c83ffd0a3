"""Tenants and keys in a real database."""

from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from pydantic import SecretStr

from services.api_gateway.adapters.postgres.keys import KeyUnitOfWork, PostgresDirectory
from services.api_gateway.adapters.postgres.tables import chassis, metadata
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.manage_keys import IssueKey, ListKeys, NewKeys, RevokeKey
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.migrate import drift
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import NotFound, Unauthenticated
from services.chassis.ids import TimeOrderedIds
from services.chassis.settings import PostgresSettings
from services.chassis.tenancy import Principal, TenantId
from tests.support.databases import Databases

CLOCK = SystemClock()
NEW_KEYS = NewKeys(CLOCK, TimeOrderedIds(CLOCK), lambda: "s" * 43)
ACME, OTHER = TenantId("acme"), TenantId("other")


@pytest.fixture
async def base(database_url: Databases) -> AsyncIterator[PostgresUnitOfWork]:
    settings = PostgresSettings(url=SecretStr(database_url("api_gateway")))
    async with open_engine(settings, application_name="test") as engine:
        yield PostgresUnitOfWork(
            engine, chassis, source="/api-gateway", clock=CLOCK, ids=TimeOrderedIds(CLOCK)
        )


async def test_the_migrated_database_is_what_the_code_declares(database_url: Databases) -> None:
    assert await drift(database_url("api_gateway"), metadata) == []


async def test_a_tenants_first_key_is_made_once_and_opens_the_tenant(
    base: PostgresUnitOfWork,
) -> None:
    directory = PostgresDirectory(base)
    create = CreateTenant(directory, NEW_KEYS)
    text = await create(ACME)
    assert text is not None
    assert await create(ACME) is None
    principal = await Authenticate(directory, CLOCK)(f"Bearer {text}")
    assert principal.tenant == ACME
    assert "jobs:write" in principal.scopes


async def test_a_key_is_listed_and_revoked_within_its_tenant_only(
    base: PostgresUnitOfWork,
) -> None:
    directory, keys = PostgresDirectory(base), KeyUnitOfWork(base)
    for tenant in (ACME, OTHER):
        await CreateTenant(directory, NEW_KEYS)(tenant)
    key, text = await IssueKey(keys, NEW_KEYS)(
        Principal(ACME, "test", SCOPES),
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
