"""The scheduling cycle on a real database."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest

from services.chassis.db.errors import LeaseLost
from services.scheduler.domain.attempts.attempt import AttemptState, OwnerKind
from services.scheduler.domain.attempts.work import JobWork, ReplicaWork
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import (
    Outcome,
)
from tests.integration.scheduler.yard import (
    NODE_SILENCE_MAX,
    Yard,
    cores,
    goes_down_once_it_is_seen,
)
from tests.unit.scheduler.builders import ACME, NODE, TRACEPARENT, UMBRELLA, a_pin, resources


async def test_a_job_is_admitted_with_an_attempt_that_holds_its_capacity(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job(resources=cores(2))

    assert await yard.cycle() == [(job.id, Outcome.PLACED)]

    admitted = await yard.job(job.id)
    [work] = await yard.open_work()
    assert admitted.state is JobState.ADMITTED
    assert (admitted.attempt_id, admitted.attempt_number) == (work.attempt.id, 1)
    assert (work.attempt.state, work.attempt.owner.kind) == (AttemptState.CREATED, OwnerKind.JOB)
    assert work.owner == JobWork(job.id, JobState.ADMITTED, job.spec)
    assert work.is_current
    assert work.stop is None
    assert work.traceparent == TRACEPARENT
    assert await yard.used() == job.spec.resources
    assert await yard.event_types(job.id) == ["job.queued", "job.admitted"]
    assert await yard.event_types(work.attempt.id) == ["attempt.created"]


async def test_jobs_are_admitted_by_priority_then_by_turn(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    late = await yard.a_job(resources=cores(1))
    later = await yard.a_job(resources=cores(1))
    urgent = await yard.a_job(tenant=UMBRELLA, priority=9, resources=cores(1))

    assert [name for name, _ in await yard.cycle()] == [urgent.id, late.id]
    assert (await yard.job(later.id)).state is JobState.QUEUED


async def test_capacity_comes_back_only_with_the_attempts_end(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    first = await yard.a_job(resources=cores(2))
    second = await yard.a_job(resources=cores(2))
    await yard.cycle()
    await CancelJob(yard.store)(ACME, first.id, reason="")
    assert await yard.cycle() == []

    [work] = await yard.open_work()
    await yard.end(work.attempt.id)
    assert await yard.used() == Resources()
    assert await yard.cycle() == [(second.id, Outcome.PLACED)]


async def test_a_silent_node_gets_no_work(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job()
    await yard.are_silent(NODE_SILENCE_MAX)
    assert await yard.cycle() == []
    async with yard.store.system(because="test") as tx:
        await tx.nodes.heartbeat(NODE, is_runtime_up=True)
    assert len(await yard.cycle()) == 1


async def test_a_node_whose_runtime_is_down_gets_no_work_until_it_is_back(yard: Yard) -> None:
    await yard.a_node()
    await yard.beats(is_runtime_up=False)
    job = await yard.a_job()

    assert await yard.cycle() == []
    assert (await yard.job(job.id)).state is JobState.QUEUED

    await yard.beats(is_runtime_up=True)
    assert await yard.cycle() == [(job.id, Outcome.PLACED)]


async def test_those_whose_node_is_down_hold_up_nobody_who_fits_elsewhere(yard: Yard) -> None:
    await yard.a_node(resources(cpu=64, memory=64))
    await yard.a_node(resources(cpu=2, memory=8), name="node-2")
    await yard.beats(is_runtime_up=False)
    await yard.a_job(resources=cores(16), priority=9)
    job = await yard.a_job(resources=cores(1))

    assert await yard.cycle() == [(job.id, Outcome.PLACED)]


async def test_a_node_that_went_down_after_the_snapshot_is_given_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.a_node()
    job = await yard.a_job()
    lease = await yard.lease()
    goes_down_once_it_is_seen(yard, monkeypatch)
    report = await yard.run_cycle(lease)

    assert [outcome for _, outcome in report.outcomes] == [Outcome.NO_ROOM]
    assert (await yard.job(job.id)).state is JobState.QUEUED


async def test_a_node_tells_since_when_its_runtime_is_down(yard: Yard) -> None:
    await yard.a_node()
    await yard.beats(is_runtime_up=False)
    first = (await yard.node()).runtime_down_since
    assert first is not None
    await yard.beats(is_runtime_up=False)
    assert (await yard.node()).runtime_down_since == first
    await yard.a_node()  # its runner was started again: the runtime is down still
    assert (await yard.node()).runtime_down_since == first
    await yard.beats(is_runtime_up=True)
    assert (await yard.node()).runtime_down_since is None
    await yard.beats(is_runtime_up=False)
    again = (await yard.node()).runtime_down_since
    assert again is not None
    assert again > first


async def test_a_node_that_registers_again_keeps_what_is_booked(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job(resources=cores(2))
    await yard.cycle()
    await yard.a_node(resources(cpu=1, memory=1))
    assert await yard.used() == resources(cpu=2)


async def test_replicas_are_placed_before_jobs(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    job = await yard.a_job(resources=cores(2))
    shown = await yard.a_deployment(resources=cores(2))
    assert await yard.cycle() == [(shown.replicas[0].id, Outcome.PLACED)]
    [work] = await yard.open_work()
    assert work.owner == ReplicaWork(
        replica_id=shown.replicas[0].id,
        deployment_id=shown.deployment.id,
        deployment_name="digits",
        image="modelyard/serve",
        model=a_pin(),
        address=None,
    )
    assert work.attempt.owner.public_id == shown.deployment.id
    assert (await yard.job(job.id)).state is JobState.QUEUED


async def test_of_two_leaders_at_once_only_the_newer_admits(yard: Yard) -> None:
    await yard.a_node(resources(cpu=64, memory=64))
    jobs = [await yard.a_job() for _ in range(3)]
    older = await yard.lease(holder="proc_1", ttl_s=0)  # over as soon as it is taken
    newer = await yard.lease(holder="proc_2")
    assert newer.epoch == older.epoch + 1

    outcomes = await asyncio.gather(
        yard.run_cycle(older), yard.run_cycle(newer), return_exceptions=True
    )

    assert isinstance(outcomes[0], LeaseLost)
    assert not isinstance(outcomes[1], BaseException)
    assert len(await yard.open_work()) == len(jobs)


async def test_cycles_of_one_epoch_at_once_admit_each_job_once(yard: Yard) -> None:
    await yard.a_node(resources(cpu=64, memory=64))
    jobs = [await yard.a_job() for _ in range(3)]
    lease = await yard.lease()

    reports = await asyncio.gather(yard.run_cycle(lease), yard.run_cycle(lease))

    placed = [
        placement.head.id
        for report in reports
        for placement, outcome in report.outcomes
        if outcome is Outcome.PLACED
    ]
    assert sorted(placed) == sorted(job.id for job in jobs)


async def test_a_stale_snapshot_never_overbooks(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    for tenant in (ACME, UMBRELLA):
        for _ in range(3):
            await yard.a_job(tenant=tenant, resources=cores(1))
    lease = await yard.lease()
    await asyncio.gather(*(yard.run_cycle(lease) for _ in range(4)))
    assert await yard.used() == resources(cpu=2, memory=2)


async def test_a_job_cancelled_meanwhile_only_loses_its_turn(yard: Yard) -> None:
    await yard.a_node()
    job = await yard.a_job()
    lease = await yard.lease()
    cancel = CancelJob(yard.store)
    report, _ = await asyncio.gather(yard.run_cycle(lease), cancel(ACME, job.id, reason=""))
    state = (await yard.job(job.id)).state
    if report.outcomes and report.outcomes[0][1] is Outcome.PLACED:
        assert state is JobState.STOPPING
    else:
        assert state is JobState.CANCELLED
        assert await yard.used() == Resources()


async def test_nothing_is_placed_under_a_lost_lease(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job()
    lost = await yard.lease(ttl_s=0)
    await yard.lease(holder="proc_2")
    with pytest.raises(LeaseLost):
        await yard.run_cycle(lost)
    assert await yard.open_work() == []


async def test_those_that_no_node_could_hold_fill_nobodys_place_in_a_cycle(yard: Yard) -> None:
    await yard.a_job(resources=cores(64), priority=9)
    job = await yard.a_job(resources=cores(1))
    await yard.a_node()
    yard.run_cycle = replace(yard.run_cycle, heads_max=1)

    assert await yard.cycle() == [(job.id, Outcome.PLACED)]


async def test_a_cycle_that_took_all_it_may_says_that_more_may_wait(yard: Yard) -> None:
    await yard.a_node(resources(cpu=64, memory=64))
    for _ in range(3):
        await yard.a_job(resources=cores(1))
    yard.run_cycle = replace(yard.run_cycle, heads_max=2)
    lease = await yard.lease()

    reports = [await yard.run_cycle(lease) for _ in range(2)]

    assert [(len(report.outcomes), report.is_cut) for report in reports] == [(2, True), (1, False)]


async def test_a_cycle_whose_heads_all_wait_for_room_is_not_followed_by_another(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    for _ in range(2):
        await yard.a_job(resources=cores(2))
    await yard.cycle()
    yard.run_cycle = replace(yard.run_cycle, heads_max=1)

    report = await yard.run_cycle(await yard.lease())

    assert (report.waiting[OwnerKind.JOB], report.outcomes, report.is_cut) == (1, [], False)


async def test_a_job_that_ends_before_a_larger_ones_turn_passes_it_and_a_longer_one_does_not(
    yard: Yard,
) -> None:
    await yard.a_node(resources(cpu=4, memory=8))
    await yard.a_job(resources=cores(1), timeouts=JobTimeouts(run=timedelta(hours=2)))
    await yard.cycle()
    large = await yard.a_job(resources=cores(4))
    await yard.a_job(resources=cores(1))
    short = await yard.a_job(resources=cores(1), timeouts=JobTimeouts(run=timedelta(hours=1)))

    assert await yard.cycle() == [(short.id, Outcome.PLACED)]
    for work in await yard.open_work():
        await yard.end(work.attempt.id)
    assert await yard.cycle() == [(large.id, Outcome.PLACED)]


async def test_a_job_that_waits_for_a_replicas_room_holds_up_nobody(yard: Yard) -> None:
    await yard.a_node(resources(cpu=4, memory=8))
    await yard.a_deployment(resources=cores(1))
    await yard.cycle()
    await yard.a_job(resources=cores(4))
    small = await yard.a_job(resources=cores(1))

    assert await yard.cycle() == [(small.id, Outcome.PLACED)]
