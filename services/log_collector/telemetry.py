"""The log collector's own names of metrics and spans.

Owns: what is counted and how spans are called. Labels are bounded: ids go on spans, never on
metrics.
"""

from typing import Final

from services.chassis.telemetry.metrics import counter, gauge
from services.chassis.telemetry.tracing import record_span
from services.log_collector.domain.log_stream import LogStream

BYTES_READ: Final = counter(
    "modelyard_log_collector_read", unit="bytes", help="Bytes read from containers' log files."
)
RECORDS_COLLECTED: Final = counter(
    "modelyard_log_collector_records", help="Records numbered and on their way into the store."
)
RECORDS_MARKED: Final = counter(
    "modelyard_log_collector_records_marked",
    help="Records that stand for a cut line, bytes that are no record, or output that is missing.",
    labels=("mark",),
)
STREAMS_COLLECTED: Final = gauge(
    "modelyard_log_collector_streams", help="Streams that are being collected."
)
LAG: Final = gauge(
    "modelyard_log_collector_lag",
    unit="bytes",
    help="Bytes that containers have written and that are not yet read.",
)
BLOCKS_PUBLISHED: Final = counter(
    "modelyard_log_collector_blocks_published",
    help="Blocks that were sent to Kafka, by what became of them.",
    labels=("outcome",),
)
FOLLOWERS: Final = gauge("modelyard_log_collector_followers", help="Open follow streams.")


def record_collected(stream: LogStream) -> None:
    """Write the span of a stream that has been completed, in its job's or deployment's trace."""
    if stream.completed_at is None:
        return
    record_span(
        "log stream collected",
        parent=stream.traceparent,
        started_at=stream.opened_at or stream.completed_at,
        ended_at=stream.completed_at,
        attributes={
            "modelyard.attempt_id": stream.attempt_id,
            "modelyard.owner_id": stream.owner_id,
            "modelyard.record_count": stream.record_count,
        },
    )
