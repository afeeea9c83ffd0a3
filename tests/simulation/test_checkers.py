"""What a checker notices that no planted bug is made for."""

from dataclasses import replace
from random import Random

import pytest

from services.chassis.clock import SystemClock
from services.scheduler.domain.attempts.attempt import Attempt, AttemptState
from services.scheduler.domain.attempts.ending import AttemptEnding
from services.scheduler.domain.attempts.runtime import (
    ContainerExit,
    ContainerPhase,
    ContainerStatus,
)
from services.scheduler.domain.identities import AttemptId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Checkpoint, Job, JobState
from services.scheduler.domain.jobs.retries import JobRetries
from tests.simulation.checkers import Checkers
from tests.simulation.database import Commit, Database, Place
from tests.simulation.engine import Container, Engine
from tests.simulation.scheduler_store import ATTEMPTS, JOBS, NODES, JobRow
from tests.simulation.wire import Violation
from tests.unit.scheduler.builders import NODE, NOW, a_job, a_node, a_spec, an_attempt, resources

FAILURE = JobFailure(FailureReason.EXIT_CODE, "exit code 1", exit_code=1)


class World:
    """A scheduler's rows and one node's engine, with checkers that look once they are told to."""

    def __init__(self) -> None:
        self.is_looked_at = False
        clock = SystemClock()
        self.database = Database("scheduler", clock, self._committed)
        self.engine = Engine(clock, Random(0), lambda *_: None, allows_mixed_tenants=True)
        registry = Database("registry", clock, lambda *_: None)
        self.checkers = Checkers(
            self.database, registry, {NODE: self.engine}, {}, preempts=False, has_stopped_s=0
        )

    def commit(self, job: Job, *attempts: Attempt) -> None:
        rows: dict[Place, object] = {(ATTEMPTS.name, each.id): each for each in attempts}
        self.database.apply({(JOBS.name, job.id): JobRow(job, 1), **rows}, None)

    def exited(self, attempt: Attempt, *, code: int) -> Attempt:
        """Let a program end; return its attempt as one that is recorded so."""
        name, phase = attempt.container_name, ContainerPhase.EXITED
        status = ContainerStatus(name, phase, exit=ContainerExit(code, None, None, NOW, NOW))
        self.engine.containers[name] = Container(None, status, status)
        ending = AttemptEnding.failed(FAILURE) if code else AttemptEnding.succeeded()
        ended, _ = attempt.exited(code, ending, at=NOW)
        return ended

    def _committed(self, database: Database, commit: Commit) -> None:
        if self.is_looked_at:
            self.checkers.committed(database, commit)


def the_last_task_fails(world: World, *, codes_tried_again: tuple[int, ...]) -> None:
    """Let a job of two tasks be tried again after the first has succeeded and the last failed."""
    started = replace(an_attempt(), state=AttemptState.STARTED, version=2, task_count=2)
    first = world.exited(started, code=0)
    last = replace(started, id=AttemptId("att_2"), task=1)
    retries = JobRetries(count_max=3, exit_codes=codes_tried_again)
    job = a_job(
        spec=a_spec(task_count=2, retries=retries),
        state=JobState.RUNNING,
        attempt_number=1,
        attempt_id=first.id,
        node_id=NODE,
        checkpoint=Checkpoint(1, ()),
    )
    world.database.apply({(NODES.name, NODE): a_node(capacity=resources())}, None)
    world.commit(job, first, last)
    world.is_looked_at = True
    back, _ = job.retried(FAILURE, at=NOW, chance=0.0)
    world.commit(back, world.exited(last, code=1))


async def test_a_job_that_is_tried_again_after_its_last_tasks_own_failure_has_to_ask_for_it() -> (
    None
):
    the_last_task_fails(World(), codes_tried_again=(1,))
    with pytest.raises(Violation, match="tried again after exit code 1, unasked"):
        the_last_task_fails(World(), codes_tried_again=(2,))
