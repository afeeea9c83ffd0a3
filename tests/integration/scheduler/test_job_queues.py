"""How PostgreSQL finds jobs of a queue: those of the default one by the order of the list."""

import pytest
import sqlalchemy as sa

from services.scheduler.use_cases.paging import PageRequest
from tests.integration.scheduler.test_job_labels import asked, many_jobs
from tests.integration.scheduler.yard import Yard
from tests.unit.scheduler.builders import ACME


@pytest.mark.parametrize(("queue", "is_by_index"), [("nightly", True), ("default", False)])
async def test_jobs_of_a_queue_of_its_own_are_looked_for_by_its_index(
    yard: Yard, queue: str, *, is_by_index: bool
) -> None:
    await many_jobs(yard)
    async with yard.engine.begin() as connection:
        await connection.execute(
            sa.text("UPDATE job SET queue = 'nightly' WHERE id LIKE 'job_%00'")
        )
        await connection.execute(sa.text("ANALYZE job"))

    with asked(yard) as statements:
        assert (await yard.list_jobs(ACME, PageRequest(), queue=queue)).items

    [(statement, given)] = [each for each in statements if "ORDER BY job.id DESC" in each[0]]
    async with yard.engine.connect() as connection:
        plan = await connection.exec_driver_sql(f"EXPLAIN {statement}", given)
        assert ("ix_job_of_queue" in "\n".join(plan.scalars())) == is_by_index
