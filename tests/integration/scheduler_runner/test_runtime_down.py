"""A container runtime that goes away and comes back, or comes back as another one."""

from datetime import timedelta

import pytest

from services.scheduler.domain.attempts.attempt import AttemptState
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.jobs.failure import FailureReason
from services.scheduler.domain.jobs.job import JobState
from services.scheduler.domain.resources import Resources
from tests.integration.scheduler_runner.runner import LIMITS, NODE, open_runner
from tests.integration.scheduler_runner.test_adoption import ENDS_WHEN_TOLD, ONCE
from tests.integration.scheduler_runner.yard import RunnerYard

pytestmark = pytest.mark.slow


async def node(yard: RunnerYard) -> Node:
    async with yard.store.system(because="test") as tx:
        return await tx.nodes.get(NODE)


async def becomes_down(yard: RunnerYard, *, is_down: bool) -> None:
    async def is_told() -> bool:
        return ((await node(yard)).runtime_down_since is not None) == is_down

    await yard.sees(is_told, what="the node's row tells it")


async def test_jobs_wait_and_run_on_while_the_runtime_is_away(yard: RunnerYard) -> None:
    async with yard.running():
        runs = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        yard.runner.runtime.is_away = True
        early = await yard.a_job("pass")  # before the row can tell, or just after
        await becomes_down(yard, is_down=True)
        queued = await yard.a_job("pass")
        (yard.work_folder(await yard.attempt(runs)) / "end").touch()
        down_since = (await node(yard)).runtime_down_since
        assert down_since is not None

        async def is_longer_away_than_a_start_may_take() -> bool:
            return (await node(yard)).heartbeat_at > down_since + LIMITS.start_wait_max

        await yard.sees(is_longer_away_than_a_start_may_take, what="it is away for long")
        assert (await yard.job(runs)).state is JobState.RUNNING
        assert (await yard.job(early)).state in {
            JobState.QUEUED,
            JobState.ADMITTED,
            JobState.STARTING,
        }
        assert (await yard.job(queued)).state is JobState.QUEUED

        yard.runner.runtime.is_away = False
        await becomes_down(yard, is_down=False)
        await yard.cycle()
        for job in (runs, early, queued):
            assert (await yard.becomes(job, JobState.SUCCEEDED)).failure is None
            assert await yard.event_types(job.id) == ONCE

    assert await yard.used() == Resources()


async def test_node_that_comes_back_with_another_runtime_has_lost_what_ran(
    yard: RunnerYard,
) -> None:
    async with yard.running_elsewhere() as runner:
        job = await yard.becomes(await yard.a_job(ENDS_WHEN_TOLD), JobState.RUNNING)
        attempt = await yard.attempt(job)
        runner.kill()
        await runner.wait()
    await yard.runner.runtime.stop(attempt.container_name, grace=timedelta(0))

    async with (
        open_runner(yard.engine, yard.root, containers="others") as yard.runner,
        yard.running(),
    ):
        job = await yard.becomes(job, JobState.FAILED)

    assert job.failure is not None
    assert job.failure.reason is FailureReason.LOST
    assert (await yard.attempt(job)).state is AttemptState.LOST
    assert await yard.used() == Resources()
