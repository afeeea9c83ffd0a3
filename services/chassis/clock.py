"""The one source of time.

Owns: what "now" is. Everything that waits or stamps takes a `Clock`, so that tests and simulations
can give their own. Always holds: `now()` is aware, in UTC; `monotonic()` never goes back.
"""

import time
from datetime import UTC, datetime
from typing import Final, Protocol

_MONOTONIC: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class Clock(Protocol):
    """Wall time for stamps, monotonic time for waits."""

    def now(self) -> datetime:
        """Return the wall clock's time, aware, UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds from an arbitrary start that never go back."""
        ...


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        """Return the machine's wall time, aware, UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Return the machine's monotonic seconds, those in which it slept among them.

        Else who holds a lease would wake from a machine's sleep as if no time had passed.
        """
        return time.clock_gettime(_MONOTONIC)
