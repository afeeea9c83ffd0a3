"""What open attempts hold of their nodes, and for how long at most."""

from datetime import timedelta

import pytest

from services.scheduler.domain.attempts.attempt import Attempt, LogLocation, Owner, OwnerKind
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.job import Job
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.scheduling.plan import Holding
from tests.contract.scheduler_store.conftest import Store
from tests.unit.scheduler.builders import ACME, ENDING, NODE, NOW, a_spec, resources

RUN_MAX = timedelta(hours=2)
HOUR = timedelta(hours=1)


async def admit(
    store: Store,
    *,
    run_max: timedelta = RUN_MAX,
    run_expected: timedelta | None = None,
    is_kept_with_attempt: bool = True,
) -> Attempt:
    """Place a job as a cycle does, or did before it kept the run time limit with the attempt."""
    spec = a_spec(resources=resources(), timeouts=JobTimeouts(run=run_max))
    job, _ = Job.queued(JobId("job_1"), ACME, spec, at=NOW, traceparent=None)
    attempt, _ = Attempt.created(
        AttemptId("att_1"),
        ACME,
        Owner(OwnerKind.JOB, job.id, public_id=job.id),
        number=1,
        node_id=NODE,
        resources=resources(),
        at=NOW,
        traceparent=None,
        run_max=run_max if is_kept_with_attempt else None,
        template=spec.template,
        run_expected=run_expected,
    )
    async with store.unit_of_work.system(because="test") as tx:
        await tx.nodes.register(
            NODE, resources(cpu=4, memory=8), runtime="process", allows_mixed_tenants=True
        )
        await tx.jobs.add([job])
        await tx.attempts.add([attempt])
    return attempt


async def add_replica(store: Store) -> None:
    """Place a replica of two cores beside it."""
    replica = Owner(OwnerKind.REPLICA, "rep_1", public_id="dep_1")
    attempt, _ = Attempt.created(
        AttemptId("att_2"),
        ACME,
        replica,
        number=1,
        node_id=NODE,
        resources=resources(cpu=2),
        at=NOW,
        traceparent=None,
    )
    async with store.unit_of_work.system(because="test") as tx:
        await tx.attempts.add([attempt])


async def held(store: Store) -> list[Holding]:
    async with store.unit_of_work.system(because="test") as tx:
        return list(await tx.attempts.holdings())


@pytest.mark.parametrize("is_kept_with_attempt", [True, False])
async def test_what_is_placed_holds_its_node_for_its_run_time_from_then_on(
    store: Store, is_kept_with_attempt: bool
) -> None:
    await admit(store, is_kept_with_attempt=is_kept_with_attempt)
    [holding] = await held(store)
    assert holding.ends_in is not None
    assert RUN_MAX - timedelta(minutes=1) < holding.ends_in <= RUN_MAX
    assert holding == Holding(NODE, ACME, resources(), ends_in=holding.ends_in)


async def test_an_attempt_keeps_its_run_time_limit_and_what_is_expected_of_it(
    store: Store,
) -> None:
    placed = await admit(store, run_expected=timedelta(minutes=7))
    async with store.unit_of_work.system(because="test") as tx:
        kept = await tx.attempts.get(placed.id)
    assert (kept.run_max, kept.run_expected) == (RUN_MAX, timedelta(minutes=7))
    assert kept.template == placed.template != ""


@pytest.mark.parametrize("hours", [1, 5])
async def test_what_is_expected_to_end_is_told_whatever_its_limit(store: Store, hours: int) -> None:
    await admit(store, run_expected=timedelta(hours=hours))
    [holding] = await held(store)
    assert holding.expected_in is not None
    expected_in = timedelta(hours=hours)
    assert expected_in - timedelta(minutes=1) < holding.expected_in <= expected_in


async def test_what_has_taken_longer_than_expected_is_expected_to_go_on(store: Store) -> None:
    await admit(store, run_expected=timedelta(microseconds=1))
    [holding] = await held(store)
    assert holding.expected_in is not None
    assert timedelta(0) < holding.expected_in < timedelta(minutes=1)


async def test_a_start_moves_nothing_however_late_and_by_whatever_clock(store: Store) -> None:
    await admit(store)
    [before] = await held(store)
    async with store.unit_of_work.system(because="test") as tx:
        attempt = await tx.attempts.get(AttemptId("att_1"))
        at = tx.now + timedelta(hours=1)
        await tx.attempts.save(attempt.started(log_location=LogLocation("log"), at=at)[0])
    [after] = await held(store)
    assert before.ends_in is not None
    assert after.ends_in is not None
    assert timedelta(0) <= before.ends_in - after.ends_in < timedelta(minutes=1)


async def test_what_is_over_its_limit_is_to_end_now(store: Store) -> None:
    await admit(store, run_max=timedelta(0))
    assert [each.ends_in for each in await held(store)] == [timedelta(0)]


async def test_what_has_ended_holds_nothing(store: Store) -> None:
    await admit(store)
    async with store.unit_of_work.system(because="test") as tx:
        closed, _ = (await tx.attempts.get(AttemptId("att_1"))).closed(ENDING, at=NOW)
        await tx.attempts.save(closed)
    assert await held(store) == []


async def test_whose_owner_is_no_job_never_ends_by_itself(store: Store) -> None:
    await admit(store)
    await add_replica(store)
    assert Holding(NODE, ACME, resources(cpu=2), ends_in=None) in await held(store)


async def test_jobs_alone_end_by_themselves(store: Store) -> None:
    async def does_any_end() -> bool:
        async with store.unit_of_work.reading(because="test") as reading:
            return await reading.attempts.does_any_end()

    assert not await does_any_end()
    attempt = await admit(store)
    assert await does_any_end()
    async with store.unit_of_work.system(because="test") as tx:
        closed, _ = (await tx.attempts.get(attempt.id)).closed(ENDING, at=NOW)
        await tx.attempts.save(closed)
    await add_replica(store)
    assert not await does_any_end()


async def test_those_that_end_first_are_told_before_what_never_ends(store: Store) -> None:
    await admit(store)
    overdue = timedelta(0)
    run_maxes = {"job_2": RUN_MAX / 2, "rep_1": None, "job_3": RUN_MAX * 2, "job_4": overdue}
    async with store.unit_of_work.system(because="test") as tx:
        for owner_id, run_max in run_maxes.items():
            kind = OwnerKind.REPLICA if run_max is None else OwnerKind.JOB
            if run_max is not None:
                spec = a_spec(resources=resources(), timeouts=JobTimeouts(run=run_max))
                job, _ = Job.queued(JobId(owner_id), ACME, spec, at=NOW, traceparent=None)
                await tx.jobs.add([job])
            attempt, _ = Attempt.created(
                AttemptId(f"att_of_{owner_id}"),
                ACME,
                Owner(kind, owner_id, public_id=owner_id),
                number=1,
                node_id=NODE,
                resources=resources(),
                at=NOW,
                traceparent=None,
                run_max=run_max,
            )
            await tx.attempts.add([attempt])
    full_hours = [0, 0, 1, 3, None]
    for most in (1, 2, 4, 5, 9):
        async with store.unit_of_work.system(because="test") as tx:
            found = await tx.attempts.holdings(soonest=most)
        told = [None if each.ends_in is None else each.ends_in // HOUR for each in found]
        assert found[0].ends_in == overdue, "what is over its limit is first"
        assert sorted(told, key=full_hours.index) == full_hours[:most]


@pytest.mark.parametrize("is_kept_with_attempt", [True, False])
async def test_what_is_asked_to_stop_ends_by_its_grace(
    store: Store, is_kept_with_attempt: bool
) -> None:
    await admit(store, is_kept_with_attempt=is_kept_with_attempt)
    async with store.unit_of_work.system(because="test") as tx:
        job = await tx.jobs.get_any(JobId("job_1"))
        placed, _ = job.admitted(AttemptId("att_1"), NODE, at=tx.now)
        asked = placed.asked_to_stop(reason="", at=tx.now)
        assert asked is not None
        await tx.jobs.save(asked[0])
    [holding] = await held(store)
    assert holding.ends_in is not None
    assert timedelta(0) < holding.ends_in <= JobTimeouts().stop_grace
