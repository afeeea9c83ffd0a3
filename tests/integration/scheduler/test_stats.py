"""How a tenant's jobs have fared, from the moves that the product makes and by the indexes it has.

With 100,000 jobs, a quarter of them one tenant's, either question took the database 0.1 s at its
bound of 10,000 jobs. Joined without the look-up by id, which reads all jobs there are, 20,000 took
0.4 s.
"""

from datetime import timedelta

import pytest
import sqlalchemy as sa

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.jobs.stats import JobEnds, JobTimes
from services.scheduler.use_cases.jobs.cancel_job import CancelJob
from services.scheduler.use_cases.jobs.get_stats import GetStats
from tests.integration.scheduler.test_job_labels import asked
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME, UMBRELLA

DAY = timedelta(days=1)
JOB_COUNT = 20_000


async def test_stats_follow_what_jobs_do(yard: Yard) -> None:
    await yard.a_node()
    admitted = await yard.a_job()
    await yard.cycle()
    waiting = await yard.a_job()
    await CancelJob(yard.store)(ACME, waiting.id, reason="not needed")

    stats = await GetStats(yard.store)(ACME, window=DAY)

    [group] = stats.waits
    assert (group.priority, group.waited.job_count) == (admitted.spec.priority, 1)
    assert stats.ends == [JobEnds(JobState.CANCELLED, 1, JobTimes(0))]
    assert (stats.is_whole, stats.until - stats.since) == (True, DAY)
    others = await GetStats(yard.store)(UMBRELLA, window=DAY)
    assert (others.waits, others.ends) == ([], [])


async def test_stats_of_a_window_out_of_bounds_are_refused(yard: Yard) -> None:
    with pytest.raises(InvalidArgument, match="window"):
        await GetStats(yard.store)(ACME, window=31 * DAY)


async def copied(yard: Yard, table: str, **changes: str) -> None:
    """Store rows like the one that is there: nearly all another tenant's, one in an hour."""
    changes |= {
        "tenant": "CASE WHEN place % 100 = 0 THEN 'acme' ELSE 'umbrella' END",
        "created_at": "created_at - place * interval '1 hour'",
    }
    async with yard.engine.begin() as connection:
        names = await connection.scalars(
            sa.text("SELECT column_name FROM information_schema.columns WHERE table_name = :table"),
            {"table": table},
        )
        columns = {name: changes.get(name, name) for name in names}
        await connection.execute(
            sa.text(
                f"INSERT INTO {table} ({', '.join(columns)}) "
                f"SELECT {', '.join(columns.values())} "
                f"FROM {table}, generate_series(1, :count) AS place"
            ),
            {"count": JOB_COUNT},
        )
        await connection.execute(sa.text(f"ANALYZE {table}"))


async def many_jobs(yard: Yard) -> None:
    """Store jobs that were admitted once, and have ended."""
    job_id = "'job_' || lpad(place::text, 26, '0')"
    attempt_id = "'att_' || lpad(place::text, 26, '0')"
    await yard.a_node()
    await yard.a_job()
    await yard.cycle()
    ended_at = "created_at - place * interval '1 hour'"
    await copied(yard, "job", id=job_id, state="'FAILED'", ended_at=ended_at)
    await copied(yard, "attempt", id=attempt_id, owner_id=job_id, state="'CLOSED'")


async def test_jobs_of_a_window_are_found_by_their_tenant_and_instant(yard: Yard) -> None:
    await many_jobs(yard)

    with asked(yard) as statements:
        stats = await GetStats(yard.store)(ACME, window=30 * DAY)

    assert [group.job_count for group in stats.ends] == [7]
    indexes = ("ix_attempt_first_of_job", "ix_job_ended_of_tenant")
    questions = [each for each in statements if "percentile_cont" in each[0]]
    async with yard.engine.connect() as connection:
        for index, (statement, given) in zip(indexes, questions, strict=True):
            plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", given)
            assert index in "\n".join(plan.scalars())
