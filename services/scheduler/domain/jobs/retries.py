"""After which failures a job is tried again, how often, and how soon.

Owns: the reasons for which a job ends that are worth another try, and the pauses before it. Leaves
to `use_cases.attempts` that an attempt is closed at its runtime before the next one is admitted,
and the bound on all retries of a tenant.

The pauses double from five seconds on. Up to half of a pause is added by chance, so that jobs that
failed together do not come back together.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.jobs.failure import FailureReason

RETRIES_MAX: Final = 10
EXIT_CODES_MAX: Final = 32
BACKOFF_MIN: Final = timedelta(seconds=5)
BACKOFF_MAX: Final = timedelta(minutes=5)
_JITTER: Final = 0.5


ALWAYS_RETRIED: Final = frozenset(
    {FailureReason.LOST, FailureReason.RUNTIME_ERROR, FailureReason.START_TIMEOUT}
)
"""The platform's failures: the program has not shown that it can't succeed."""
RETRIED_IF_ASKED: Final = frozenset(
    {
        FailureReason.KILLED,
        FailureReason.OUT_OF_MEMORY,
        FailureReason.OUTPUTS,
        FailureReason.RUN_TIMEOUT,
    }
)


@dataclass(frozen=True, slots=True)
class JobRetries:
    """When a job is tried again; a wrong description never is."""

    count_max: int = 3
    """After its first attempt; 0: never."""
    reasons: tuple[FailureReason, ...] = ()
    """Besides those that always are, out of `RETRIED_IF_ASKED`."""
    exit_codes: tuple[int, ...] = ()
    """The program's own that mean that another try may succeed."""

    def check(self, *, field: str) -> None:
        """Raise InvalidArgument naming the first field that is out of bounds."""
        if not 0 <= self.count_max <= RETRIES_MAX:
            raise InvalidArgument(f"{field}.count_max", f"must be between 0 and {RETRIES_MAX}")
        if len(self.exit_codes) > EXIT_CODES_MAX:
            raise InvalidArgument(f"{field}.exit_codes", f"must have 0 to {EXIT_CODES_MAX} entries")
        for place, code in enumerate(self.exit_codes):
            if not 1 <= code <= 255:
                raise InvalidArgument(f"{field}.exit_codes[{place}]", "must be between 1 and 255")

    def allow(
        self, reason: FailureReason, exit_code: int | None = None, *, retry_count: int
    ) -> bool:
        """Tell whether what failed so, after so many retries, is worth another one."""
        if retry_count >= self.count_max:
            return False
        if reason is FailureReason.EXIT_CODE:
            return exit_code in self.exit_codes
        return reason in ALWAYS_RETRIED or reason in self.reasons


def retry_reasons(texts: Sequence[str], *, field: str) -> tuple[FailureReason, ...]:
    """Return the reasons of these names, once each; raises InvalidArgument."""
    known = {str(reason): reason for reason in RETRIED_IF_ASKED}
    for place, text in enumerate(texts):
        if text not in known:
            raise InvalidArgument(f"{field}[{place}]", f"must be one of {', '.join(sorted(known))}")
    return tuple(sorted({known[text] for text in texts}))


def backoff(retry_count: int, *, chance: float) -> timedelta:
    """Return the pause before so manieth a retry, 1 for the first; `chance` is 0..1."""
    assert retry_count >= 1, "the first attempt is no retry"
    doubled = min(BACKOFF_MIN * (1 << min(retry_count - 1, RETRIES_MAX)), BACKOFF_MAX)
    return doubled * (1 + _JITTER * chance)
