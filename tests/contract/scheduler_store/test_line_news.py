"""What a leader hears of the line, and what it keeps of tenants' usage."""

import asyncio
from contextvars import Context
from datetime import timedelta

import pytest

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.scheduling.line import Line, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.shares import Average, Averages
from services.scheduler.use_cases.ports import LineNews, SystemTransaction
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, UMBRELLA, a_spec, resources


class OnPurposeError(Exception):
    """Ends a transaction."""


async def in_line(
    store: Store, number: int, *, tenant: TenantId = ACME, priority: int = 0
) -> JobId:
    job_id = JobId(f"job_{number}")
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([a_job(job_id, tenant=tenant, priority=priority)])
    return job_id


def a_job(job_id: JobId, *, tenant: TenantId = ACME, priority: int = 0) -> Job:
    spec = a_spec(resources=resources(), priority=priority)
    job, _ = Job.queued(job_id, tenant, spec, at=NOW, traceparent=None)
    return job


async def news(store: Store, *, limit: int = 100, with_totals: bool = False) -> LineNews:
    async with store.unit_of_work.system(because="test") as tx:
        return await tx.line.take_news(limit=limit, with_totals=with_totals)


def told(found: LineNews) -> dict[str, bool]:
    """Return who is told of, and whether it stands in line."""
    return {each.head_id: each.waiting is not None for each in found.changes}


async def cancel(store: Store, job_id: JobId) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        moved = (await tx.jobs.get_any(job_id)).asked_to_stop(reason="", at=tx.now)
        assert moved is not None
        await tx.jobs.save(moved[0])


async def admit(tx: SystemTransaction, job_id: JobId) -> Job:
    [job] = await tx.jobs.queued([job_id])
    job, _ = job.admitted(AttemptId(f"att_{job_id}"), NODE, at=tx.now)
    await tx.jobs.admit([job])
    return job


async def test_who_comes_and_goes_is_told_once(store: Store) -> None:
    job_id = await in_line(store, 1, priority=7)
    found = await news(store)
    [change] = found.changes
    assert change.waiting is not None
    head = change.waiting.head
    assert (head.id, head.tenant, head.shape.priority) == (job_id, ACME, 7)
    assert (head.resources, head.run_max) == (resources(), timedelta(hours=24))
    assert not found.is_cut
    assert told(await news(store)) == {}
    await cancel(store, job_id)
    assert told(await news(store)) == {job_id: False}


async def test_who_is_admitted_leaves_the_line_and_comes_back_with_its_pause(store: Store) -> None:
    job_id = await in_line(store, 1)
    await news(store)
    async with store.unit_of_work.system(because="test") as tx:
        await admit(tx, job_id)
    assert told(await news(store)) == {job_id: False}
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(job_id)
        failure = JobFailure(FailureReason.LOST, "its node is lost")
        retried, _ = job.retried(failure, at=tx.now, chance=0.0)
        await tx.jobs.save(retried)
    [change] = (await news(store)).changes
    assert change.waiting is not None
    assert change.waiting.not_before == retried.retry_at


async def test_what_was_admitted_is_stored_as_by_one_save_each(store: Store) -> None:
    job_ids = [await in_line(store, number) for number in range(3)]
    async with store.unit_of_work.system(because="test") as tx:
        jobs = [
            job.admitted(AttemptId(f"att_{job.id}"), NODE, at=NOW)[0]
            for job in await tx.jobs.queued(job_ids[:2])
        ]
        await tx.jobs.admit(jobs)
    async with store.unit_of_work.system(because="test") as tx:
        found = {job.id: job for job in await tx.jobs.some(job_ids)}
    assert [found[job.id] for job in jobs] == jobs
    assert found[job_ids[2]] == a_job(job_ids[2])


async def test_news_of_a_transaction_that_fails_is_told_again(store: Store) -> None:
    job_id = await in_line(store, 1)

    async def fail() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            found = await tx.line.take_news(limit=9, with_totals=False)
            assert told(found) == {job_id: True}
            raise OnPurposeError

    with pytest.raises(OnPurposeError):
        await fail()
    assert told(await news(store)) == {job_id: True}


async def test_who_began_early_and_commits_late_is_told_after_its_commit(store: Store) -> None:
    has_added, may_commit = asyncio.Event(), asyncio.Event()

    async def slow() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            await tx.jobs.add([a_job(JobId("job_slow"))])
            has_added.set()
            await may_commit.wait()

    task = asyncio.get_running_loop().create_task(slow(), context=Context())
    await has_added.wait()
    quick = await in_line(store, 2)
    assert told(await news(store)) == {quick: True}
    may_commit.set()
    await task
    assert told(await news(store)) == {"job_slow": True}


async def test_news_is_forgotten_in_parts(store: Store) -> None:
    for number in range(3):
        await in_line(store, number)
    there_is_more = []
    for _ in range(2):
        async with store.unit_of_work.system(because="test") as tx:
            there_is_more.append(await tx.line.forget_news(limit=2))
    assert there_is_more == [True, False]
    assert told(await news(store)) == {}


async def test_more_news_than_is_asked_for_says_so_and_is_told_next(store: Store) -> None:
    job_ids = {await in_line(store, number) for number in range(3)}
    first = await news(store, limit=2)
    second = await news(store, limit=2)
    assert (first.is_cut, second.is_cut) == (True, False)
    assert told(first) | told(second) == dict.fromkeys(job_ids, True)


async def test_a_line_that_was_read_whole_and_then_told_of_changes_has_the_tables_totals(
    store: Store,
) -> None:
    job_ids = [
        await in_line(store, number, tenant=tenant)
        for number, tenant in enumerate((ACME, UMBRELLA, ACME))
    ]
    line = Line()
    async with store.unit_of_work.system(because="test") as tx:
        async for some in tx.line.everybody():
            for waiting in some:
                line.put(waiting)
    await cancel(store, job_ids[1])
    await in_line(store, 4)
    found = await news(store, with_totals=True)
    for change in found.changes:
        line.change(change)
    assert found.totals == line.totals
    assert line.totals.count == 3


async def test_totals_of_nobody_are_nothing(store: Store) -> None:
    assert (await news(store, with_totals=True)).totals == Totals()
    assert (await news(store)).totals is None


async def test_each_tenants_first_are_seen_without_those_that_pause(store: Store) -> None:
    for number, priority in enumerate((0, 5, 0)):
        await in_line(store, number, priority=priority)
    other = await in_line(store, 9, tenant=UMBRELLA)
    async with store.unit_of_work.system(because="test") as tx:
        first = await tx.line.first(at=NOW, limit=2)
        assert {head.id for head in first} == {"job_1", "job_0", other}
        job = await admit(tx, JobId("job_1"))
        failure = JobFailure(FailureReason.LOST, "its node is lost")
        await tx.jobs.save(job.retried(failure, at=NOW, chance=0.0)[0])
    async with store.unit_of_work.reading(because="test") as reading:
        seen = [
            {head.id for head in await reading.line.first(at=at, limit=2)}
            for at in (NOW, NOW + timedelta(hours=1))
        ]
    assert seen == [{"job_0", "job_2", other}, {"job_1", "job_0", other}]


async def test_how_many_stand_before_a_job_and_beside_it(store: Store) -> None:
    for number, (tenant, priority) in enumerate(
        ((ACME, 0), (ACME, 9), (UMBRELLA, 0), (UMBRELLA, 9), (ACME, 0), (UMBRELLA, 0), (ACME, 0))
    ):
        await in_line(store, number, tenant=tenant, priority=priority)
    async with store.unit_of_work.reading(because="test") as reading:
        standing = await reading.line.standing(JobId("job_4"))
        nobody = await reading.line.standing(JobId("job_none"))
    assert standing == Standing(above_count=2, own_count=1, others={UMBRELLA: 2})
    assert nobody == Standing()


async def test_what_tenants_held_is_kept_instead_of_what_was_kept(store: Store) -> None:
    first = Averages({ACME: Average(1.5, 2.5, 0.5), UMBRELLA: Average(3.0)}, at=NOW)
    second = Averages({ACME: Average(memory_bytes=2.0**41)}, at=NOW + timedelta(seconds=1))
    async with store.unit_of_work.system(because="test") as tx:
        assert await tx.usage.averages() == Averages()
        await tx.usage.keep(first)
    async with store.unit_of_work.reading(because="test") as reading:
        assert await reading.usage.averages() == first
    async with store.unit_of_work.system(because="test") as tx:
        await tx.usage.keep(second)
        assert await tx.usage.averages() == second


async def test_a_line_tells_who_waits_as_it_stands(store: Store) -> None:
    job_id = await in_line(store, 1)
    async with store.unit_of_work.system(because="test") as tx:
        [some] = [waiting async for waiting in tx.line.everybody() if waiting]
        [change] = (await tx.line.take_news(limit=9, with_totals=False)).changes
    assert some == [change.waiting]
    assert isinstance(change.waiting, Waiting)
    assert change.waiting.head.id == job_id
