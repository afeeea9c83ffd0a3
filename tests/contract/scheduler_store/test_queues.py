"""Queues by name, told by their jobs and their pauses, each tenant's apart."""

import asyncio
from dataclasses import replace
from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import Attempt, Owner, OwnerKind
from services.scheduler.domain.fleet.node import HeldWork
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.queues.queue import Pause, Queue
from tests.contract.scheduler_store.conftest import Store
from tests.contract.scheduler_store.test_transactions import apart
from tests.unit.scheduler.builders import ACME, ENDING, NODE, NOW, UMBRELLA, a_spec, resources

NIGHTLY = Pause("nightly", NOW, "it is day")
AT_ALL_TIMES = timedelta(days=365)


async def add(store: Store, number: int, *, queue: str, tenant: TenantId = ACME) -> JobId:
    spec = a_spec(queue=queue, resources=resources())
    job, _ = Job.queued(JobId(f"job_{number}"), tenant, spec, at=NOW, traceparent=None)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([job])
    return job.id


async def place(store: Store, job_id: JobId) -> None:
    """Do what a cycle does."""
    attempt_id = AttemptId(f"att_of_{job_id}")
    owner = Owner(OwnerKind.JOB, job_id, public_id=job_id)
    async with store.unit_of_work.system(because="test") as tx:
        job, _ = (await tx.jobs.get_any(job_id)).admitted(attempt_id, NODE, at=NOW)
        await tx.jobs.save(job)
        node = await tx.nodes.get(NODE)
        await tx.nodes.save(node.booked(resources(), by=HeldWork(job.tenant, OwnerKind.JOB)))
        attempt, _ = Attempt.created(
            attempt_id,
            job.tenant,
            owner,
            number=1,
            node_id=NODE,
            resources=resources(),
            at=NOW,
            traceparent=None,
        )
        await tx.attempts.add([attempt])


async def end(store: Store, job_id: JobId) -> None:
    """Do what a caller and a runner do."""
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(job_id)
        if job.attempt_id is not None:
            attempt, _ = (await tx.attempts.get(job.attempt_id)).closed(ENDING, at=NOW)
            await tx.attempts.save(attempt)
        ended = replace(job, state=JobState.CANCELLED, version=job.version + 1)
        await tx.jobs.save(ended)


async def a_node(store: Store) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            NODE, resources(cpu=4, memory=8), runtime="process", allows_mixed_tenants=True
        )


async def pause(store: Store, pause: Pause = NIGHTLY, *, tenant: TenantId = ACME) -> None:
    async with store.unit_of_work(tenant) as tx:
        await tx.queues.pause(pause)


async def resume(store: Store, name: str, *, tenant: TenantId = ACME) -> None:
    async with store.unit_of_work(tenant) as tx:
        await tx.queues.resume(name)


async def queues(store: Store, *, tenant: TenantId = ACME, after: str | None = None) -> list[Queue]:
    async with store.unit_of_work(tenant) as tx:
        found = list(await tx.queues.page(after=after, limit=2))
        assert [await tx.queues.get(queue.name) for queue in found] == found
        return found


async def paused(store: Store) -> set[tuple[TenantId, str]]:
    async with store.unit_of_work.reading(because="test") as reading:
        return set(await reading.line.paused())


async def heads(store: Store) -> set[str]:
    """Return whose turn may come."""
    async with store.unit_of_work.reading(because="test") as reading:
        seen = await reading.line.first(at=NOW, each_max=9)
    return {head.id for head in seen.heads}


async def test_a_queue_is_there_while_a_job_of_it_has_not_ended(store: Store) -> None:
    await a_node(store)
    assert await queues(store) == []

    waits, runs = await add(store, 1, queue="nightly"), await add(store, 2, queue="nightly")
    await add(store, 3, queue="nightly", tenant=UMBRELLA)
    await place(store, runs)
    assert await queues(store) == [Queue("nightly", None, queued_count=1, running_count=1)]

    await end(store, waits)
    assert await queues(store) == [Queue("nightly", None, queued_count=0, running_count=1)]
    await end(store, runs)
    assert await queues(store) == []


async def test_a_queue_is_there_while_it_is_paused(store: Store) -> None:
    await pause(store)
    assert await queues(store) == [Queue("nightly", NIGHTLY)]
    async with store.unit_of_work(ACME) as tx:
        assert await tx.queues.pauses() == {"nightly": NIGHTLY}

    await resume(store, "nightly")
    await resume(store, "nightly")  # again: no change
    assert await queues(store) == []
    async with store.unit_of_work(ACME) as tx:
        assert await tx.queues.get("nightly") == Queue("nightly")


async def test_queues_are_shown_by_name_a_page_at_a_time(store: Store) -> None:
    for number, name in enumerate(("c", "a", "c"), 1):
        await add(store, number, queue=name)
    await pause(store, replace(NIGHTLY, queue="b"))
    assert [queue.name for queue in await queues(store)] == ["a", "b"]
    assert [queue.name for queue in await queues(store, after="b")] == ["c"]


async def test_a_paused_queue_has_no_heads_and_its_namesake_of_another_tenant_has(
    store: Store,
) -> None:
    await a_node(store)
    ours, theirs = [
        await add(store, number, queue="nightly", tenant=tenant)
        for number, tenant in enumerate((ACME, UMBRELLA), 1)
    ]
    other = await add(store, 3, queue="weekly")
    assert await heads(store) == {ours, theirs, other}

    await pause(store)
    assert await paused(store) == {(ACME, "nightly")}
    assert await heads(store) == {theirs, other}
    assert await queues(store, tenant=UMBRELLA) == [Queue("nightly", None, queued_count=1)]

    await resume(store, "nightly", tenant=UMBRELLA)  # theirs is not ours
    assert await heads(store) == {theirs, other}
    await resume(store, "nightly")
    assert await heads(store) == {ours, theirs, other}


async def test_pauses_are_counted_by_one_at_a_time(store: Store) -> None:
    counted: list[int] = []

    async def count_and_pause(name: str) -> None:
        async with store.unit_of_work(ACME) as tx:
            counted.append(len(await tx.queues.pauses_for_update()))
            for _ in range(20):  # round trips in which the others come to wait
                await tx.queues.pauses()
            await tx.queues.pause(replace(NIGHTLY, queue=name))

    async with asyncio.TaskGroup() as tasks:
        for name in ("a", "b", "c"):
            apart(tasks, count_and_pause(name))

    assert counted == [0, 1, 2]
