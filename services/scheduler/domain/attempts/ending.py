"""Why an attempt ended, as it was known then.

Owns: the bounded set of reasons, and that their words can be stored. Leaves to the job what follows
from it, such as another attempt.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from services.scheduler.domain.jobs.failure import MESSAGE_CHARACTERS_MAX, JobFailure, storable
from services.scheduler.domain.jobs.job import StopRequest


class EndReason(StrEnum):
    """What an attempt was stopped for; of one that nobody stopped, what became of it."""

    SUCCEEDED = "succeeded"
    # Each cause of a stop.
    CANCELLED = "cancelled"
    RUN_TIMEOUT = "run_timeout"
    SUSPENDED = "suspended"
    DRAINED = "drained"
    PREEMPTED = "preempted"
    TASK_FAILED = "task_failed"
    # Each reason of a failure but `queue_timeout`, which no attempt has.
    EXIT_CODE = "exit_code"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    OUTPUTS = "outputs"
    START = "start"
    RUNTIME_ERROR = "runtime_error"
    START_TIMEOUT = "start_timeout"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class AttemptEnding:
    """Why an attempt ended; `message` is for people, and may come from its program."""

    reason: EndReason
    message: str

    @classmethod
    def succeeded(cls) -> "AttemptEnding":
        """Return that it left what it should."""
        return cls(EndReason.SUCCEEDED, "exit code 0")

    @classmethod
    def stopped(cls, stop: StopRequest) -> "AttemptEnding":
        """Return for what it was stopped, whatever its program made of that."""
        return cls(EndReason(stop.cause), stop.reason)

    @classmethod
    def failed(cls, failure: JobFailure) -> "AttemptEnding":
        """Return what went wrong."""
        return cls(EndReason(failure.reason), failure.message)

    def bounded(self) -> "AttemptEnding":
        """Return it with a message that fits, as a failure's."""
        return replace(self, message=storable(self.message)[:MESSAGE_CHARACTERS_MAX])
