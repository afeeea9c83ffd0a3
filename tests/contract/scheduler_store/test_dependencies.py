"""Both stores keep what jobs wait for, and find those that may go on."""

from datetime import timedelta

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import JobId, NodeId
from services.scheduler.domain.jobs.dependencies import after_ends
from services.scheduler.domain.jobs.job import Job, JobState
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NOW, UMBRELLA, a_spec, resources

A, B, C = JobId("job_a"), JobId("job_b"), JobId("job_c")
SILENCE_MAX = timedelta(minutes=1)


def needed(*job_ids: str) -> tuple[JobDependency, ...]:
    return tuple(JobDependency(JobId(each), DependencyCondition.END) for each in job_ids)


async def add(
    store: Store, job_id: JobId, needs: tuple[JobDependency, ...] = (), tenant: TenantId = ACME
) -> Job:
    spec = a_spec(after=needs)
    job, _ = Job.queued(job_id, tenant, spec, at=NOW, traceparent=None, needs=needs)
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add([job])
    return job


async def cancel(store: Store, job_id: JobId) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        job, _ = (await tx.jobs.get_any(job_id)).cancelled(reason="enough", at=NOW)
        await tx.jobs.save(job)


async def releasable(store: Store, *, limit: int = 10) -> list[JobId]:
    async with store.unit_of_work.system(because="test") as tx:
        return list(await tx.jobs.releasable(limit=limit))


async def test_a_job_is_read_with_what_it_waits_for_in_its_order(store: Store) -> None:
    job = await add(store, C, needed("job_b", "job_a"))
    async with store.unit_of_work.system(because="test") as tx:
        assert await tx.jobs.get_any(C) == job
        assert await tx.jobs.some([C]) == [job]
    async with store.unit_of_work(ACME) as tx:
        assert await tx.jobs.get(C) == job
        assert await tx.jobs.newest(before=None, states=(), labels={}, queue=None, limit=9) == [job]


async def test_jobs_that_need_an_ended_one_or_one_that_is_gone_are_found_first_ids_first(
    store: Store,
) -> None:
    await add(store, A)
    for number in (3, 1, 2):
        await add(store, JobId(f"job_{number}"), needed("job_a"))
    assert await releasable(store) == []

    await add(store, C, needed("job_gone", "job_a"))
    assert await releasable(store) == [C]
    await cancel(store, A)
    assert await releasable(store) == ["job_1", "job_2", "job_3", C]
    assert await releasable(store, limit=2) == ["job_1", "job_2"]


async def test_another_tenants_job_lets_nobody_go_on_but_as_one_that_is_gone(store: Store) -> None:
    await add(store, A, tenant=UMBRELLA)
    await add(store, C, needed("job_a"))
    assert await releasable(store) == [C]
    async with store.unit_of_work.system(because="test") as tx:
        assert await tx.jobs.states(ACME, [A, C]) == {C: JobState.QUEUED}
    async with store.unit_of_work(UMBRELLA) as tx:
        assert await tx.jobs.states([A, C]) == {A: JobState.QUEUED}


async def test_what_has_ended_is_waited_for_no_more_and_the_rest_still(store: Store) -> None:
    for job_id in (A, B):
        await add(store, job_id)
    await add(store, C, needed("job_a", "job_b"))
    await cancel(store, A)
    async with store.unit_of_work.system(because="test") as tx:
        job, _ = after_ends(
            await tx.jobs.get_any(C), {A: JobState.CANCELLED, B: JobState.QUEUED}, at=NOW
        )
        await tx.jobs.save(job)

    async with store.unit_of_work(ACME) as tx:
        assert (await tx.jobs.get(C)).needs == needed("job_b")
    assert await releasable(store) == []
    await cancel(store, B)
    assert await releasable(store) == [C]
    await cancel(store, C)
    assert await releasable(store) == []


async def test_a_job_that_waits_for_others_is_no_head_of_the_line(store: Store) -> None:
    await add(store, A)
    await add(store, C, needed("job_a"))
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            NodeId("node-1"), resources(cpu=4, memory=8), runtime="", allows_mixed_tenants=True
        )
    async with store.unit_of_work.system(because="test") as tx:
        [first] = (await tx.line.first(at=tx.now, each_max=10)).heads
        [some] = [waiting async for waiting in tx.line.everybody() if waiting]
        news = await tx.line.take_news(limit=10, with_totals=True)
        told = {change.head_id for change in news.changes if change.waiting is not None}
        assert ({each.head.id for each in some}, told, first.id) == ({A}, {A}, A)
        assert news.totals is not None
        assert news.totals.count == 1
        assert await tx.line.queued_count(ACME) == 2  # it has its place, and counts
