"""Names of what the database side measures. No labels: each service has one database."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

OUTBOX_PUBLISHED: Final = Counter(
    "modelyard_outbox_published", "Outbox rows acknowledged by the broker and marked."
)
OUTBOX_FAILED: Final = Counter(
    "modelyard_outbox_failed",
    "Outbox rows not acknowledged by the broker; they go again.",
)
OUTBOX_OLDEST_SECONDS: Final = Gauge(
    "modelyard_outbox_oldest_unpublished_seconds",
    "Age of the oldest row that this process should have sent; 0 when there is none.",
)
OUTBOX_LAG_SECONDS: Final = Histogram(
    "modelyard_outbox_lag_seconds",
    "From a fact's time to its acknowledgement, for the oldest row of each batch.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
OUTBOX_STOPPED_KEYS: Final = Gauge(
    "modelyard_outbox_stopped_keys",
    "Keys whose first unpublished row the broker has not taken; they are tried again.",
)
ROWS_EXPIRED: Final = Counter(
    "modelyard_database_rows_expired",
    "Outbox, inbox and idempotency rows deleted after their time.",
    ["table"],
)
