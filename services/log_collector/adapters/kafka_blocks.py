"""The `BlockPublisher` port: stored blocks on `modelyard.container.logs.v1`.

A block goes out as it lies on the disk, zstd(LogBlock), with the attempt as its key. The same block
has the same event id however often it is sent, and no other block has it: what a loss of power took
is read again and may be cut into other blocks.
"""

from collections.abc import Sequence
from typing import Final

from services.chassis.clock import Clock
from services.chassis.events.ports import Headers, Producer, Record
from services.log_collector import telemetry
from services.log_collector.use_cases.ports import PublishableBlock

TOPIC: Final = "modelyard.container.logs.v1"
CONTENT_TYPE: Final = "application/vnd.modelyard.logblock+zstd"


class KafkaBlockPublisher:
    """Sends blocks through the process's producer."""

    def __init__(self, producer: Producer, *, source: str, clock: Clock) -> None:
        self._producer = producer
        self._source = source
        self._clock = clock

    async def publish(self, blocks: Sequence[PublishableBlock]) -> Sequence[Exception | None]:
        """Send in order; return for each block None or why it isn't acknowledged."""
        outcomes = await self._producer.send_all(
            [
                Record(TOPIC, block.attempt_id.encode(), block.payload, self._headers(block))
                for block in blocks
            ]
        )
        for outcome in outcomes:
            telemetry.BLOCKS_PUBLISHED.labels("failed" if outcome else "acknowledged").inc()
        return outcomes

    def _headers(self, block: PublishableBlock) -> Headers:
        attributes = {
            "ce_id": f"{block.attempt_id}/{block.first_sequence}-{block.last_sequence}",
            "ce_source": self._source,
            "ce_specversion": "1.0",
            "ce_type": "modelyard.log-block.stored.v1",
            "ce_subject": block.attempt_id,
            "ce_time": self._clock.now().isoformat(),
            "ce_dataschema": "modelyard.logs.v1.LogBlock",
            "ce_tenant": block.tenant,
            "content-type": CONTENT_TYPE,
            "first-sequence": str(block.first_sequence),
            "record-count": str(block.record_count),
        }
        return tuple((name, value.encode()) for name, value in attributes.items())
