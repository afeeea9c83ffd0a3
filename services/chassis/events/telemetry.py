"""Names of what the event machinery measures. Labels are bounded: topics, groups, outcomes."""

from contextlib import suppress
from typing import Final

from services.chassis.events.ports import TopicPartition
from services.chassis.telemetry.metrics import counter, gauge, histogram

RECORDS_SENT: Final = counter(
    "modelyard_events_records_sent",
    help="Records that producers were asked to send, by how that ended.",
    labels=["topic", "outcome"],
)
PRODUCERS_REBUILT: Final = counter(
    "modelyard_events_producers_rebuilt",
    help="Producer sessions given up: a fatal error, an overdue acknowledgement, lost brokers.",
)
CONSUMERS_REBUILT: Final = counter(
    "modelyard_events_consumers_rebuilt",
    help="Group members replaced because no broker would ever answer them again.",
)
EVENTS_HANDLED: Final = counter(
    "modelyard_events_handled",
    help="Records brought to an end by a consumer: done, duplicate, skipped, dead_lettered.",
    labels=["group", "topic", "outcome"],
)
EVENT_RETRIES: Final = counter(
    "modelyard_events_retries",
    help="Times that a record was put off by a failure.",
    labels=["group", "topic"],
)
EVENT_SECONDS: Final = histogram(
    "modelyard_events_handling",
    help="Time from a record's turn to its end, back-off included.",
    unit="seconds",
    labels=["group", "topic"],
)
CONSUMER_LAG: Final = gauge(
    "modelyard_events_lag_records",
    help="Records between the group's position and the partition's end.",
    labels=["group", "topic", "partition"],
)
EVENTS_PROJECTED: Final = counter(
    "modelyard_events_projected",
    help="Records read into an in-memory projection: done, failed, undecodable.",
    labels=["topic", "outcome"],
)
SWEEPS: Final = counter(
    "modelyard_events_sweeps",
    help="Readings of an owner's whole list beside its events: done, failed.",
    labels=["what", "outcome"],
)


def forget_lag(group: str, origin: TopicPartition) -> None:
    """Stop reporting the lag of a partition that is no longer this process's."""
    with suppress(KeyError):
        CONSUMER_LAG.remove(group, *map(str, origin))
