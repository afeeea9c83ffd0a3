"""A queue of a tenant: a name that jobs give, and whether jobs of that name are admitted.

Owns: what can be a queue's name, and the words of a pause. Nobody makes a queue: it is there while
a job of it has not ended, or while it is paused. All jobs stand in one line, whatever their queues
are (ADR-0035).
"""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from services.chassis.errors import InvalidArgument

DEFAULT_QUEUE: Final = "default"
"""Of jobs that name none."""
QUEUE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PAUSES_MAX: Final = 100
"""Queues of one tenant that are paused at a time."""


@dataclass(frozen=True, slots=True)
class Pause:
    """That nothing of a queue is admitted, since when and why."""

    queue: str
    at: datetime
    reason: str

    @property
    def why_waiting(self) -> str:
        """Say why nothing of the queue is admitted."""
        return f"its queue {self.queue} is paused since {self.at:%Y-%m-%dT%H:%M:%SZ}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue as its tenant sees it."""

    name: str
    pause: Pause | None = None
    queued_count: int = 0
    """Its jobs in line."""
    running_count: int = 0
    """Its jobs with capacity, also those that are asked to stop."""


def check_queue_name(name: str, *, field: str) -> None:
    """Raise InvalidArgument naming `field` for what can be no queue's name."""
    if not QUEUE_NAME.fullmatch(name):
        raise InvalidArgument(
            field,
            "must be a queue's name: 1 to 63 of a-z, 0-9 and '-', a letter or digit first, "
            "such as nightly",
        )
