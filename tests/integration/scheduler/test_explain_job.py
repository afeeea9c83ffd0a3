"""Why a job waits: what holds it now, what would help, and about when it starts."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from services.chassis.errors import NotFound
from services.scheduler.adapters.postgres.line import PostgresLine
from services.scheduler.adapters.postgres.tables import JOBS
from services.scheduler.domain.attempts.attempt import LogLocation
from services.scheduler.domain.attempts.ending import AttemptEnding
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.scheduling import forecast
from services.scheduler.domain.scheduling.causes import Cause, Hold
from services.scheduler.domain.scheduling.explanation import Explanation
from services.scheduler.domain.scheduling.forecast import Basis
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, NODE, UMBRELLA, resources

HOUR = timedelta(hours=1)
FOR_AN_HOUR = JobTimeouts(run=HOUR)


async def explained(yard: Yard, job: Job) -> Explanation:
    return await yard.explain_job(job.tenant, job.id)


def is_about(told: Explanation, length: timedelta) -> bool:
    starts_in = told.reason.starts_in
    return starts_in is not None and length - timedelta(minutes=1) < starts_in <= length


async def test_a_job_whose_turn_it_is_waits_for_nothing(yard: Yard) -> None:
    await yard.a_node()
    told = await explained(yard, await yard.a_job())
    assert (told.reason.hold, told.jobs_before) == (Hold.NONE, 0)
    assert told.reason.starts_in == timedelta(0)
    assert told.reason.because == "it is its turn"


async def test_a_job_that_is_placed_tells_where_it_is(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    await yard.cycle()
    told = await explained(yard, job)
    assert (told.reason.hold, told.reason.helped_by) == (Hold.NONE, "")
    assert told.reason.because == told.job.reason


async def test_a_job_without_room_tells_what_the_best_node_lacks_and_by_when_it_starts(
    yard: Yard,
) -> None:
    await yard.a_node(resources(cpu=4, memory=8), name="small")
    await yard.a_node(resources(cpu=6, memory=8), name="large")
    for _ in range(2):
        await yard.a_job(resources=cores(3), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    job = await yard.a_job(resources=cores(4))

    told = await explained(yard, job)
    assert told.reason.hold is Hold.RESOURCES
    assert told.reason.because == (
        "no node has room for it: the best one is short of cpu_millicores 1000"
    )
    assert is_about(told, HOUR)


async def succeeded(yard: Yard, *, minutes: int, **changes: Any) -> None:
    """Let a job run for so long, and succeed."""
    job = await yard.a_job(timeouts=FOR_AN_HOUR, **changes)
    await yard.cycle()
    async with yard.store.system(because="test") as tx:
        opened = [work.attempt for work in await tx.attempts.open_on_node(NODE)]
        [attempt_id] = [each.id for each in opened if each.owner.id == job.id]
        attempt = await tx.attempts.get(attempt_id)
        attempt, _ = attempt.started(LogLocation("log"), at=attempt.created_at)
        at = attempt.created_at + timedelta(minutes=minutes)
        attempt, _ = attempt.exited(0, AttemptEnding.succeeded(), at=at)
        await tx.attempts.save(attempt)
        await tx.nodes.release(attempt.node_id, attempt.resources)


async def test_who_waits_for_one_of_a_template_that_has_run_before_is_told_by_history(
    yard: Yard,
) -> None:
    await yard.a_node()
    await succeeded(yard, name="train", minutes=10)
    await yard.a_job(name="train", command=("another",), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    told = await explained(yard, await yard.a_job(resources=cores(4)))
    assert is_about(told, timedelta(minutes=10))
    assert told.reason.basis is Basis.HISTORY


@pytest.mark.parametrize("other", [{"tenant": UMBRELLA}, {"name": "other"}])
async def test_neither_another_tenants_history_nor_another_names_is_used(
    yard: Yard, other: dict[str, Any]
) -> None:
    await yard.a_node()
    await succeeded(yard, minutes=10)
    await yard.a_job(timeouts=FOR_AN_HOUR, **other)
    await yard.cycle()
    told = await explained(yard, await yard.a_job(resources=cores(4)))
    assert is_about(told, HOUR)
    assert told.reason.basis is Basis.LIMITS


async def test_no_basis_is_told_where_nobody_can_tell(yard: Yard) -> None:
    told = await explained(yard, await yard.a_job())
    assert (told.reason.starts_in, told.reason.basis) == (None, None)


async def test_a_job_that_fits_and_is_not_let_past_the_first_says_so(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job(resources=cores(1), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    await yard.a_job(resources=cores(4), timeouts=FOR_AN_HOUR)
    behind = await yard.a_job(resources=cores(1))

    told = await explained(yard, behind)
    assert (told.reason.hold, told.jobs_before) == (Hold.ORDER, 1)
    assert (
        told.reason.because
        == "there is room, and it is kept for one before it that can't start yet"
    )
    assert is_about(told, 2 * HOUR)


async def test_a_job_whose_room_those_before_it_take_says_so(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job(resources=cores(4), timeouts=FOR_AN_HOUR)
    told = await explained(yard, await yard.a_job(resources=cores(1)))
    assert (told.reason.hold, told.reason.because) == (
        Hold.ORDER,
        "those before it take the room that there is",
    )


async def test_a_job_whose_tenants_earlier_one_takes_the_plan_says_so(yard: Yard) -> None:
    await yard.a_node()
    yard.tenant(ACME, running_max=resources(cpu=2, memory=8))
    await yard.a_job(resources=cores(2), timeouts=FOR_AN_HOUR)
    told = await explained(yard, await yard.a_job(resources=cores(1)))
    assert told.reason.hold is Hold.PLAN
    assert told.reason.because == "its tenant's jobs before it take what the plan lets it take"


def look_at_one_of_each(yard: Yard) -> None:
    look = replace(yard.explain_job.look, heads_max=1)
    yard.explain_job = replace(yard.explain_job, look=look)


async def test_a_job_behind_those_of_a_paused_queue_is_told_that_it_is_its_turn(
    yard: Yard,
) -> None:
    look_at_one_of_each(yard)
    await yard.a_node()
    await yard.pause_queue(ACME, "nightly", reason="it is day", by="key:1")
    for _ in range(2):
        await yard.a_job(queue="nightly")
    told = await explained(yard, await yard.a_job())
    assert (told.reason.hold, told.jobs_before) == (Hold.NONE, 0)


async def test_a_job_behind_those_that_find_no_room_is_told_that_it_is_its_turn(
    yard: Yard,
) -> None:
    look_at_one_of_each(yard)
    await yard.a_node()
    await yard.a_job(resources=cores(2), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    for _ in range(2):
        await yard.a_job(resources=cores(3))
    short = JobTimeouts(run=timedelta(minutes=10))
    told = await explained(yard, await yard.a_job(resources=cores(1), timeouts=short))
    assert (told.reason.hold, told.jobs_before) == (Hold.NONE, 2)


async def test_a_job_whose_turn_no_cycle_sees_yet_is_not_told_that_it_is(yard: Yard) -> None:
    look_at_one_of_each(yard)
    await yard.a_node()
    await yard.a_job(resources=cores(1))
    told = await explained(yard, await yard.a_job(resources=cores(1)))
    assert (told.reason.hold, told.reason.starts_in) == (Hold.ORDER, None)


async def test_a_job_behind_those_that_pause_is_told_that_it_is_its_turn(yard: Yard) -> None:
    look_at_one_of_each(yard)
    await yard.a_node()
    pausing = [await yard.a_job() for _ in range(2)]
    job = await yard.a_job()
    assert (await explained(yard, job)).reason.hold is Hold.ORDER
    await pause(yard, pausing[0])
    assert (await explained(yard, job)).reason.hold is Hold.ORDER
    await pause(yard, pausing[1])
    told = await explained(yard, job)
    assert (told.reason.hold, told.jobs_before) == (Hold.NONE, 2)


async def pause(yard: Yard, job: Job, *, length: timedelta = HOUR) -> None:
    """Let a job in line wait for its next try, as after a failure."""
    later = sa.update(JOBS).values(retry_at=yard.clock.now() + length).where(JOBS.c.id == job.id)
    async with yard.engine.begin() as connection:
        await connection.execute(later)


async def test_a_job_that_waits_for_another_tenants_jobs_starts_when_they_are_over(
    yard: Yard,
) -> None:
    await yard.a_node(allows_mixed_tenants=False)
    await yard.a_job(resources=cores(1), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    told = await explained(yard, await yard.a_job(tenant=UMBRELLA))
    assert told.reason.hold is Hold.NODES
    assert is_about(told, HOUR)


async def test_a_job_of_a_larger_priority_stands_before_all_tenants_others(yard: Yard) -> None:
    late = await yard.a_job(tenant=UMBRELLA, priority=1)
    await yard.a_job()
    urgent = await yard.a_job(priority=9)
    assert (await explained(yard, late)).jobs_before == 1
    assert (await explained(yard, urgent)).jobs_before == 0


async def test_what_holds_a_job_itself_is_told_before_what_holds_its_place(yard: Yard) -> None:
    job = await yard.a_job(resources=cores(2))
    told = await explained(yard, job)
    assert (told.reason.hold, told.reason.because) == (Hold.NODES, "there is no node yet")

    yard.tenant(ACME, running_max=resources(cpu=1, memory=8))
    told = await explained(yard, job)
    assert told.reason.hold is Hold.PLAN
    assert told.reason.because.endswith("it is short of cpu_millicores 1000")

    yard.tenant(ACME, is_suspended=True)
    told = await explained(yard, job)
    assert (told.reason.hold, told.reason.because) == (
        Hold.TENANT,
        "the tenant is suspended: unpaid",
    )


async def test_a_job_that_waits_for_a_replicas_room_is_told_no_instant(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_deployment(resources=cores(1))
    await yard.cycle()
    told = await explained(yard, await yard.a_job(resources=cores(4)))
    assert (told.reason.hold, told.estimated_start_at) == (Hold.RESOURCES, None)
    assert told.reason.helped_by == "fewer replicas, or more nodes"


async def test_in_a_large_yard_who_is_behind_others_of_its_kind_needs_no_look_at_the_line(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forecast, "WORK_MAX", 1)  # as if there were many nodes
    await yard.a_node()
    await yard.a_job(resources=cores(1), timeouts=FOR_AN_HOUR)
    await yard.cycle()
    [running] = await yard.open_work()
    first, second = [await yard.a_job(resources=cores(4)) for _ in range(2)]
    assert is_about(await explained(yard, first), HOUR)

    with monkeypatch.context() as blind:
        blind.setattr(PostgresLine, "first", None)
        told = await explained(yard, second)
        assert (told.reason.cause, told.reason.starts_in) == (Cause.NO_ROOM, None)
    await pause(yard, first)
    assert is_about(await explained(yard, second), HOUR)

    await pause(yard, first, length=-HOUR)
    await yard.a_deployment(resources=cores(1))
    await yard.cycle()
    await yard.end(running.attempt.id)
    assert (await explained(yard, second)).reason.cause is Cause.NO_ROOM_EVER


async def test_another_tenants_job_is_not_found(yard: Yard) -> None:
    job = await yard.a_job()
    with pytest.raises(NotFound):
        await yard.explain_job(UMBRELLA, job.id)
