"""What the gateway tells of a tenant is what the others make of it, through a topic."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from services.api_gateway.domain import tenant as told
from services.api_gateway.entrypoints.facts import event_of
from services.chassis import purges
from services.chassis.events.envelope import Event, record_of
from services.chassis.events.memory_broker import MemoryBroker
from services.chassis.events.projection import CompactedProjection
from services.chassis.settings import KafkaSettings
from services.chassis.tenancy import PurgedTenants, TenantId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.tenants import tenant as understood
from services.scheduler.entrypoints.consumers.tenants import TOPIC, ApplyTenants

ACME = TenantId("acme")
NOW = datetime(2026, 3, 1, tzinfo=UTC)
PLAN = told.Plan(
    queued_jobs_max=0,
    replicas_max=4,
    priority_max=10,
    running_cpu_millicores_max=8_000,
    running_memory_bytes_max=1 << 35,
    running_gpu_count_max=1,
)


async def understood_of(*tenants: told.Tenant) -> understood.TenantTable:
    """Publish in this order; return what the scheduler knows once it has caught up."""
    table = understood.TenantTable()
    await read(tenants, ApplyTenants(table, lambda: None))
    return table


async def read(tenants: Sequence[told.Tenant], apply: Callable[[Event], None]) -> None:
    """Publish in this order, and apply all of it."""
    broker = MemoryBroker()
    broker.create_topic(TOPIC, partition_count=2)
    for number, tenant in enumerate(tenants):
        broker.append(
            record_of(event_of(tenant), event_id=f"evt_{number}", source="/api-gateway", time=NOW)
        )
    projection = CompactedProjection(
        KafkaSettings(bootstrap_servers="in-memory"),
        TOPIC,
        apply,
        open_reader=broker.open_reader,
    )
    stopping = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(projection.run(stopping))
        await projection.caught_up()
        stopping.set()


async def test_state_reason_and_plan_arrive() -> None:
    active = told.Tenant.created(ACME, PLAN, at=NOW)
    suspended = active.suspended(reason="unpaid", at=NOW)
    table = await understood_of(active, suspended)
    assert table.get(ACME) == understood.Tenant(
        ACME,
        version=2,
        is_suspended=True,
        reason="unpaid",
        changed_at=NOW,
        plan=understood.Plan(
            queued_jobs_max=0,
            replicas_max=4,
            priority_max=10,
            running_max=Resources(8_000, 1 << 35, 1),
        ),
    )


@pytest.mark.parametrize("state", list(told.TenantState))
async def test_each_state_is_understood(state: told.TenantState) -> None:
    tenant = replace(told.Tenant.created(ACME, told.Plan(), at=NOW), state=state)
    table = await understood_of(tenant)
    assert table.get(ACME).is_suspended == (not tenant.is_active)
    assert (ACME in table.purged()) == tenant.is_purged
    assert table.get(ACME).plan == understood.Plan()


async def test_the_others_understand_a_purge_alone() -> None:
    purged, woken = PurgedTenants(), list[int]()
    apply = purges.ApplyPurges(purged, lambda: woken.append(1))
    assert purges.TOPIC == TOPIC
    active = told.Tenant.created(ACME, told.Plan(), at=NOW)
    states = [each for each in told.TenantState if each is not told.TenantState.PURGED]
    await read([replace(active, state=state) for state in states], apply)
    assert (purged.names(), woken) == ([], [])
    gone = replace(active, state=told.TenantState.PURGED)
    await read([gone, gone, active], apply)
    assert (purged.names(), woken) == ([ACME], [1])


async def test_an_older_entry_that_comes_again_changes_nothing() -> None:
    active = told.Tenant.created(ACME, told.Plan(), at=NOW)
    suspended = active.suspended(reason="unpaid", at=NOW)
    table = await understood_of(active, suspended, active)
    assert table.get(ACME).is_suspended
