"""Names of what the event machinery measures. Labels are bounded: topics, groups, outcomes."""

from contextlib import suppress
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from services.chassis.events.ports import TopicPartition

RECORDS_SENT: Final = Counter(
    "modelyard_events_records_sent",
    "Records that producers were asked to send, by how that ended.",
    ["topic", "outcome"],
)
PRODUCERS_REBUILT: Final = Counter(
    "modelyard_events_producers_rebuilt",
    "Producer sessions given up after a fatal error or an overdue acknowledgement.",
)
EVENTS_HANDLED: Final = Counter(
    "modelyard_events_handled",
    "Records that a consumer has brought to an end: done, duplicate, skipped or dead-lettered.",
    ["group", "topic", "outcome"],
)
EVENT_RETRIES: Final = Counter(
    "modelyard_events_retries",
    "Times that a record was put off by a transient failure.",
    ["group", "topic"],
)
EVENT_SECONDS: Final = Histogram(
    "modelyard_events_handling_seconds",
    "Time from a record's turn to its end, back-off included.",
    ["group", "topic"],
)
CONSUMER_LAG: Final = Gauge(
    "modelyard_events_lag_records",
    "Records between the group's position and the partition's end.",
    ["group", "topic", "partition"],
)


def forget_lag(group: str, origin: TopicPartition) -> None:
    """Stop reporting the lag of a partition that is no longer this process's."""
    with suppress(KeyError):
        CONSUMER_LAG.remove(group, *map(str, origin))
