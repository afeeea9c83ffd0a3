"""Make room for a job in line by asking jobs of a smaller priority to stop."""

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from loguru import logger

from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import JobState, StopCause
from services.scheduler.domain.scheduling.line import Head
from services.scheduler.domain.scheduling.preemption import Running, choose_victims
from services.scheduler.telemetry import JOBS_PREEMPTED
from services.scheduler.use_cases.jobs.ask_to_stop import ask_to_stop
from services.scheduler.use_cases.one_by_one import one_by_one
from services.scheduler.use_cases.ports import Lease, UnitOfWork

REASON: Final = "made room for a job of a larger priority"
STOPS_MAX: Final = 200
"""Asked to stop in one pass, some milliseconds each, in which no cycle runs. A job of many tasks
may need more: the next pass asks the rest, and by then the first count as gone."""


@dataclass(frozen=True, slots=True)
class PreemptJobs:
    """Ask as few as needed to stop, with their grace; they go back in line (ADR-0038).

    Who could act late: a leader that was paused after it chose, with a picture of before. What
    refuses it: each stop holds the lease, and looks again whether the job is placed as it was, and
    whether the one that it makes room for still waits.
    """

    unit_of_work: UnitOfWork
    node_silence_max: timedelta

    async def __call__(self, lease: Lease, head: Head) -> int:
        """Run one pass for a job that has no room; returns how many were asked to stop."""
        # 1. Look, keeping nobody from anything. Nothing is told where nobody could be chosen.
        if (asked := await self._as_submitted(head)) is None:
            return 0
        head = asked
        async with self.unit_of_work.reading(because="any tenant's jobs may make room") as look:
            running = await look.attempts.running(preemptible_by=head.shape.priority)
            if not running:
                return 0
            # After what runs, as a cycle does: what ended in between is booked nowhere any more.
            nodes = await look.nodes.at_work(silence_max=self.node_silence_max)
        # 2. Choose, without touching anything.
        victims = choose_victims(head, nodes, running)[:STOPS_MAX]
        # 3. Each in a transaction of its own, in which it may have moved on.
        return sum(await one_by_one(victims, lambda victim: self._stop(lease, head, victim)))

    async def _as_submitted(self, head: Head) -> Head | None:
        """Return it without what waiting has added to its priority: nobody stops for that."""
        async with self.unit_of_work.system(because="any tenant's job may need room") as tx:
            found = await tx.jobs.some([JobId(head.id)])
        shapes = [replace(head.shape, priority=job.spec.priority) for job in found]
        return replace(head, shape=shapes[0]) if shapes else None

    async def _stop(self, lease: Lease, head: Head, victim: Running) -> bool:
        async with self.unit_of_work.system(because="preemption stops any tenant's job") as tx:
            await tx.hold(lease)
            job = await tx.jobs.get_any(JobId(victim.id))
            is_as_seen = job.is_placed and job.attempt_id == victim.attempt_id
            if not is_as_seen or job.priority >= head.shape.priority:
                return False
            waiting = await tx.jobs.some([JobId(head.id)])
            if not any(each.state is JobState.QUEUED for each in waiting):
                return False
            await ask_to_stop(tx, job, reason=REASON, cause=StopCause.PREEMPTED)
        # Told here, one by one: what keeps another victim from being asked keeps nothing of this.
        JOBS_PREEMPTED.inc()
        logger.info("job asked to make room", job_id=head.id, victim_id=victim.id)
        return True
