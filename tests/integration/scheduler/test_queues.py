"""Queues are paused and resumed: what waits, what runs, and what their jobs are told."""

import pytest

from services.chassis.errors import InvalidArgument, QuotaExceeded
from services.chassis.tenancy import TenantId
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.queues.queue import PAUSES_MAX, Queue
from services.scheduler.domain.scheduling.causes import Hold
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME, UMBRELLA

TOLD = "its queue nightly is paused since 2026-03-01T12:00:00Z: it is day"


async def pause(
    yard: Yard, name: str = "nightly", *, tenant: TenantId = ACME, reason: str = "it is day"
) -> Queue:
    return await yard.pause_queue(tenant, name, reason=reason, by="key:1")


async def resume(yard: Yard, name: str = "nightly", *, tenant: TenantId = ACME) -> Queue:
    return await yard.resume_queue(tenant, name, by="key:1")


async def test_nothing_of_a_paused_queue_is_admitted_until_it_is_resumed(yard: Yard) -> None:
    await yard.a_node()
    await pause(yard)
    held = await yard.a_job(queue="nightly")
    free = await yard.a_job()
    assert await yard.cycle() == [(free.id, Outcome.PLACED)]
    assert await yard.cycle() == []

    resumed = await resume(yard)
    assert (resumed.pause, resumed.queued_count, yard.resumed_count) == (None, 1, 1)
    assert await yard.cycle() == [(held.id, Outcome.PLACED)]


async def test_what_runs_goes_on_when_its_queue_is_paused(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job(queue="nightly")
    await yard.cycle()
    paused = await pause(yard)
    assert (paused.queued_count, paused.running_count) == (0, 1)
    assert (await yard.job(job.id)).state is JobState.ADMITTED
    [work] = await yard.open_work()
    assert work.stop is None


async def test_jobs_of_a_paused_queue_keep_their_places_in_line(yard: Yard) -> None:
    await yard.a_node()
    first = await yard.a_job(queue="nightly")
    await pause(yard)
    second = await yard.a_job()
    await resume(yard)
    assert [job_id for job_id, _ in await yard.cycle()] == [first.id, second.id]


async def test_a_queue_of_that_name_of_another_tenant_is_another_one(yard: Yard) -> None:
    await yard.a_node()
    ours = await yard.a_job(queue="nightly")
    theirs = await yard.a_job(queue="nightly", tenant=UMBRELLA)
    await pause(yard)
    await resume(yard, tenant=UMBRELLA)
    assert await yard.cycle() == [(theirs.id, Outcome.PLACED)]

    shown = await yard.list_jobs(UMBRELLA, PageRequest())
    assert "paused" not in shown.items[0].reason
    [queue] = (await yard.list_queues(UMBRELLA, PageRequest())).items
    assert (queue.pause, queue.running_count) == (None, 1)
    assert (await yard.get_job(ACME, ours.id)).reason == TOLD


async def test_a_job_in_line_tells_that_its_queue_is_paused(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job(queue="nightly")
    await pause(yard)
    assert (await yard.get_job(ACME, job.id)).reason == TOLD
    [listed] = (await yard.list_jobs(ACME, PageRequest())).items
    assert listed.reason == TOLD

    told = await yard.explain_job(ACME, job.id)
    assert (told.reason.hold, told.reason.because) == (Hold.PAUSED, TOLD)
    assert (told.reason.helped_by, told.estimated_start_at) == ("its queue's resumption", None)


async def test_pausing_again_and_resuming_what_runs_change_nothing(yard: Yard) -> None:
    first = await pause(yard)
    yard.clock.seconds += 60
    assert await pause(yard, reason="another") == first
    assert await resume(yard) == await resume(yard) == Queue("nightly")
    assert (await yard.list_queues(ACME, PageRequest())).items == []


async def test_a_pause_without_a_reason_says_so(yard: Yard) -> None:
    paused = await pause(yard, reason="")
    assert paused.pause is not None
    assert paused.pause.reason == "paused by request"


async def test_a_tenant_has_a_bounded_number_of_paused_queues(yard: Yard) -> None:
    for number in range(PAUSES_MAX):
        await pause(yard, f"q{number}")
    with pytest.raises(QuotaExceeded, match=f"paused queues: .* {PAUSES_MAX} of {PAUSES_MAX} used"):
        await pause(yard, "one-more")
    await pause(yard, "q0")  # it is paused already
    await pause(yard, "one-more", tenant=UMBRELLA)
    await resume(yard, "q0")
    await pause(yard, "one-more")


async def test_queues_are_listed_by_name_in_pages(yard: Yard) -> None:
    for name in ("b", "a", "c"):
        await pause(yard, name)
    first = await yard.list_queues(ACME, PageRequest(size=2))
    rest = await yard.list_queues(ACME, PageRequest(size=2, after="b"))
    assert [queue.name for queue in (*first.items, *rest.items)] == ["a", "b", "c"]
    assert (first.next_token != "", rest.next_token) == (True, "")


async def test_what_can_be_no_queue_or_reason_is_refused(yard: Yard) -> None:
    for name, reason, field in (("Nightly", "", "queue"), ("nightly", "x" * 257, "reason")):
        with pytest.raises(InvalidArgument) as refused:
            await pause(yard, name, reason=reason)
        assert refused.value.detail["field"] == field
    with pytest.raises(InvalidArgument, match="such as nightly"):
        await resume(yard, "Nightly")
