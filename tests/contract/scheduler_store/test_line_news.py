"""What a leader hears of the line, and what it keeps of tenants' usage."""

import asyncio
from contextvars import Context
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency, JobTimeouts
from services.scheduler.domain.queues.queue import Pause
from services.scheduler.domain.scheduling.line import Line, Totals, Waiting
from services.scheduler.domain.scheduling.place import Standing
from services.scheduler.domain.scheduling.shares import Average, Averages
from services.scheduler.use_cases.ports import (
    FIRST_JOBS_MAX,
    FIRST_SHAPES_MAX,
    FirstInLine,
    LineNews,
    SystemTransaction,
)
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


async def test_the_first_of_each_shape_are_seen_without_those_that_pause(store: Store) -> None:
    for number, priority in enumerate((0, 5, 0)):
        await in_line(store, number, priority=priority)
    other = await in_line(store, 9, tenant=UMBRELLA)
    async with store.unit_of_work.system(because="test") as tx:
        first = await tx.line.first(at=NOW, each_max=1)
        assert {head.id for head in first.heads} == {"job_1", "job_0", other}
        job = await admit(tx, JobId("job_1"))
        failure = JobFailure(FailureReason.LOST, "its node is lost")
        await tx.jobs.save(job.retried(failure, at=NOW, chance=0.0)[0])
    async with store.unit_of_work.reading(because="test") as reading:
        seen = [
            {head.id for head in (await reading.line.first(at=at, each_max=1)).heads}
            for at in (NOW, NOW + timedelta(hours=1))
        ]
        pausing = [
            await reading.line.pausing_count(tenant, at=at)
            for tenant in (ACME, UMBRELLA)
            for at in (NOW, NOW + timedelta(hours=1))
        ]
    assert seen == [{"job_0", other}, {"job_1", "job_0", other}]
    assert pausing == [1, 0, 0, 0]


async def test_how_many_stand_before_a_job_and_beside_it(store: Store) -> None:
    for number, (tenant, priority) in enumerate(
        ((ACME, 0), (ACME, 9), (UMBRELLA, 0), (UMBRELLA, 9), (ACME, 0), (UMBRELLA, 0), (ACME, 0))
    ):
        await in_line(store, number, tenant=tenant, priority=priority)
    async with store.unit_of_work.reading(because="test") as reading:
        standing = await reading.line.standing(JobId("job_4"))
        nobody = await reading.line.standing(JobId("job_none"))
    assert standing == Standing(above_count=2, own_count=1, others={UMBRELLA: 2}, alike_count=1)
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


async def add(store: Store, *jobs: Job) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add(jobs)


def some_job(number: int, *, cpu: int = 1, tenant: TenantId = ACME, **changes: Any) -> Job:
    spec = a_spec(resources=resources(cpu=cpu), **changes)
    return Job.queued(JobId(f"job_{number:04}"), tenant, spec, at=NOW, traceparent=None)[0]


async def first(store: Store, *, each_max: int) -> FirstInLine:
    async with store.unit_of_work.reading(because="test") as reading:
        return await reading.line.first(at=NOW, each_max=each_max)


async def standing(store: Store, job: Job) -> Standing:
    async with store.unit_of_work.reading(because="test") as reading:
        return await reading.line.standing(job.id)


async def test_whoever_is_behind_many_of_another_shape_is_seen(store: Store) -> None:
    many = [some_job(number) for number in range(60)]
    others = [some_job(60, cpu=2), some_job(61, timeouts=JobTimeouts(run=timedelta(minutes=1)))]
    await add(store, *many, *others)
    seen = await first(store, each_max=50)
    assert (seen.each_max, seen.is_whole) == (50, True)
    assert {head.id for head in seen.heads} == {job.id for job in [*many[:50], *others]}
    run_max = {head.id: head.run_max for head in seen.heads}
    assert [run_max[job.id] for job in others] == [timedelta(hours=24), timedelta(minutes=1)]


async def test_of_many_shapes_fewer_of_each_are_seen_and_not_all_of_the_shapes(
    store: Store,
) -> None:
    shapes = [some_job(cpu, cpu=cpu) for cpu in range(FIRST_SHAPES_MAX)]
    alike = [some_job(1_000 + number, priority=1) for number in range(20)]
    await add(store, *shapes, *alike)
    seen = await first(store, each_max=50)
    assert not seen.is_whole
    assert len({head.shape for head in seen.heads}) == FIRST_SHAPES_MAX
    assert seen.each_max == FIRST_JOBS_MAX // (FIRST_SHAPES_MAX + 1)
    assert sum(head.shape.priority == 1 for head in seen.heads) == seen.each_max


async def test_who_can_have_no_turn_stands_before_nobody(store: Store) -> None:
    before, paused, beside = some_job(1), some_job(2, queue="nightly"), some_job(4, tenant=UMBRELLA)
    needs = (JobDependency(before.id, DependencyCondition.END),)
    needy = replace(some_job(3, after=needs), needs=needs)
    last = some_job(5)
    await add(store, before, paused, needy, beside, last)
    expected = Standing(own_count=2, others={UMBRELLA: 1}, alike_count=1)
    assert await standing(store, last) == expected
    async with store.unit_of_work(ACME) as tx:
        await tx.queues.pause(Pause("nightly", NOW, "it is day"))
    assert await standing(store, last) == replace(expected, own_count=1)
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(needy.id)
        await tx.jobs.save(job.released((), by="all have ended", at=NOW))
    assert await standing(store, last) == replace(expected, own_count=2, alike_count=2)


async def test_places_are_the_same_whatever_a_leader_has_heard_of(store: Store) -> None:
    jobs = [some_job(number) for number in range(5)]
    await add(store, *jobs[:4])

    async def own_count() -> int:
        return (await standing(store, jobs[4])).own_count

    await news(store, limit=2)
    await add(store, jobs[4])
    assert await own_count() == 4
    await news(store)
    await cancel(store, jobs[0].id)
    assert await own_count() == 3
    async with store.unit_of_work.system(because="test") as tx:
        await admit(tx, jobs[1].id)
        await tx.line.forget_news(limit=100)
    assert await own_count() == 2
    assert {head.id for head in (await first(store, each_max=9)).heads} == {
        job.id for job in jobs[2:]
    }


async def test_news_that_is_told_again_counts_once(store: Store) -> None:
    jobs = [some_job(number) for number in range(2)]
    await add(store, *jobs)

    async def fail() -> None:
        async with store.unit_of_work.system(because="test") as tx:
            await tx.line.take_news(limit=9, with_totals=False)
            raise OnPurposeError

    with pytest.raises(OnPurposeError):
        await fail()
    assert (await standing(store, jobs[1])).own_count == 1
    await news(store)
    assert (await standing(store, jobs[1])).own_count == 1
