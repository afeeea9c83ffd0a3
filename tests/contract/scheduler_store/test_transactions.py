"""What the simulation's database must have of PostgreSQL, or else it would prove nothing."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.chassis.db.errors import LeaseLost
from services.chassis.db.lease import HeldLease
from services.chassis.db.tables import OUTBOX_LEASE_PREFIX, SHARD_COUNT, shard_of
from services.chassis.errors import Conflict, KeyReused
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import Job, JobTransitioned
from services.scheduler.domain.jobs.spec import NO_LABELS
from services.scheduler.use_cases.ports import RequestKey, SystemTransaction
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NOW, TRACEPARENT, UMBRELLA, a_spec

TTL = timedelta(minutes=5)
JOB = JobId("job_1")
METHOD = "SubmitJob"


def a_job(number: int = 1) -> tuple[Job, JobTransitioned]:
    return Job.queued(JobId(f"job_{number}"), ACME, a_spec(), at=NOW, traceparent=TRACEPARENT)


async def add(store: Store, *numbers: int) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        for job, fact in (a_job(number) for number in numbers):
            await tx.jobs.add([job])
            tx.emit(fact)


async def change(tx: SystemTransaction, reason: str) -> int:
    """Change the job under its lock; return its version before."""
    job = await tx.jobs.get_any(JOB)
    await tx.jobs.save(replace(job, reason=reason, version=job.version + 1))
    return job.version


async def held(store: Store, name: str, *, holder: str = "proc_1") -> HeldLease:
    epoch = await store.leases.take(name, holder=holder, ttl=TTL)
    assert epoch is not None
    return HeldLease(name, holder, epoch)


def apart(tasks: asyncio.TaskGroup, act: Coroutine[Any, Any, None]) -> None:
    """Run something beside this task's transaction, and outside of it."""
    tasks.create_task(act, context=Context())


async def meanwhile(act: Coroutine[Any, Any, None]) -> None:
    """Run something to its end beside this task's transaction."""
    async with asyncio.TaskGroup() as tasks:
        apart(tasks, act)


async def some_round_trips(tx: SystemTransaction) -> None:
    """Give others the time to come to a lock, if they want one."""
    for _ in range(20):
        await tx.jobs.some([JOB])


async def test_what_is_not_committed_is_nobody_elses(store: Store) -> None:
    async def sees_nothing() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            assert await tx.jobs.some([JOB]) == []

    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([a_job()[0]])
        assert [job.id for job in await tx.jobs.some([JOB])] == [JOB]
        await meanwhile(sees_nothing())

    async with store.unit_of_work.system(because="test") as tx:
        assert [job.id for job in await tx.jobs.some([JOB])] == [JOB]


async def test_a_block_that_fails_leaves_no_row_no_event_and_no_answer(store: Store) -> None:
    job, fact = a_job()
    key = RequestKey("key", b"hash")
    with suppress(ZeroDivisionError):
        async with store.unit_of_work(ACME) as tx:
            assert await tx.answers.remember(METHOD, key, job.id) is None
            tx.emit(fact)
            raise ZeroDivisionError
    with suppress(ZeroDivisionError):
        async with store.unit_of_work.system(because="test") as tx:
            await tx.jobs.add([job])
            raise ZeroDivisionError

    async with store.unit_of_work.system(because="test") as tx:
        assert await tx.jobs.some([job.id]) == []
    async with store.unit_of_work(ACME) as tx:
        assert await tx.answers.remember(METHOD, key, job.id) is None
    shards = range(SHARD_COUNT)
    assert list(await store.outbox.unpublished(shards, stopped=[], rows_max=10)) == []


async def test_what_has_moved_on_since_it_was_read_is_not_overwritten(store: Store) -> None:
    await add(store, 1)

    async def move_on() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            await change(tx, "first")

    async def be_late() -> None:
        async with store.unit_of_work(ACME) as tx:
            job = await tx.jobs.get(JOB)
            await meanwhile(move_on())
            await tx.jobs.save(replace(job, reason="late", version=job.version + 1))

    with pytest.raises(Conflict):
        await be_late()

    async with store.unit_of_work(ACME) as tx:
        assert (await tx.jobs.get(JOB)).reason == "first"


async def test_who_waits_for_a_lock_sees_what_its_holder_has_committed(store: Store) -> None:
    await add(store, 1)
    seen: list[int] = []

    async def follow() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            seen.append(await change(tx, "second"))

    async with asyncio.TaskGroup() as tasks, store.unit_of_work.system(because="test") as tx:
        before = await change(tx, "first")
        apart(tasks, follow())
        await some_round_trips(tx)

    assert seen == [before + 1]


async def test_a_holder_that_is_one_no_more_can_begin_nothing(store: Store) -> None:
    former = await held(store, "scheduling")
    async with store.unit_of_work.system(because="test") as tx:
        await tx.hold(former)
    await store.leases.release(former)
    heir = await held(store, "scheduling", holder="proc_2")

    assert heir.epoch == former.epoch + 1
    with pytest.raises(LeaseLost):
        async with store.unit_of_work.system(because="test") as tx:
            await tx.hold(former)
    assert not await store.leases.renew(former, ttl=TTL)
    assert await store.leases.take("scheduling", holder="proc_1", ttl=TTL) is None


async def test_an_heir_waits_for_what_the_holder_has_begun_and_a_renewal_does_not(
    store: Store,
) -> None:
    await add(store, 1)
    lease = await held(store, "scheduling")
    seen: list[str] = []

    async def renew() -> None:
        assert await store.leases.renew(lease, ttl=TTL)

    async def take() -> None:
        await held(store, "scheduling", holder="proc_2")
        async with store.unit_of_work.system(because="test") as tx:
            seen.extend(job.reason for job in await tx.jobs.some([JOB]))

    async with asyncio.TaskGroup() as tasks, store.unit_of_work.system(because="test") as tx:
        await tx.hold(lease)
        await meanwhile(renew())
        await meanwhile(store.leases.release(lease))
        apart(tasks, take())
        await some_round_trips(tx)
        await change(tx, "begun in time")

    assert seen == ["begun in time"]


async def test_a_key_has_one_answer(store: Store) -> None:
    key = RequestKey("key", b"hash")
    async with store.unit_of_work(ACME) as tx:
        assert await tx.answers.remember(METHOD, key, "job_1") is None
    async with store.unit_of_work(ACME) as tx:
        assert await tx.answers.remember(METHOD, key, "job_2") == "job_1"
    with pytest.raises(KeyReused):
        async with store.unit_of_work(ACME) as tx:
            await tx.answers.remember(METHOD, RequestKey("key", b"another"), "job_2")
    async with store.unit_of_work(UMBRELLA) as tx:  # another tenant's key is another key
        assert await tx.answers.remember(METHOD, key, "job_3") is None


@pytest.mark.parametrize("is_first_kept", [True, False])
async def test_a_twin_waits_for_what_becomes_of_the_first(
    store: Store, *, is_first_kept: bool
) -> None:
    key = RequestKey("key", b"hash")
    told: list[str | None] = []

    async def twin() -> None:
        async with store.unit_of_work(ACME) as tx:
            told.append(await tx.answers.remember(METHOD, key, "job_2"))

    async with asyncio.TaskGroup() as tasks:
        with suppress(ZeroDivisionError):
            async with store.unit_of_work(ACME) as tx:
                await tx.answers.remember(METHOD, key, "job_1")
                apart(tasks, twin())
                for _ in range(20):  # round trips in which the twin comes to wait
                    await tx.jobs.newest(
                        before=None, states=(), labels=NO_LABELS, queue=None, limit=1
                    )
                if not is_first_kept:
                    raise ZeroDivisionError

    assert told == ["job_1" if is_first_kept else None]


async def test_a_line_is_counted_by_one_at_a_time(store: Store) -> None:
    counted: list[int] = []

    async def count_and_add(number: int) -> None:
        async with store.unit_of_work.system(because="test") as tx:
            counted.append((await tx.line.queued_counts([ACME])).get(ACME, 0))
            await some_round_trips(tx)
            await tx.jobs.add([a_job(number)[0]])

    async with asyncio.TaskGroup() as tasks:
        for number in (1, 2, 3):
            apart(tasks, count_and_add(number))

    assert counted == [0, 1, 2]


async def test_jobs_in_line_are_locked_in_one_order_whoever_asks(store: Store) -> None:
    await add(store, 1, 2, 3)
    found: list[list[str]] = []

    async def lock(job_ids: list[JobId]) -> None:
        async with store.unit_of_work.system(because="test") as tx:
            found.append([job.id for job in await tx.jobs.queued(job_ids)])
            await some_round_trips(tx)

    there = [JobId(f"job_{number}") for number in (1, 2, 3)]
    async with asyncio.TaskGroup() as tasks:  # in each other's order they would wait in a ring
        apart(tasks, lock(there))
        apart(tasks, lock(there[::-1]))

    assert found == [there, there]


async def test_events_are_read_by_their_numbers_and_marked_by_who_holds_their_shard(
    store: Store,
) -> None:
    await add(store, *range(1, 9))
    shards = range(SHARD_COUNT)
    rows = await store.outbox.unpublished(shards, stopped=["job_2"], rows_max=5)
    assert [row.aggregateid for row in rows] == [f"job_{number}" for number in (1, 3, 4, 5, 6)]

    leases = [await held(store, f"{OUTBOX_LEASE_PREFIX}{shard}") for shard in shards]
    lost = shard_of("job_1")
    await store.leases.release(leases[lost])
    await held(store, leases[lost].name, holder="proc_2")

    kept = [row.aggregateid for row in rows if shard_of(row.aggregateid) == lost]
    assert await store.outbox.mark(rows, leases) == len(rows) - len(kept)
    left = await store.outbox.unpublished(shards, stopped=[], rows_max=10)
    assert [row.aggregateid for row in left] == sorted({*kept, "job_2", "job_7", "job_8"})


async def test_an_event_that_becomes_visible_late_is_not_passed_over(store: Store) -> None:
    shards = range(SHARD_COUNT)
    read: list[str] = []

    async def overtake() -> None:
        await add(store, 2)
        rows = await store.outbox.unpublished(shards, stopped=[], rows_max=10)
        read.extend(row.aggregateid for row in rows)

    async with store.unit_of_work.system(because="test") as tx:
        tx.emit(a_job(1)[1])
        await meanwhile(overtake())
    assert read == ["job_2"]

    rows = await store.outbox.unpublished(shards, stopped=[], rows_max=10)
    assert {row.aggregateid for row in rows} == {"job_1", "job_2"}
