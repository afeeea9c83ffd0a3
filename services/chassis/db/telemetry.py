"""Names of what the database side measures; each service has one database, so it goes unnamed."""

from typing import Final

from services.chassis.telemetry.metrics import counter, gauge, histogram

OUTBOX_PUBLISHED: Final = counter(
    "modelyard_outbox_published", help="Outbox rows acknowledged by the broker and marked."
)
OUTBOX_FAILED: Final = counter(
    "modelyard_outbox_failed", help="Outbox rows not acknowledged by the broker; they go again."
)
OUTBOX_OLDEST: Final = gauge(
    "modelyard_outbox_oldest_unpublished",
    unit="seconds",
    help="Age of the oldest row that this process has yet to send; 0 when there is none.",
)
OUTBOX_LAG: Final = histogram(
    "modelyard_outbox_lag",
    unit="seconds",
    help="From a fact's time to its acknowledgement, for the oldest row of each batch.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
OUTBOX_STOPPED_KEYS: Final = gauge(
    "modelyard_outbox_stopped_keys",
    help="Keys whose first unpublished row the broker has not taken; they are tried again.",
)
ROWS_EXPIRED: Final = counter(
    "modelyard_database_rows_expired",
    help="Rows deleted after their time: the outbox's, inbox's and such.",
    labels=["table"],
)
