"""A purged tenant on a real database: nothing of it is left, and others keep all."""

import asyncio
from collections.abc import Collection
from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.chassis.errors import Conflict, TenantSuspended
from services.chassis.purges import PurgesLoop
from services.chassis.tenancy import TenantId
from services.chassis.waking import Waking
from services.scheduler.adapters.postgres.tables import (
    CHASSIS,
    LINE_CHANGES,
    LINE_COUNTS,
    METADATA,
)
from services.scheduler.domain.deployments.deployment import DeploymentState
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.entrypoints.loops.leading import WhileLeading
from services.scheduler.use_cases.deployments.delete_deployment import DeleteDeployment
from services.scheduler.use_cases.deployments.shown import ShownDeployment
from services.scheduler.use_cases.ports import RequestKey
from tests.integration.scheduler.yard import ROUTES_SETTLE, Yard, cores
from tests.unit.scheduler.builders import ACME, TRACEPARENT, UMBRELLA, a_spec

OF_THE_LINE = (LINE_CHANGES, LINE_COUNTS)
"""What the next cycle takes, and what that makes of it."""


async def rows_of(
    yard: Yard,
    tenant: TenantId,
    *,
    but_for: Collection[sa.Table] = (CHASSIS.outbox, *OF_THE_LINE),
) -> dict[str, int]:
    """Count a tenant's rows in every table that has tenants, but for what is to leave."""
    counts = {}
    async with yard.engine.connect() as connection:
        for table in METADATA.sorted_tables:
            if "tenant" in table.c and table not in but_for:
                query = sa.select(sa.func.count()).where(table.c.tenant == tenant)
                counts[table.name] = await connection.scalar(query) or 0
    return {name: count for name, count in counts.items() if count}


async def purged(yard: Yard) -> int:
    """Run passes until one finds nothing to do; return how many found something."""
    lease = await yard.lease()
    for count in range(20):
        if not await yard.purge_tenants(lease):
            return count
    raise AssertionError("a purge comes to an end")


async def an_ended_job(yard: Yard, tenant: TenantId) -> None:
    """Submit a job with an idempotency key, run it and let it end."""
    job = await yard.submit_job(
        tenant, a_spec(), key=RequestKey("key-1", b"hash"), traceparent=TRACEPARENT
    )
    await yard.cycle()
    placed = await yard.job(job.id, tenant=tenant)
    assert placed.attempt_id is not None
    async with yard.store(tenant) as tx:
        found = await tx.jobs.get_for_update(job.id)
        stopping = found.asked_to_stop(reason="enough", at=tx.now)
        assert stopping is not None
        await tx.jobs.save(stopping[0])
        tx.emit(stopping[1])
        ended, fact = stopping[0].cancelled(reason="enough", at=tx.now)
        await tx.jobs.save(ended)
        tx.emit(fact)
    await yard.end(placed.attempt_id)


async def test_jobs_attempts_pauses_and_answers_of_a_purged_tenant_go_and_nobody_elses(
    yard: Yard,
) -> None:
    await yard.a_node()
    for tenant in (ACME, UMBRELLA):
        await an_ended_job(yard, tenant)
    for tenant in (ACME, UMBRELLA):
        await yard.pause_queue(tenant, "nightly", reason="it is day", by="key:1")
        for _ in range(3):
            await yard.a_job(tenant=tenant, resources=cores(4))
    theirs = await rows_of(yard, UMBRELLA)
    assert theirs == {"job": 4, "attempt": 1, "queue": 1, "idempotency": 1}
    assert await rows_of(yard, ACME) == theirs
    assert await purged(yard) == 0

    yard.tenant(ACME, is_purged=True)
    assert await purged(yard) > 1  # two owners a pass: it takes several
    assert await rows_of(yard, ACME) == {}
    assert await rows_of(yard, UMBRELLA) == theirs


async def test_what_runs_stays_until_it_has_ended(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    yard.tenant(ACME, is_purged=True)
    await yard.stop_suspended_jobs(await yard.lease())
    assert await purged(yard) == 0
    stopping = await yard.job(job.id)
    assert stopping.state is JobState.STOPPING
    assert stopping.attempt_id is not None

    async with yard.store.system(because="test") as tx:
        back, fact = (await tx.jobs.get_any(job.id)).requeued(reason="suspended", at=tx.now)
        await tx.jobs.save(back)
        tx.emit(fact)
    assert await purged(yard) == 0  # its attempt is open still
    await yard.end(stopping.attempt_id)
    assert await purged(yard) == 1
    assert await rows_of(yard, ACME) == {}
    assert await yard.cycle() == []


async def test_deployments_leave_the_routing_table_and_go_when_their_replicas_have_ended(
    yard: Yard,
) -> None:
    await yard.a_node()
    made = await yard.a_deployment(replica_count=2, resources=cores(1))
    await yard.cycle()
    for number, replica in enumerate(made.replicas):
        await yard.ready(replica.id, f"127.0.0.1:900{number}")
    yard.tenant(ACME, is_purged=True)
    assert await purged(yard) == 1  # asked to end
    assert (await yard.routes(made.deployment.id))[-1].deleted
    yard.clock.seconds += ROUTES_SETTLE.total_seconds()
    await yard.reconciled()
    for replica in made.replicas:
        await yard.replica_ended(replica.id)
    await yard.reconciled()
    assert await purged(yard) == 1
    assert await rows_of(yard, ACME) == {}
    assert (await yard.event_types(made.deployment.id))[-1] == "deployment.deleted"


async def test_deployments_that_can_not_be_ended_hold_up_no_others(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [(await yard.a_deployment(name=f"d-{number}")).deployment.id for number in range(4)]
    yard.tenant(ACME, is_purged=True)
    asked: list[str] = []
    delete = DeleteDeployment.__call__

    async def delete_all_but_two(
        use_case: DeleteDeployment, tenant: TenantId, deployment_id: str
    ) -> ShownDeployment:
        asked.append(deployment_id)
        if deployment_id in asked[:2]:
            raise Conflict("deployment", deployment_id)
        return await delete(use_case, tenant, deployment_id)

    lease = await yard.lease()
    with monkeypatch.context() as patch:
        patch.setattr(DeleteDeployment, "__call__", delete_all_but_two)
        counts = [await yard.purge_tenants(lease) for _ in range(4)]  # two a pass
        assert counts == [0, 2, 0, 0]
        assert set(asked) == set(made)
        assert asked[-2:] == asked[:2]  # round again
    for _ in range(2):
        await yard.purge_tenants(lease)
    async with yard.store.system(because="a test looks") as tx:
        states = {(await tx.deployments.get(each)).state for each in made}
    assert states == {DeploymentState.DELETING}


async def test_a_job_that_came_late_goes_with_the_next_pass_and_the_next_is_refused(
    yard: Yard,
) -> None:
    await yard.a_job()  # stored by a scheduler that had not heard
    yard.tenant(ACME, is_purged=True)
    assert await purged(yard) == 1
    with pytest.raises(TenantSuspended):
        await yard.a_job()
    with pytest.raises(TenantSuspended):
        await yard.a_deployment()
    assert await rows_of(yard, ACME) == {}


async def test_a_job_is_admitted_or_deleted_and_never_both(yard: Yard) -> None:
    """The cycle's picture is older than the purge's."""
    await yard.a_node()
    job = await yard.a_job()
    lease = await yard.lease()
    is_held, is_passed = asyncio.Event(), asyncio.Event()

    async def admit() -> None:
        async with yard.store.system(because="test") as tx:
            assert [each.id for each in await tx.jobs.queued([job.id])] == [job.id]
            is_held.set()
            await is_passed.wait()

    async def purge() -> None:
        await is_held.wait()
        yard.tenant(ACME, is_purged=True)
        assert await yard.purge_tenants(lease) == 0  # passed over, while somebody holds it
        is_passed.set()

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(admit())
        tasks.create_task(purge())
    assert await purged(yard) == 1


async def test_a_pass_that_was_cut_off_is_done_again(yard: Yard) -> None:
    for _ in range(3):
        await yard.a_job()
    yard.tenant(ACME, is_purged=True)
    lease = await yard.lease()
    assert await yard.purge_tenants(lease) == 2
    assert await rows_of(yard, ACME) == {"job": 1}
    # A new process has read the topic from its beginning.
    again = Yard(yard.engine)
    again.tenant(ACME, is_purged=True)
    assert await purged(again) == 1
    assert await rows_of(yard, ACME) == {}


async def test_a_purged_tenants_place_in_line_goes_with_the_next_cycle(yard: Yard) -> None:
    for tenant in (ACME, UMBRELLA):
        await yard.a_job(tenant=tenant)
    await yard.cycle()
    yard.tenant(ACME, is_purged=True)
    await purged(yard)
    await yard.cycle()
    assert await rows_of(yard, ACME, but_for=[CHASSIS.outbox]) == {}
    left = await rows_of(yard, UMBRELLA, but_for=[CHASSIS.outbox])
    assert left == {"job": 1, "line_count": 1}


async def test_only_the_leader_purges(yard: Yard) -> None:
    await yard.a_job()
    await yard.lease()
    yard.tenant(ACME, is_purged=True)
    keeper = yard.lease_keeper("proc_2")
    purge = WhileLeading(yard.purge_tenants, keeper)
    loop = PurgesLoop(purge, Waking(timedelta(hours=1)), what="rows")
    assert not await loop.turn()
    assert await rows_of(yard, ACME) == {"job": 1}
