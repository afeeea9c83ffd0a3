"""Which attempts have blocks that Kafka lacks."""

from services.log_collector.use_cases.signal import Signal


class Unpublished:
    """A set of attempts with a wake-up; never larger than the number of attempts stored here."""

    def __init__(self) -> None:
        self.grown = Signal()
        self._attempt_ids: dict[str, None] = {}

    def add(self, attempt_id: str) -> None:
        """Say that blocks of this attempt were stored."""
        self._attempt_ids[attempt_id] = None
        self.grown.fire()

    def take(self, count_max: int) -> list[str]:
        """Return attempts in the order of their first unpublished block, and forget them here."""
        taken = list(self._attempt_ids)[:count_max]
        for attempt_id in taken:
            del self._attempt_ids[attempt_id]
        return taken
