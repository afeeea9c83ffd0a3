"""The newest output of the streams that are being collected, in memory, and who waits for it.

Stored blocks and what is kept here are one sequence space: a tail always holds all that isn't
readable from the store yet, so a reader that finds its place evicted finds it in the store.

Bounded: a tail keeps at most `tail_characters_max` beyond what isn't stored yet, which the
collector bounds; readers pull, so that a slow one holds nothing back.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final
from weakref import WeakValueDictionary

from services.log_collector.domain.log_stream import LogStream
from services.log_collector.domain.records import Batch
from services.log_collector.use_cases.signal import Signal

TAIL_CHARACTERS_MAX: Final = 256 * 1024


class Tail:
    """The newest batches of one stream."""

    def __init__(self, *, stored_through: int, changed: Signal) -> None:
        self.stored_through = stored_through
        self.last_sequence = stored_through
        self._batches: deque[Batch] = deque()
        self._character_count = 0
        self._changed = changed

    def append(self, batch: Batch) -> None:
        """Show records to followers; they are numbered but perhaps not stored yet."""
        assert batch.first_sequence == self.last_sequence + 1, "records follow each other"
        self._batches.append(batch)
        self._character_count += batch.lines.character_count
        self.last_sequence = batch.last_sequence
        self._changed.fire()

    def stored(self, through: int) -> None:
        """Let go of what the store can give, beyond the bound."""
        self.stored_through = through
        while (
            self._character_count > TAIL_CHARACTERS_MAX
            and self._batches[0].last_sequence <= self.stored_through
        ):
            self._character_count -= self._batches.popleft().lines.character_count

    def after(self, sequence: int) -> Sequence[Batch] | None:
        """Return the records after a sequence, or None when the store has to be asked."""
        first_kept = self._batches[0].first_sequence if self._batches else self.last_sequence + 1
        if sequence + 1 < first_kept:
            return None
        return [batch.after(sequence) for batch in self._batches if batch.last_sequence > sequence]


class LiveOutput:
    """All tails of this process, and a signal for each owner that somebody follows."""

    def __init__(self) -> None:
        self.streams_version = 0
        """Grows with each change of a stream."""
        self.streams_changed = Signal()
        self.is_draining = False
        self._tails: dict[str, Tail] = {}
        self._signals: WeakValueDictionary[str, Signal] = WeakValueDictionary()

    def signal_of(self, owner_id: str) -> Signal:
        """Return what fires on new records and on changes of an owner's streams."""
        return self._signals.setdefault(owner_id, Signal())

    def stream_changed(self, stream: LogStream) -> None:
        """Tell collectors and followers that a stream has moved; call it after the commit."""
        self.streams_version += 1
        self.streams_changed.fire()
        self.signal_of(stream.owner_id).fire()

    def drain(self) -> None:
        """Let all who follow come to a point to resume from, and end."""
        self.is_draining = True
        for signal in list(self._signals.values()):
            signal.fire()

    def open_tail(self, stream: LogStream, *, stored_through: int) -> Tail:
        """Begin the tail of a stream that is being collected from now on."""
        tail = Tail(stored_through=stored_through, changed=self.signal_of(stream.owner_id))
        self._tails[stream.attempt_id] = tail
        return tail

    def close_tail(self, stream: LogStream) -> None:
        """Forget a tail; what isn't stored of it will be read and numbered again."""
        del self._tails[stream.attempt_id]

    def tail(self, attempt_id: str) -> Tail | None:
        """Return the tail of a stream that is being collected here."""
        return self._tails.get(attempt_id)
