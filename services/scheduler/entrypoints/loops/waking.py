"""Which loops a committed fact wakes."""

from collections.abc import Collection
from dataclasses import dataclass

from services.chassis.waking import Waking
from services.scheduler.domain.attempts.attempt import (
    Attempt,
    AttemptState,
    AttemptTransitioned,
    Owner,
    OwnerKind,
)
from services.scheduler.domain.jobs.job import ENDED, ArrayElement, JobState, JobTransitioned
from services.scheduler.use_cases.ports import Fact


@dataclass(frozen=True, slots=True)
class Alarms:
    """The loops' alarms: a committed fact rings those of the loops that it may concern.

    Not all of them: each look is a transaction, and would run beside the one that is waited for.
    """

    scheduling: Waking
    deployments: Waking
    runner: Waking
    releases: Waking

    def ring(self, fact: Fact) -> None:
        """Wake whoever may have something to do now."""
        for waking in self._concerned(fact):
            waking.wake()

    def _concerned(self, fact: Fact) -> Collection[Waking]:
        match fact:
            case JobTransitioned(state=JobState.QUEUED, version=1, element=ArrayElement()):
                return ()  # admitted in the same commit
            case JobTransitioned(state=JobState.QUEUED):
                return (self.scheduling,)
            case JobTransitioned(state=JobState.ADMITTED | JobState.STARTING | JobState.RUNNING):
                return (self.runner,)
            case JobTransitioned(state=state) if state in ENDED:
                return (self.scheduling, self.runner, self.releases)
            case AttemptTransitioned(
                attempt=Attempt(state=AttemptState.CREATED | AttemptState.STARTED)
            ):
                return (self.runner,)
            case (
                JobTransitioned()
                | AttemptTransitioned(attempt=Attempt(owner=Owner(kind=OwnerKind.JOB)))
            ):
                return (self.scheduling, self.runner)  # an end may leave room for the next one
        return (self.scheduling, self.deployments, self.runner)
