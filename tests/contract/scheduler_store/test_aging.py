"""Both stores add to the priorities of those that have waited for long, and of nobody else."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import PRIORITY_MAX, DependencyCondition, JobDependency
from services.scheduler.domain.queues.queue import Pause
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, UMBRELLA, a_spec, resources

AFTER = timedelta(hours=1)
LONG = timedelta(hours=2)


async def in_line(store: Store, name: str, *, waited: timedelta, **spec: Any) -> JobId:
    """Queue a job that came in line so long ago."""
    async with store.unit_of_work.system(because="test") as tx:
        since = tx.now - waited
        job, _ = Job.queued(
            JobId(f"job_{name}"),
            ACME,
            a_spec(resources=resources(), **spec),
            at=since,
            traceparent=None,
        )
        await tx.jobs.add([job])
    return job.id


async def age(store: Store, *, but_for: Sequence[TenantId] = (), limit: int = 10) -> int:
    async with store.unit_of_work.system(because="test") as tx:
        return await tx.line.age(after=AFTER, but_for=but_for, limit=limit)


async def priorities(store: Store) -> dict[str, int]:
    """Return with which priorities all stand in line."""
    found: dict[str, int] = {}
    async with store.unit_of_work.system(because="test") as tx:
        async for some in tx.line.everybody():
            found |= {each.head.id: each.head.shape.priority for each in some}
    return found


async def test_who_has_waited_for_long_has_the_next_larger_priority_once(store: Store) -> None:
    old = await in_line(store, "old", waited=LONG, priority=3)
    new = await in_line(store, "new", waited=timedelta(minutes=1))
    assert await age(store) == 1
    assert await age(store) == 0
    assert await priorities(store) == {old: 4, new: 0}
    async with store.unit_of_work(ACME) as tx:
        job = await tx.jobs.get(old)
        assert (job.priority, job.aged_by, job.spec.priority) == (4, 1, 3)
    async with store.unit_of_work.system(because="test") as tx:
        changes = (await tx.line.take_news(limit=9, with_totals=False)).changes
    assert {each.head_id: each.waiting.head.shape.priority for each in changes if each.waiting} == {
        old: 4,
        new: 0,
    }


async def test_those_that_came_first_are_aged_first_and_none_beyond_the_largest(
    store: Store,
) -> None:
    await in_line(store, "top", waited=LONG, priority=PRIORITY_MAX)
    first = await in_line(store, "first", waited=LONG)
    second = await in_line(store, "second", waited=LONG)
    assert await age(store, limit=1) == 1
    assert (await priorities(store))[first] == 1
    assert await age(store) == 1
    assert await priorities(store) == {"job_top": PRIORITY_MAX, first: 1, second: 1}


async def test_who_can_have_no_turn_does_not_age(store: Store) -> None:
    await in_line(store, "suspended", waited=LONG)
    assert await age(store, but_for=[UMBRELLA, ACME]) == 0
    async with store.unit_of_work.system(because="test") as tx:
        job, _ = (await tx.jobs.get_any(JobId("job_suspended"))).cancelled(reason="", at=tx.now)
        await tx.jobs.save(job)
    await in_line(store, "paused", waited=LONG, queue="nightly")
    needed = await in_line(store, "needed", waited=timedelta(0))
    needs = (JobDependency(needed, DependencyCondition.END),)
    waiting, _ = Job.queued(
        JobId("job_waiting"), ACME, a_spec(after=needs), at=NOW, traceparent=None, needs=needs
    )
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([waiting])
    async with store.unit_of_work(ACME) as tx:
        await tx.queues.pause(Pause("nightly", tx.now, "night"))
    assert await age(store) == 0


async def test_what_was_added_stays_and_the_time_counts_anew_once_it_comes_back(
    store: Store,
) -> None:
    job_id = await in_line(store, "old", waited=LONG)
    await age(store)
    async with store.unit_of_work.system(because="test") as tx:
        [job] = await tx.jobs.queued([job_id])
        admitted, _ = job.admitted(AttemptId("att_1"), NODE, at=tx.now)
        await tx.jobs.admit([admitted])
    assert await age(store) == 0
    async with store.unit_of_work.system(because="test") as tx:
        back, _ = (await tx.jobs.get_any(job_id)).requeued(reason="drained", at=tx.now)
        await tx.jobs.save(back)
    assert await age(store) == 0
    assert await priorities(store) == {job_id: 1}


async def test_elements_have_what_waiting_has_added_to_their_array(store: Store) -> None:
    array_id = await in_line(store, "array", waited=LONG, array_size=3)
    await age(store)
    async with store.unit_of_work.system(because="test") as tx:
        [array] = await tx.jobs.queued([array_id])
        array, _, element, _ = array.split(JobId("job_element"), at=tx.now)
        await tx.jobs.add_elements([element])
        await tx.jobs.save(array)
    assert await priorities(store) == {array_id: 1, "job_element": 1}
