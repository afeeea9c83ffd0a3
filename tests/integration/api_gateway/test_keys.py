"""Tenants and keys in a real database."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.postgres.keys import PostgresDirectory
from services.api_gateway.adapters.postgres.tables import (
    api_key_table,
    chassis,
    key_ended_at,
    metadata,
)
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.adapters.postgres.unit_of_work import OneTenantUnitOfWork
from services.api_gateway.domain.api_key import ApiKey
from services.api_gateway.domain.roles import SCOPES_BY_ROLE, Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.manage_keys import (
    IssueKey,
    ListKeys,
    NewKeys,
    RevokeKey,
    RotateKey,
)
from services.chassis.clock import SystemClock
from services.chassis.db.janitor import Janitor, Kept
from services.chassis.db.migrate import drift
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import Principal, TenantId
from tests.support.databases import Databases

CLOCK = SystemClock()
NEW_KEYS = NewKeys(CLOCK, TimeOrderedIds(CLOCK), lambda: "s" * 43)
MAKERS = Makers()
ACME, OTHER = TenantId("acme"), TenantId("other")


ADMIN = Principal(ACME, "test", SCOPES)
_MANY_KEYS = sa.text(
    """
    INSERT INTO api_key (id, tenant, name, scopes, secret_digest, created_at, revoked_at)
    SELECT 'key_' || n, 'acme', 'k', '{}', '', now(),
           CASE WHEN n <= 10 THEN now() - interval '40 days' END
    FROM generate_series(1, 20000) AS n
    """
)


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
    directory, keys = PostgresDirectory(base), OneTenantUnitOfWork(base)
    for tenant in (ACME, OTHER):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    key, text = await IssueKey(keys, NEW_KEYS, MAKERS)(
        ADMIN,
        name="ci",
        scopes=frozenset({"jobs:read"}),
        lifetime=timedelta(days=1),
    )
    assert [found.name for found in await listed(keys, ACME)] == ["ci", "first"]
    assert [found.name for found in await listed(keys, OTHER)] == ["first"]
    revoke = RevokeKey(keys)
    with pytest.raises(NotFound):
        await revoke(replace(ADMIN, tenant=OTHER), key.id)
    await revoke(ADMIN, key.id)
    await revoke(ADMIN, key.id)
    with pytest.raises(Unauthenticated):
        await Authenticate(directory, CLOCK)(f"Bearer {text}")


async def listed(unit_of_work: OneTenantUnitOfWork, tenant: TenantId) -> Sequence[ApiKey]:
    """Return a tenant's keys, which are no more than a page has."""
    keys, following = await ListKeys(unit_of_work)(tenant)
    assert following is None
    return keys


@pytest.mark.parametrize("page_size", [1, 2, 3, 5, 6])
async def test_keys_are_listed_page_by_page_those_in_force_first(
    base: PostgresUnitOfWork, page_size: int
) -> None:
    unit_of_work = OneTenantUnitOfWork(base)
    for tenant in (ACME, OTHER):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    now, day = CLOCK.now(), timedelta(days=1)
    lives = {  # in the order of their ids; of each its expiry and its revocation
        "expired": (now - day, None),
        "for ever": (None, None),
        "revoked": (now + day, now - day),
        "for a day": (now + day, None),
        "both": (now - day, now - day),
    }
    async with unit_of_work(ACME) as tx:
        for name, (expires_at, revoked_at) in lives.items():
            key, _ = NEW_KEYS.make(ACME, name=name, created_by="test", role=Role.VIEWER)
            await tx.keys.add(replace(key, expires_at=expires_at, revoked_at=revoked_at))

    names, after, is_first = [], None, True
    while is_first or after is not None:
        page, after = await ListKeys(unit_of_work)(ACME, after=after, limit=page_size)
        assert len(page) == page_size or after is None
        names += [key.name for key in page]
        is_first = False

    assert names == ["for a day", "for ever", "first", "both", "revoked", "expired"]


async def test_a_key_that_ends_between_two_pages_is_not_missed(base: PostgresUnitOfWork) -> None:
    unit_of_work = OneTenantUnitOfWork(base)
    await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(ACME)
    issue, revoke, pages = (
        IssueKey(unit_of_work, NEW_KEYS, MAKERS),
        RevokeKey(unit_of_work),
        ListKeys(unit_of_work),
    )
    older, _ = await issue(ADMIN, name="older", role=Role.VIEWER)
    newer, _ = await issue(ADMIN, name="newer", role=Role.VIEWER)

    first, after = await pages(ACME, limit=1)
    for key in (older, newer):
        await revoke(ADMIN, key.id)
    rest, _ = await pages(ACME, after=after)

    assert [key.name for key in first] == ["newer"]
    assert [key.name for key in rest] == ["first", "newer", "older"]


async def a_key(base: PostgresUnitOfWork, *, lifetime: timedelta | None = None) -> ApiKey:
    """Make the tenant and a developer's key in it."""
    await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(ACME)
    issue = IssueKey(OneTenantUnitOfWork(base), NEW_KEYS, MAKERS)
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
    rotate = RotateKey(OneTenantUnitOfWork(base), NEW_KEYS, MAKERS)

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


async def test_twins_make_no_more_keys_than_the_bound(base: PostgresUnitOfWork) -> None:
    for tenant in (ACME, OTHER):
        await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(tenant)
    unit_of_work = OneTenantUnitOfWork(base)
    issue = IssueKey(unit_of_work, NEW_KEYS, MAKERS, in_force_max=4)

    twins = await asyncio.gather(
        *(issue(ADMIN, name="twin", role=Role.VIEWER) for _ in range(8)), return_exceptions=True
    )

    made = [twin[0] for twin in twins if not isinstance(twin, BaseException)]
    refused = [type(twin) for twin in twins if isinstance(twin, BaseException)]
    assert (len(made), refused) == (3, [QuotaExceeded] * 5)  # beside the tenant's first one

    rotate = RotateKey(unit_of_work, NEW_KEYS, MAKERS, in_force_max=4)
    with pytest.raises(QuotaExceeded):
        await rotate(ADMIN, made[0].id, overlap=timedelta(hours=1))
    assert await PostgresDirectory(base).find_key(made[0].id) == made[0]
    await rotate(ADMIN, made[0].id, overlap=timedelta(0))
    await RevokeKey(unit_of_work)(ADMIN, made[1].id)
    await issue(ADMIN, name="in its place", role=Role.VIEWER)


async def test_keys_that_ended_long_ago_are_deleted_the_longest_first(
    base: PostgresUnitOfWork, engine: AsyncEngine
) -> None:
    await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(ACME)
    kept, now, day = timedelta(days=30), CLOCK.now(), timedelta(days=1)
    ends = {  # of each key its expiry and its revocation
        "expired 40 days ago": (now - 40 * day, None),
        "revoked 35 days ago": (None, now - 35 * day),
        "revoked before it expired": (now - 2 * day, now - 33 * day),
        "expired before it was revoked": (now - 32 * day, now - 2 * day),
        "ended lately": (now - 29 * day, None),
        "in force": (now + day, None),
    }
    async with OneTenantUnitOfWork(base)(ACME) as tx:
        for name, (expires_at, revoked_at) in ends.items():
            key, _ = NEW_KEYS.make(ACME, name=name, created_by="test", role=Role.VIEWER)
            await tx.keys.add(replace(key, expires_at=expires_at, revoked_at=revoked_at))

    async def names() -> list[str]:
        return [key.name for key in await listed(OneTenantUnitOfWork(base), ACME)]

    def janitor(batches_max: int) -> Janitor:
        ended = Kept(api_key_table, since=key_ended_at, kept=kept)
        return Janitor(
            engine, chassis, others=[ended], batch_rows_max=2, batches_per_pass_max=batches_max
        )

    assert set((await names())[:2]) == {"first", "in force"}
    assert await janitor(1).delete_expired() == 2
    assert set(await names()) == {"first", *list(ends)[2:]}
    assert await janitor(9).delete_expired() == 2
    assert set(await names()) == {"first", "ended lately", "in force"}


async def test_ended_keys_are_found_by_their_index_among_many(
    base: PostgresUnitOfWork, engine: AsyncEngine
) -> None:
    await CreateTenant(PostgresTenants(base, event_of), NEW_KEYS)(ACME)
    asked: list[tuple[str, Any]] = []

    def note(*arguments: Any) -> None:
        _, _, statement, parameters, *_ = arguments
        if statement.startswith("DELETE FROM api_key"):
            asked.append((statement, parameters))

    async with engine.begin() as connection:
        await connection.execute(_MANY_KEYS)
    async with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        await connection.execute(sa.text("ANALYZE api_key"))
    sa.event.listen(engine.sync_engine, "before_cursor_execute", note)
    ended = Kept(api_key_table, since=key_ended_at, kept=timedelta(days=30))
    assert await Janitor(engine, chassis, others=[ended]).delete_expired() == 10
    [(statement, parameters)] = asked
    async with engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", parameters)
        lines = [row[0] for row in plan]

    plan_text = "\n".join(lines)
    assert "Index Scan using ix_api_key_ended_at" in plan_text
    assert "Index Cond: (LEAST(revoked_at, expires_at) <" in plan_text
    assert "Seq Scan on api_key" not in plan_text


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
    issue, directory = (
        IssueKey(OneTenantUnitOfWork(base), NEW_KEYS, MAKERS),
        PostgresDirectory(base),
    )
    made = [await issue(ADMIN, name="k", role=Role.VIEWER) for _ in range(50)]
    ids = [key.id for key, _ in made]
    for round_number in range(10):
        at = made[0][0].created_at + timedelta(hours=round_number)
        await asyncio.gather(
            directory.write_uses(dict.fromkeys(ids, at), again_after=timedelta(0)),
            directory.write_uses(dict.fromkeys(reversed(ids), at), again_after=timedelta(0)),
        )
