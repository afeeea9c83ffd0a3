"""Tenants in a real database: row and event in one commit, told again, locked while changed."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from functools import partial
from itertools import product

import pytest
import sqlalchemy as sa
from modelyard.gateway.v1 import tenant_events_pb2 as pb
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.postgres.keys import PostgresDirectory
from services.api_gateway.adapters.postgres.tables import api_key_table, chassis, tenant_table
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.adapters.postgres.unit_of_work import OneTenantUnitOfWork
from services.api_gateway.domain.api_key import PresentedKey
from services.api_gateway.domain.roles import Role
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.domain.tenant import Plan, Tenant, TenantState
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.entrypoints.loops.tenants import TenantsLoop
from services.api_gateway.use_cases.create_tenant import (
    CreateTenant,
    IssuePlatformKey,
    IssueTenantKey,
)
from services.api_gateway.use_cases.manage_keys import NewKeys
from services.api_gateway.use_cases.manage_tenants import ChangeTenant, RepublishTenants
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import SystemClock
from services.chassis.db.lease import HeldLease, LeaseKeeper, PostgresLeases, Recurrence
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    TenantSuspended,
    VersionMismatch,
)
from services.chassis.ids import TimeOrderedIds
from services.chassis.tenancy import Principal, TenantId
from tests.unit.api_gateway.edge import Clock

CLOCK = SystemClock()
NEW_KEYS = NewKeys(CLOCK, TimeOrderedIds(CLOCK), lambda: "s" * 43)
ACME = TenantId("acme")
PLATFORM = Principal(TenantId("default"), "test", SCOPES)
PLAN = Plan(queued_jobs_max=5, priority_max=0)


@pytest.fixture
def store(engine: AsyncEngine) -> PostgresTenants:
    base = PostgresUnitOfWork(
        engine, chassis, source="/api-gateway", clock=CLOCK, ids=TimeOrderedIds(CLOCK)
    )
    return PostgresTenants(base, event_of)


@pytest.fixture
def create(store: PostgresTenants) -> CreateTenant:
    return CreateTenant(store, NEW_KEYS)


@pytest.fixture
async def change(store: PostgresTenants, create: CreateTenant) -> ChangeTenant:
    """Give what the platform's administrators change tenants with; their own is there."""
    await create(PLATFORM.tenant)
    return ChangeTenant(store, TenantStanding(store, CLOCK))


async def found(store: PostgresTenants, tenant: TenantId) -> Tenant:
    stored = await store.find(tenant)
    assert stored is not None
    return stored


async def told(engine: AsyncEngine) -> Sequence[tuple[str, pb.Tenant]]:
    """Return the events of all tenants but the platform's own, in order."""
    outbox = chassis.outbox
    async with engine.connect() as connection:
        query = sa.select(outbox).where(outbox.c.tenant != PLATFORM.tenant)
        rows = (await connection.execute(query.order_by(outbox.c.seq))).all()
    assert all(row.aggregatetype == "modelyard.tenant.v1" for row in rows)
    assert all(row.aggregateid == row.tenant for row in rows)
    return [(row.type, pb.Tenant.FromString(row.payload)) for row in rows]


async def test_each_change_is_stored_and_told_with_the_next_version(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    created, _ = await create(ACME, plan=PLAN)
    assert await store.find(ACME) == created
    for _ in range(2):  # the second time changes nothing, so it is not told
        await change.suspend(PLATFORM, ACME, reason="unpaid")
    await change.plan(PLATFORM, ACME, Plan(requests_max=10))
    resumed = await change.resume(PLATFORM, ACME)

    assert await store.find(ACME) == resumed
    events = await told(engine)
    assert [(kind, tenant.version) for kind, tenant in events] == [
        ("modelyard.tenant.active.v1", 1),
        ("modelyard.tenant.suspended.v1", 2),
        ("modelyard.tenant.suspended.v1", 3),
        ("modelyard.tenant.active.v1", 4),
    ]
    first, second = events[0][1], events[1][1]
    assert (first.plan.queued_jobs_max, first.plan.priority_max) == (5, 0)
    assert first.plan.HasField("priority_max")
    assert not first.plan.HasField("replicas_max")
    assert (second.id, second.state, second.reason) == (
        "acme",
        pb.TENANT_STATE_SUSPENDED,
        "unpaid",
    )


async def test_a_tenant_is_made_once(create: CreateTenant, engine: AsyncEngine) -> None:
    async def made() -> bool:
        try:
            await create(ACME)
        except AlreadyExists:
            return False
        return True

    assert sum(await asyncio.gather(*(made() for _ in range(4)))) == 1
    assert len(await told(engine)) == 1


async def test_another_key_opens_the_tenant_and_is_no_news_of_it(
    store: PostgresTenants, create: CreateTenant, engine: AsyncEngine
) -> None:
    await create(ACME)
    issue = IssueTenantKey(store, NEW_KEYS)
    text = await issue(PLATFORM, ACME)
    presented = PresentedKey.parse(f"Bearer {text}")
    assert presented is not None
    found = await PostgresDirectory(store.base).find_key(presented.id)
    assert found is not None
    assert (found.tenant, found.role) == (ACME, Role.ADMIN)
    assert len(await told(engine)) == 1
    with pytest.raises(NotFound):
        await issue(PLATFORM, TenantId("nobody"))


async def test_an_operator_makes_another_key_that_administers_the_platform(
    store: PostgresTenants, create: CreateTenant
) -> None:
    await create(ACME)
    text = await IssuePlatformKey(store, NEW_KEYS)(ACME)
    presented = PresentedKey.parse(f"Bearer {text}")
    assert presented is not None
    found = await PostgresDirectory(store.base).find_key(presented.id)
    assert found is not None
    assert (found.tenant, found.role, found.created_by) == (ACME, Role.PLATFORM_ADMIN, "platform")
    with pytest.raises(NotFound):
        await IssuePlatformKey(store, NEW_KEYS)(TenantId("nobody"))


async def test_changes_at_once_have_a_version_each(
    create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    await create(ACME)
    await asyncio.gather(*(change.plan(PLATFORM, ACME, Plan(replicas_max=n)) for n in range(4)))
    assert [tenant.version for _, tenant in await told(engine)] == [1, 2, 3, 4, 5]


async def test_of_changes_at_once_that_are_for_one_version_one_is_made(
    create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    await create(ACME)
    for version in range(1, 4):
        ends = await asyncio.gather(
            change.plan(PLATFORM, ACME, Plan(replicas_max=version), if_version=version),
            change.plan(PLATFORM, ACME, Plan(priority_max=version), if_version=version),
            return_exceptions=True,
        )
        [refused] = [end for end in ends if isinstance(end, BaseException)]
        assert isinstance(refused, VersionMismatch)
        assert refused.detail["current_version"] == str(version + 1)
    assert [tenant.version for _, tenant in await told(engine)] == [1, 2, 3, 4]


async def test_administrators_who_suspend_each_other_at_the_same_time_leave_one(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant
) -> None:
    both = [PLATFORM, Principal(ACME, "test", frozenset())]
    await create(ACME)
    suspended = partial(change.suspend, reason="unpaid")
    deleted = partial(change.delete, grace=timedelta(days=1))
    for ends in product((suspended, deleted), repeat=2):
        answers = await asyncio.gather(
            ends[0](both[0], both[1].tenant),
            ends[1](both[1], both[0].tenant),
            return_exceptions=True,
        )

        [refused] = [answer for answer in answers if isinstance(answer, BaseException)]
        assert isinstance(refused, TenantSuspended)
        [left] = [by for by in both if (await found(store, by.tenant)).is_active]
        [other] = [by for by in both if by is not left]
        with pytest.raises(TenantSuspended):
            await change.resume(other, other.tenant)
        await change.resume(left, other.tenant)


async def test_what_is_not_there_is_not_changed(change: ChangeTenant, engine: AsyncEngine) -> None:
    with pytest.raises(NotFound):
        await change.resume(PLATFORM, ACME)
    assert await told(engine) == []


async def a_lease(engine: AsyncEngine) -> HeldLease:
    """Take the lease that the loop works under."""
    keeper = LeaseKeeper(
        PostgresLeases(engine, chassis),
        "tenants",
        holder="proc_1",
        ttl=timedelta(seconds=60),
        clock=CLOCK,
    )
    held = await keeper.acquire()
    assert held is not None
    return held


async def keys_of(engine: AsyncEngine) -> dict[str, int]:
    """Count the stored keys by tenant, but for the platform's own."""
    tenant = api_key_table.c.tenant
    query = sa.select(tenant, sa.func.count().label("key_count")).where(tenant != PLATFORM.tenant)
    async with engine.connect() as connection:
        rows = await connection.execute(query.group_by(tenant))
        return {row.tenant: row.key_count for row in rows}


async def test_a_tenant_is_purged_when_its_grace_is_over_and_no_other_is(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    for name in ("acme", "beta", "other"):
        await create(TenantId(name), plan=PLAN)
    issue, purge = IssueTenantKey(store, NEW_KEYS), PurgeTenants(store, 2)
    for _ in range(4):
        await issue(PLATFORM, ACME)
    await change.delete(PLATFORM, ACME, grace=timedelta(0))
    await change.delete(PLATFORM, TenantId("beta"), grace=timedelta(days=1))
    lease = await a_lease(engine)
    assert [await purge(lease), await purge(lease)] == [1, 0]
    assert await purge.delete_rest(lease) == 5
    assert await keys_of(engine) == {"beta": 1, "other": 1}

    purged = await store.find(ACME)
    assert purged is not None
    assert (purged.state, purged.version, purged.plan) == (TenantState.PURGED, 3, Plan())
    kind, event = (await told(engine))[-1]
    assert (kind, event.state) == ("modelyard.tenant.purged.v1", pb.TENANT_STATE_PURGED)
    beta = await store.find(TenantId("beta"))
    assert beta is not None
    assert beta.state is TenantState.DELETING
    with pytest.raises(AlreadyExists, match="name is not given again"):
        await create(ACME)
    with pytest.raises(AlreadyExists, match="beta already exists"):
        await create(TenantId("beta"))


async def test_a_key_that_a_late_gateway_made_goes_with_the_next_pass(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    await create(ACME)
    await change.delete(PLATFORM, ACME, grace=timedelta(0))
    lease, purge = await a_lease(engine), PurgeTenants(store, 10)
    await purge(lease)
    await purge.delete_rest(lease)
    key, _ = NEW_KEYS.make(ACME, name="late", created_by="key:late", role=Role.ADMIN)
    async with OneTenantUnitOfWork(store.base)(ACME) as tx:
        await tx.keys.add(key)
    assert await purge.delete_rest(lease) == 1
    assert await keys_of(engine) == {}


async def test_rows_that_somebody_holds_hold_up_no_others(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    beta = TenantId("beta")
    for tenant in (ACME, beta):
        await create(tenant)
        await change.delete(PLATFORM, tenant, grace=timedelta(0))
    lease, purge = await a_lease(engine), PurgeTenants(store, 10)
    async with engine.begin() as elsewhere:
        await elsewhere.execute(
            sa.select(tenant_table.c.id).where(tenant_table.c.id == ACME).with_for_update()
        )
        assert await purge(lease) == 1
    assert (await found(store, beta)).is_purged
    assert await purge(lease) == 1

    async with engine.begin() as elsewhere:
        key = api_key_table.c
        await elsewhere.execute(sa.select(key.id).where(key.tenant == ACME).with_for_update())
        assert await purge.delete_rest(lease) == 1
        assert await keys_of(engine) == {"acme": 1}
    assert await purge.delete_rest(lease) == 1
    assert await keys_of(engine) == {}


async def test_resuming_and_purging_at_once_leaves_one_of_both(
    store: PostgresTenants, create: CreateTenant, change: ChangeTenant, engine: AsyncEngine
) -> None:
    await create(ACME)
    await change.delete(PLATFORM, ACME, grace=timedelta(0))
    lease = await a_lease(engine)

    async def is_resumed() -> bool:
        try:
            await change.resume(PLATFORM, ACME)
        except FailedPrecondition:
            return False
        return True

    resumed, purged_count = await asyncio.gather(is_resumed(), PurgeTenants(store, 10)(lease))
    assert resumed == (purged_count == 0)
    found = await store.find(ACME)
    assert found is not None
    assert found.is_active == resumed


async def test_all_are_told_again_by_each_new_holder_and_after_the_interval(
    store: PostgresTenants, create: CreateTenant, engine: AsyncEngine
) -> None:
    names = ["a", "b", "c"]
    for name in names:
        await create(TenantId(name))
    clock = Clock()

    def holder(process: str) -> TenantsLoop:
        lease = LeaseKeeper(
            PostgresLeases(engine, chassis),
            "tenants",
            holder=process,
            ttl=timedelta(seconds=60),
            clock=CLOCK,
        )
        interval = timedelta(minutes=10)
        return TenantsLoop(
            PurgeTenants(store, 2),
            RepublishTenants(store, 2),
            purging=Recurrence(interval, clock),
            republication=Recurrence(interval, clock),
            lease=lease,
        )

    first, second = holder("proc_1"), holder("proc_2")

    async def again(loop: TenantsLoop) -> list[str]:
        before = len(await told(engine))
        await loop.turn()
        return [tenant.id for _, tenant in (await told(engine))[before:]]

    assert await again(first) == []  # without the lease nobody does
    await first.lease.acquire()
    assert await again(first) == names
    assert await again(first) == []
    clock.elapsed_s += 600
    assert await again(first) == names
    await first.lease.release()
    await second.lease.acquire()
    assert await again(second) == names
    assert {tenant.version for _, tenant in await told(engine)} == {1}
