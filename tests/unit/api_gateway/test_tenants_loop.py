"""When tenants are purged and told again, and what a failure makes happen again."""

from dataclasses import dataclass, field
from datetime import timedelta

import pytest
from typing_extensions import override

from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.entrypoints.loops.tenants import TenantsLoop
from services.api_gateway.use_cases.manage_tenants import RepublishTenants
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.chassis.db.lease import HeldLease, Recurrence
from services.chassis.errors import Unavailable
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import Clock, FakeKeys, FakeTenants

ACME = TenantId("acme")
INTERVAL = timedelta(minutes=10)


@dataclass
class Store(FakeTenants):
    """Fails for as long as told to delete what purged tenants left, or to read all tenants."""

    keys_fail: bool = False
    pages_fail: bool = False
    looked: int = 0

    @override
    async def delete_purged_keys(self, *, limit: int) -> int:
        self.looked += 1
        if self.keys_fail:
            raise Unavailable("database")
        return await super().delete_purged_keys(limit=limit)

    @override
    async def locked_page(self, *, after: str, limit: int) -> list[Tenant]:
        if self.pages_fail:
            raise Unavailable("database")
        return list(await super().locked_page(after=after, limit=limit))


@dataclass
class HeldAlways:
    """A lease that this process holds."""

    held: HeldLease = field(default_factory=lambda: HeldLease("tenants", "proc_1", 1))


@pytest.fixture
def store() -> Store:
    clock = Clock()
    return Store(clock, FakeKeys(), {ACME: Tenant.created(ACME, Plan(), at=clock.now())})


@pytest.fixture
def loop(store: Store) -> TenantsLoop:
    return TenantsLoop(
        PurgeTenants(store, 10),
        RepublishTenants(store, 10),
        purging=Recurrence(INTERVAL, store.clock),
        republication=Recurrence(INTERVAL, store.clock),
        lease=HeldAlways(),  # type: ignore[arg-type]
    )


async def test_what_is_left_that_cannot_be_deleted_tells_nobody_again(
    store: Store, loop: TenantsLoop
) -> None:
    store.keys_fail = True
    for _ in range(5):
        await loop.turn()
    assert len(store.published) == 1
    assert store.looked == 5

    store.keys_fail = False
    for _ in range(5):
        await loop.turn()
    assert (len(store.published), store.looked) == (1, 6)


async def test_tenants_that_cannot_be_told_are_told_at_the_next_look(
    store: Store, loop: TenantsLoop
) -> None:
    store.pages_fail = True
    await loop.turn()
    store.pages_fail = False
    await loop.turn()
    assert (len(store.published), store.looked) == (1, 1)


async def test_what_a_purge_failed_to_delete_goes_at_the_next_look(
    store: Store, loop: TenantsLoop
) -> None:
    await loop.turn()
    now = store.clock.now()
    store.tenants[ACME] = store.tenants[ACME].deleted(grace=timedelta(0), at=now)
    store.keys_fail = True
    await loop.turn()
    assert store.tenants[ACME].is_purged

    store.keys_fail = False
    before = store.looked
    await loop.turn()
    assert store.looked == before + 1
