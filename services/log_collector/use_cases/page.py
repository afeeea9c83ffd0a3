"""Records as they are handed to a reader: bounded in number and in size."""

from dataclasses import dataclass, field
from typing import Final

from services.log_collector.domain.log_stream import LogStream
from services.log_collector.domain.records import LogRecord

PAGE_CHARACTERS_MAX: Final = 512 * 1024
"""At most four bytes each, and one record of a megabyte on top: below a message's 4 MiB."""


@dataclass(slots=True)
class Page:
    """Records of an owner's attempts, in order."""

    record_count_max: int
    records: list[tuple[LogStream, LogRecord]] = field(default_factory=list)
    _character_count: int = 0

    def add(self, stream: LogStream, record: LogRecord) -> None:
        """Add the next record."""
        assert not self.is_full, "a full page takes no more"
        self.records.append((stream, record))
        self._character_count += len(record.text)

    @property
    def is_full(self) -> bool:
        """Tell whether the next record belongs on another page."""
        return (
            len(self.records) >= self.record_count_max
            or self._character_count >= PAGE_CHARACTERS_MAX
        )
