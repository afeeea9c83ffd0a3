"""The line in the leader's memory is the table's, whatever happened; and turns by share."""

from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.chassis.errors import Unavailable
from services.scheduler.adapters.postgres.attempts import PostgresAttempts
from services.scheduler.adapters.postgres.tables import JOBS, LINE_CHANGES, LINE_COUNTS, USAGE
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.scheduling.leaders_memory import LeadersMemory
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, UMBRELLA, resources

HALF_LIFE = timedelta(hours=24)


async def placed(yard: Yard) -> list[str]:
    return [name for name, outcome in await yard.cycle() if outcome is Outcome.PLACED]


async def end_all(yard: Yard) -> None:
    for work in await yard.open_work():
        await yard.end(work.attempt.id)


def another_process(yard: Yard) -> None:
    """Let a process that knows nothing run the cycles from now on."""
    yard.run_cycle = replace(yard.run_cycle, memory=LeadersMemory(yard.store, HALF_LIFE))


async def test_a_cycle_that_fails_has_heard_nothing(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    await yard.a_node()
    assert await yard.cycle() == []
    job = await yard.a_job()

    async def fail(*_: object) -> None:
        raise Unavailable("database")

    with monkeypatch.context() as patched:
        patched.setattr(PostgresAttempts, "add", fail)
        with pytest.raises(Unavailable):
            await yard.cycle()
    assert await placed(yard) == [job.id]
    assert await placed(yard) == []


async def test_who_leads_anew_reads_the_line_whole_since_another_has_heard_of_it(
    yard: Yard,
) -> None:
    job = await yard.a_job()
    first = yard.run_cycle
    await first(await yard.lease(holder="proc_1", ttl_s=0))  # no node, yet it has heard of the job
    another_process(yard)
    await yard.run_cycle(await yard.lease(holder="proc_2", ttl_s=0))
    await CancelJob(yard.store)(ACME, job.id, reason="")
    late = await yard.a_job()
    report = await yard.run_cycle(await yard.lease(holder="proc_2"))
    assert report.waiting[OwnerKind.JOB] == 1
    await yard.a_node()
    yard.run_cycle = first
    report = await first(await yard.lease(holder="proc_2"))
    assert [placement.head.id for placement, _ in report.outcomes] == [late.id]


async def test_a_line_that_is_not_the_tables_is_told_of_and_read_again(yard: Yard) -> None:
    job = await yard.a_job()
    await yard.cycle()
    yard.run_cycle.memory.line.remove(job.id)
    await yard.a_node()
    assert await placed(yard) == []
    yard.clock.seconds += 60
    report = await yard.run_cycle(await yard.lease())
    assert (report.is_line_right, report.is_cut, report.outcomes) == (False, True, [])
    report = await yard.run_cycle(await yard.lease())
    assert report.is_line_right
    assert [placement.head.id for placement, _ in report.outcomes] == [job.id]
    yard.clock.seconds += 60
    assert (await yard.run_cycle(await yard.lease())).is_line_right


async def test_counts_that_are_not_the_tables_are_told_of_and_counted_anew(yard: Yard) -> None:
    """As after rows were loaded without their triggers."""
    yard.tenant(ACME, queued_jobs_max=9)
    yard.clock.seconds += 60
    await yard.run_cycle(await yard.lease())
    for _ in range(2):
        await yard.a_job()
    await yard.a_job(array_size=5, priority=3)
    await yard.cycle()
    async with yard.engine.begin() as connection:
        await connection.execute(sa.delete(LINE_COUNTS).where(LINE_COUNTS.c.priority == 3))
    await yard.a_job(priority=1)
    yard.clock.seconds += 60
    assert (await yard.run_cycle(await yard.lease())).are_counts_mended
    await yard.a_job(priority=2)
    await yard.check()
    yard.clock.seconds += 60
    assert not (await yard.run_cycle(await yard.lease())).are_counts_mended
    await yard.check()


async def test_a_statement_by_hand_is_heard_of_too(yard: Yard) -> None:
    kept, deleted = await yard.a_job(), await yard.a_job()
    await yard.cycle()
    async with yard.engine.begin() as connection:
        await connection.execute(sa.delete(JOBS).where(JOBS.c.id == deleted.id))
        await connection.execute(sa.update(JOBS).where(JOBS.c.id == kept.id).values(priority=9))
    await yard.a_node()
    assert await placed(yard) == [kept.id]
    async with yard.engine.connect() as connection:
        await yard.cycle()
        assert await connection.scalar(sa.select(sa.func.count()).select_from(LINE_CHANGES)) == 0


async def test_a_pause_ends_by_the_clock_of_the_admission_also_once_that_is_put_back(
    yard: Yard,
) -> None:
    job = await yard.a_job()
    over = sa.update(JOBS).values(retry_at=yard.clock.now() + timedelta(seconds=60))
    async with yard.engine.begin() as connection:
        await connection.execute(over)
    yard.clock.seconds += 60
    assert await placed(yard) == []  # no node, yet its pause is over
    yard.clock.seconds -= 30
    await yard.a_node()
    assert await placed(yard) == []
    yard.clock.seconds += 30
    assert await placed(yard) == [job.id]


async def test_two_tenants_take_turns_whoever_came_first(yard: Yard) -> None:
    await yard.a_node(resources(cpu=4, memory=8))
    theirs = [await yard.a_job(resources=cores(1)) for _ in range(3)]
    others = [await yard.a_job(tenant=UMBRELLA, resources=cores(1)) for _ in range(3)]
    assert await placed(yard) == [theirs[0].id, others[0].id, theirs[1].id, others[1].id]


async def test_who_held_much_lately_comes_second_also_with_the_next_leader(yard: Yard) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    first = await yard.a_job(resources=cores(2))
    assert await placed(yard) == [first.id]
    yard.clock.seconds += 3600
    assert await placed(yard) == []
    await end_all(yard)
    another_process(yard)
    theirs = await yard.a_job(resources=cores(1))
    other = await yard.a_job(tenant=UMBRELLA, resources=cores(1))
    report = await yard.run_cycle(await yard.lease(holder="proc_1"))
    assert [placement.head.id for placement, _ in report.outcomes] == [other.id, theirs.id]


async def test_nothing_is_kept_of_what_a_tenant_held_that_is_purged(yard: Yard) -> None:
    await yard.a_node()
    await yard.a_job()
    await yard.cycle()
    yard.clock.seconds += 3600
    await yard.cycle()
    assert await kept(yard) == [ACME]
    await end_all(yard)
    yard.tenant(ACME, is_purged=True)
    yard.clock.seconds += 60
    await yard.cycle()
    assert await kept(yard) == []


async def kept(yard: Yard) -> list[str]:
    async with yard.engine.connect() as connection:
        return list(await connection.scalars(sa.select(USAGE.c.tenant)))
