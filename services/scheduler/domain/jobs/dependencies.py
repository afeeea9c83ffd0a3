"""What other jobs' ends mean for one that waits for them.

Owns: which end is what was waited for, which never will be, and the words for both. Leaves to
`use_cases.jobs` where the others' states come from. An end is final, so it does not matter when it
is looked at; and no job waits for itself, however indirectly, since only what there is can be
named, and a description never changes (ADR-0036).
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Final

from services.chassis.errors import FailedPrecondition, InvalidArgument
from services.scheduler.domain.identities import JobId
from services.scheduler.domain.jobs.job import ENDED, Job, JobState, JobTransitioned
from services.scheduler.domain.jobs.spec import DependencyCondition, JobDependency, JobSpec

States = Mapping[JobId, JobState]
"""Where the jobs are that are waited for; who is missing does not exist for the tenant."""
_ENDS: Final[Mapping[JobState | None, str]] = {
    JobState.SUCCEEDED: "has succeeded",
    JobState.FAILED: "has failed",
    JobState.CANCELLED: "was cancelled",
    None: "is gone",
}


def needs_of(spec: JobSpec, states: States) -> tuple[JobDependency, ...]:
    """Return what a new job has to wait for; what has ended as it should counts at once.

    Raises InvalidArgument for a job that there is not, FailedPrecondition for one that has ended in
    another way.
    """
    for place, needed in enumerate(spec.after):
        field = f"spec.after[{place}].job_id"
        if needed.job_id not in states:
            raise InvalidArgument(field, f"there is no job {needed.job_id}")
        state = states[needed.job_id]
        if _is_broken(needed, state):
            raise FailedPrecondition(
                f"{field}: job {needed.job_id} {_ENDS[state]}, so it never succeeds",
                detail={"field": field, "kind": "job", "id": needed.job_id, "state": state},
            )
    return tuple(needed for needed in spec.after if not _is_met(needed, states[needed.job_id]))


def after_ends(job: Job, states: States, *, at: datetime) -> tuple[Job, JobTransitioned | None]:
    """Return a job that waits for others as it is once some of them have ended.

    It waits for the rest, or for its turn, which is no fact; or it is CANCELLED, since what it
    waits for can't come any more.
    """
    left = []
    by = job.reason
    for needed in job.needs:
        state = states.get(needed.job_id)
        if _is_broken(needed, state):
            return job.cancelled(reason=_told(needed, state, waits="waits"), at=at)
        if _is_met(needed, state):
            by = _told(needed, state, waits="waited")
        else:
            left.append(needed)
    return job.released(tuple(left), by=by, at=at), None


def _is_met(needed: JobDependency, state: JobState | None) -> bool:
    if needed.condition is DependencyCondition.SUCCESS:
        return state is JobState.SUCCEEDED
    return state in ENDED


def _is_broken(needed: JobDependency, state: JobState | None) -> bool:
    """Tell whether this can't be met any more: also by who is gone, of whom no end is known."""
    return state is None or (state in ENDED and not _is_met(needed, state))


def _told(needed: JobDependency, state: JobState | None, *, waits: str) -> str:
    return f"job {needed.job_id}, which it {waits} for, {_ENDS[state]}"
