"""What the Kafka adapters share: the connection's settings and librdkafka's log.

Always holds: an outage costs a few log lines a minute, not one a second and connection.
"""

import logging
import time
from typing import Any, Final

from typing_extensions import override

from services.chassis.settings import KafkaSettings

_REPEAT_INTERVAL_S: Final = 30.0


class _Sparse(logging.Filter):
    """Passes one line of a kind (FAIL, REQTMOUT, …) an interval."""

    def __init__(self) -> None:
        super().__init__()
        self._due: dict[str, float] = {}  # as many kinds as librdkafka has, some tens

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        kind, now = record.getMessage().split(" ", 1)[0], time.monotonic()
        if now < self._due.get(kind, 0.0):
            return False
        self._due[kind] = now + _REPEAT_INTERVAL_S
        return True


def _make_log() -> logging.Logger:
    log = logging.getLogger("modelyard.kafka")
    log.addFilter(_Sparse())
    return log


LOG: Final = _make_log()


def connection(settings: KafkaSettings, *, client_id: str) -> dict[str, Any]:
    """Return the settings of every client: who it is, and that it is soon back after an outage."""
    return {
        "bootstrap.servers": settings.bootstrap_servers,
        "client.id": client_id,
        "socket.timeout.ms": 10_000,
        "reconnect.backoff.max.ms": 1_000,
    }
