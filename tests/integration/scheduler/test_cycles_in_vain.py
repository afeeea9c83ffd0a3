"""What placed nobody is decided again once something has changed, and not before."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from services.scheduler.adapters.postgres.fleet import PostgresNodes
from services.scheduler.adapters.postgres.tables import JOBS
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.jobs.spec import JobTimeouts
from services.scheduler.domain.resources import Resources
from services.scheduler.use_cases.scheduling.run_scheduling_cycle import Outcome
from tests.integration.scheduler.yard import Yard, cores
from tests.unit.scheduler.builders import ACME, UMBRELLA, resources

OTHER = NodeId("node-2")
BACK_OFF = timedelta(seconds=5)
SOON = JobTimeouts(run=timedelta(minutes=1))


@dataclass
class Looks:
    """How often cycles have looked at nodes."""

    count: int = 0


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    looks, look = Looks(), PostgresNodes.at_work

    async def counted(nodes: PostgresNodes, **given: Any) -> Sequence[Node]:
        looks.count += 1
        return await look(nodes, **given)

    monkeypatch.setattr(PostgresNodes, "at_work", counted)
    return looks


@pytest.fixture
async def names(yard: Yard) -> dict[str, str]:
    """Fill three of a node's four cores; one job waits for more, three may not go yet."""
    yard.tenant(ACME, queued_jobs_max=4)
    yard.tenant(UMBRELLA)
    await yard.a_node(resources(cpu=4, memory=8))
    await yard.a_node(name=OTHER)
    await close(yard, is_closed=True)
    running = await yard.a_job(resources=cores(3))
    assert await yard.cycle() == [(running.id, Outcome.PLACED)]
    await yard.pause_queue(ACME, "weekly", reason="", by="test")
    jobs = {
        "wide": await yard.a_job(resources=cores(2)),
        "pausing": await yard.a_job(resources=cores(1), timeouts=SOON),
        "paused": await yard.a_job(resources=cores(1), queue="weekly", timeouts=SOON),
        "bounded": await yard.a_job(tenant=UMBRELLA, resources=cores(1), timeouts=SOON),
    }
    yard.tenant(UMBRELLA, running_max=Resources())
    pausing = JOBS.c.id == jobs["pausing"].id
    later = sa.update(JOBS).values(retry_at=yard.clock.now() + BACK_OFF).where(pausing)
    async with yard.engine.begin() as connection:
        await connection.execute(later)
    assert await yard.cycle() == []
    return {job.id: name for name, job in jobs.items()}


async def close(yard: Yard, *, is_closed: bool) -> None:
    async with yard.store.system(because="test") as tx:
        node = await tx.nodes.get(OTHER)
        await tx.nodes.save(node.cordoned(at=tx.now) if is_closed else node.uncordoned())


async def nothing(yard: Yard) -> None:
    """Change nothing."""


async def a_sign_of_life(yard: Yard) -> None:
    await yard.beats(is_runtime_up=True)


async def an_end(yard: Yard) -> None:
    [work] = await yard.open_work()
    await yard.end(work.attempt.id)


async def an_open_node(yard: Yard) -> None:
    await close(yard, is_closed=False)


async def more_capacity(yard: Yard) -> None:
    await yard.a_node(resources(cpu=5, memory=8))


async def a_larger_plan(yard: Yard) -> None:
    yard.tenant(UMBRELLA, running_max=cores(1))


async def a_resumption(yard: Yard) -> None:
    await yard.resume_queue(ACME, "weekly", by="test")


async def the_end_of_a_pause(yard: Yard) -> None:
    yard.clock.seconds += BACK_OFF.total_seconds()


async def a_job_that_fits(yard: Yard) -> None:
    await yard.a_job(resources=cores(1), timeouts=SOON)


@pytest.mark.parametrize(
    ("change", "placed"),
    [
        (an_end, "wide"),
        (an_open_node, "wide"),
        (more_capacity, "wide"),
        (a_larger_plan, "bounded"),
        (a_resumption, "paused"),
        (the_end_of_a_pause, "pausing"),
        (a_job_that_fits, "new"),
    ],
)
async def test_whoever_may_go_by_a_change_goes_in_the_next_cycle(
    yard: Yard,
    names: dict[str, str],
    change: Callable[[Yard], Awaitable[None]],
    placed: str,
) -> None:
    await change(yard)
    assert [names.get(job_id, "new") for job_id, _ in await yard.cycle()][:1] == [placed]


@pytest.mark.parametrize("change", [nothing, a_sign_of_life])
@pytest.mark.usefixtures("names")
async def test_nodes_are_not_looked_at_again_where_nothing_has_changed(
    yard: Yard, looks: Looks, change: Callable[[Yard], Awaitable[None]]
) -> None:
    await change(yard)
    report = await yard.run_cycle(await yard.lease())
    assert looks.count == 0
    assert report.blocked is not None, "whoever waits is told all the same"


async def later(yard: Yard) -> None:
    """Shares change by time alone."""
    yard.clock.seconds += 10


async def a_clock_that_was_put_back(yard: Yard) -> None:
    yard.clock.seconds -= 1


async def an_end_on_a_closed_node(yard: Yard) -> None:
    """Whose tenant holds less now, and so may be first."""
    [work] = await yard.open_work(OTHER)
    await yard.end(work.attempt.id)


@pytest.mark.parametrize("change", [later, a_clock_that_was_put_back, an_end_on_a_closed_node])
@pytest.mark.usefixtures("names")
async def test_nodes_are_looked_at_again_where_shares_may_have_changed(
    yard: Yard, looks: Looks, change: Callable[[Yard], Awaitable[None]]
) -> None:
    await close(yard, is_closed=False)
    assert await yard.cycle() != []
    await close(yard, is_closed=True)
    assert await yard.cycle() == []
    looks.count = 0
    await yard.cycle()
    assert looks.count == 0
    await change(yard)
    await yard.cycle()
    assert looks.count > 0


@pytest.mark.usefixtures("names")
async def test_who_begins_to_lead_decides_by_itself(yard: Yard, looks: Looks) -> None:
    await yard.run_cycle(await yard.lease(ttl_s=0))
    assert looks.count == 0
    await yard.run_cycle(await yard.lease(holder="proc_2"))
    assert looks.count > 0
