"""Why a job fails.

Owns: the bounded set of reasons, and that what a program left behind can be stored and sent.
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

MESSAGE_CHARACTERS_MAX: Final = 512
LAST_LINES_CHARACTERS_MAX: Final = 4 << 10


class FailureReason(StrEnum):
    """The bounded set of ways in which a job fails."""

    EXIT_CODE = "exit_code"
    KILLED = "killed"
    OUT_OF_MEMORY = "out_of_memory"
    RUN_TIMEOUT = "run_timeout"
    OUTPUTS = "outputs"
    START = "start"
    """What was asked for can't be run."""
    RUNTIME_ERROR = "runtime_error"
    """What was asked for could not be run here: its runtime or the registry was away too long."""
    START_TIMEOUT = "start_timeout"
    QUEUE_TIMEOUT = "queue_timeout"
    LOST = "lost"
    ELEMENTS = "elements"
    """Some of an array's elements have not succeeded."""


@dataclass(frozen=True, slots=True)
class JobFailure:
    """Why a job FAILED; `last_lines` is the end of its standard error."""

    reason: FailureReason
    message: str
    exit_code: int | None = None
    last_lines: str = ""

    def bounded(self) -> "JobFailure":
        """Return it with texts that fit; they come from the job, so they may hold anything."""
        return replace(
            self,
            message=storable(self.message)[:MESSAGE_CHARACTERS_MAX],
            last_lines=storable(self.last_lines)[-LAST_LINES_CHARACTERS_MAX:],
        )


def storable(text: str) -> str:
    """Return a text without what no database takes: NUL, and halves of surrogate pairs."""
    return text.encode(errors="replace").decode().replace("\0", "\ufffd")
