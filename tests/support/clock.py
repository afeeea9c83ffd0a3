"""Time that tests move."""

from datetime import datetime, timedelta

from typing_extensions import override

from services.chassis.clock import SystemClock


class MovedClock(SystemClock):
    """The machine's clock, and what the test adds to it."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    @override
    def now(self) -> datetime:
        return super().now() + self.ahead

    @override
    def monotonic(self) -> float:
        return super().monotonic() + self.ahead.total_seconds()
