"""Both stores keep arrays as one row in line, and what was split off them as jobs of their own."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from services.chassis.tenancy import TenantId
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import ArrayElement, Job, JobState
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE
from services.scheduler.domain.scheduling.line import Line, Totals
from services.scheduler.domain.scheduling.place import Standing
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, NODE, NOW, UMBRELLA, a_spec, resources

ARRAY = JobId("job_array")
LOST = JobFailure(FailureReason.LOST, "gone")
S = JobState


def an_array(job_id: JobId = ARRAY, *, size: int = 3, **spec: Any) -> Job:
    spec = {"resources": resources(), "array_size": size, **spec}
    return Job.queued(job_id, ACME, a_spec(**spec), at=NOW, traceparent=None)[0]


async def add(store: Store, *jobs: Job) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        await tx.jobs.add(jobs)


async def split(store: Store, count: int, *, array_id: JobId = ARRAY) -> list[Job]:
    """Admit so many elements of an array, in one transaction."""
    async with store.unit_of_work.system(because="test") as tx:
        [array] = await tx.jobs.queued([array_id])
        elements = []
        for _ in range(count):
            element_id = JobId(f"{array_id}_{array.array_index}")
            array, _, element, _ = array.split(element_id, at=tx.now)
            admitted, _ = element.admitted(AttemptId(f"att_{element.id}"), NODE, at=tx.now)
            elements.append(admitted)
        await tx.jobs.add_elements(elements)
        await tx.jobs.save(array)
    return elements


async def ends(store: Store, job_id: JobId, *, state: JobState = S.FAILED) -> None:
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(job_id)
        if state is S.QUEUED:
            ended, _ = job.requeued(reason="drained", at=NOW)
        else:
            ended, _ = job.failed(LOST, at=NOW)
        await tx.jobs.save(ended)


async def whole_line(store: Store) -> Line:
    """Return the line as who begins to lead reads it."""
    line = Line()
    async with store.unit_of_work.system(because="test") as tx:
        async for some in tx.line.everybody():
            for waiting in some:
                line.put(waiting)
    return line


async def heads(store: Store) -> list[tuple[str, int, int]]:
    """Return who stands first in line, from which index on, and for how many."""
    async with store.unit_of_work.reading(because="test") as reading:
        first = await reading.line.first(at=NOW + timedelta(days=1), each_max=9)
    in_turn = sorted(first.heads, key=lambda head: (head.queue_seq, head.array_index))
    return [(head.id, head.array_index, head.count) for head in in_turn]


async def standing(store: Store, job_id: JobId) -> Standing:
    async with store.unit_of_work.reading(because="test") as reading:
        return await reading.line.standing(job_id)


async def test_an_array_is_read_as_it_was_stored_and_so_are_its_elements(store: Store) -> None:
    array = an_array()
    await add(store, array)
    elements = await split(store, 2)
    async with store.unit_of_work(ACME) as tx:
        rest = await tx.jobs.get(ARRAY)
        assert (rest.rest_count, rest.array_index, rest.is_array) == (1, 2, True)
        for index, element in enumerate(elements):
            found = await tx.jobs.get(element.id)
            assert found == element
            assert found.element == ArrayElement(ARRAY, index)


async def test_an_array_is_one_in_line_that_counts_for_all_its_elements(store: Store) -> None:
    await add(store, an_array(), an_array(JobId("job_other"), size=5))
    line = await whole_line(store)
    assert (line.totals.count, line.length) == (8, 2)

    await split(store, 2)
    async with store.unit_of_work.system(because="test") as tx:
        news = await tx.line.take_news(limit=100, with_totals=True)
        assert (await tx.line.queued_count(ACME)) == 2
    for change in news.changes:
        line.change(change)
    assert news.totals == line.totals
    assert line.totals.count == 6
    assert await heads(store) == [(ARRAY, 2, 1), ("job_other", 0, 5)]

    await split(store, 1)
    assert await heads(store) == [("job_other", 0, 5)]


async def test_an_element_that_comes_back_is_at_its_arrays_place_before_the_rest(
    store: Store,
) -> None:
    await add(store, an_array(size=4), an_array(JobId("job_other"), size=2))
    _, second = await split(store, 2)
    await ends(store, second.id, state=S.QUEUED)
    assert await heads(store) == [(second.id, 1, 1), (ARRAY, 2, 2), ("job_other", 0, 2)]

    assert await standing(store, second.id) == Standing(alike_count=0)
    assert await standing(store, ARRAY) == Standing(own_count=1, alike_count=1)
    assert await standing(store, JobId("job_other")) == Standing(own_count=3, alike_count=3)
    # And the same once a leader has taken the notes of it.
    async with store.unit_of_work.system(because="test") as tx:
        await tx.line.take_news(limit=100, with_totals=False)
    assert await standing(store, JobId("job_other")) == Standing(own_count=3, alike_count=3)


async def test_an_index_of_an_array_is_one_job(store: Store) -> None:
    await add(store, an_array())
    [element] = await split(store, 1)
    twin = replace(element, id=JobId("job_twin"))
    with pytest.raises((IntegrityError, AssertionError)):
        async with store.unit_of_work.system(because="test") as tx:
            await tx.jobs.add_elements([twin])


async def test_elements_are_counted_by_state_and_for_their_tenant(store: Store) -> None:
    await add(store, an_array())
    first, second = await split(store, 2)
    await ends(store, first.id)
    counts = {S.FAILED: 1, S.ADMITTED: 1}
    async with store.unit_of_work.system(because="test") as tx:
        assert await tx.jobs.element_counts(ACME, [ARRAY, second.id]) == {
            ARRAY: counts,
            second.id: {},
        }
        assert await tx.jobs.element_counts(UMBRELLA, [ARRAY]) == {ARRAY: {}}
    async with store.unit_of_work(ACME) as tx:
        assert await tx.jobs.element_counts([ARRAY]) == {ARRAY: counts}


async def test_an_array_without_open_elements_is_found_once_it_has_left_the_line(
    store: Store,
) -> None:
    async def found() -> list[JobId]:
        async with store.unit_of_work.system(because="test") as tx:
            return list(await tx.jobs.arrays_without_open(limit=10))

    await add(store, an_array(size=2))
    [first] = await split(store, 1)
    await ends(store, first.id)
    assert await found() == []  # one is in line
    [second] = await split(store, 1)
    assert await found() == []
    await ends(store, second.id, state=S.QUEUED)
    assert await found() == []  # it comes back
    async with store.unit_of_work.system(because="test") as tx:
        back, _ = (await tx.jobs.get_any(second.id)).cancelled(reason="", at=NOW)
        await tx.jobs.save(back)
    assert await found() == [ARRAY]


async def test_elements_of_an_array_that_stops_are_found_until_they_stop(store: Store) -> None:
    async def found() -> list[JobId]:
        async with store.unit_of_work.system(because="test") as tx:
            return list(await tx.jobs.of_stopping_arrays(limit=10))

    await add(store, an_array(size=5))
    ended, back, running, stopping = await split(store, 4)
    await ends(store, ended.id)
    await ends(store, back.id, state=S.QUEUED)
    assert await found() == []
    async with store.unit_of_work.system(because="test") as tx:
        for job_id in (ARRAY, stopping.id):
            asked = (await tx.jobs.get_any(job_id)).asked_to_stop(reason="enough", at=NOW)
            assert asked is not None
            await tx.jobs.save(asked[0])
    assert await found() == [back.id, running.id]
    assert await heads(store) == [(back.id, 1, 1)]


async def test_elements_are_listed_where_their_array_is_named(store: Store) -> None:
    await add(store, an_array(), an_array(JobId("job_other")))
    first, second = await split(store, 2)

    async def listed(tenant: TenantId = ACME, **filters: Any) -> list[JobId]:
        async with store.unit_of_work(tenant) as tx:
            given: dict[str, Any] = {
                "before": None,
                "states": (),
                "labels": {},
                "queue": None,
                "limit": 9,
            }
            return [job.id for job in await tx.jobs.newest(**given, **filters)]

    assert await listed() == ["job_other", ARRAY]
    assert await listed(array_id=ARRAY) == [second.id, first.id]
    assert await listed(array_id=ARRAY, array_index=1) == [second.id]
    assert await listed(array_id=ARRAY, array_index=2) == []
    assert await listed(array_id=first.id) == []
    assert await listed(UMBRELLA, array_id=ARRAY) == []


async def test_stats_are_of_elements_and_queues_count_those_in_line(store: Store) -> None:
    await add(store, an_array(size=4))
    elements = await split(store, 3)
    async with store.unit_of_work(ACME) as tx:
        assert (await tx.queues.get(DEFAULT_QUEUE)).queued_count == 1
    for element in [*elements, *await split(store, 1)]:
        await ends(store, element.id)
    async with store.unit_of_work.system(because="test") as tx:
        array, _ = (await tx.jobs.get_any(ARRAY)).failed(LOST, at=NOW)
        await tx.jobs.save(array)
    async with store.unit_of_work(ACME) as tx:
        [ended] = await tx.jobs.ends(since=NOW - timedelta(days=1), limit=9)
    assert (ended.state, ended.job_count) == (S.FAILED, 4)


async def test_totals_of_the_line_tell_an_array_with_fewer_elements_apart(store: Store) -> None:
    await add(store, an_array())
    before = (await whole_line(store)).totals
    await split(store, 1)
    after = (await whole_line(store)).totals
    assert before == Totals(3, before.queue_seq_sum)
    assert after == Totals(2, before.queue_seq_sum)


async def test_an_array_that_runs_is_nobodys_placed_job(store: Store) -> None:
    await add(store, an_array(size=1))
    [element] = await split(store, 1)
    async with store.unit_of_work.system(because="test") as tx:
        assert (await tx.jobs.get_any(ARRAY)).state is S.RUNNING
        assert await tx.jobs.placed([ACME], limit=9) == [element.id]
