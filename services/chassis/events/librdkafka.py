"""What the Kafka adapters share: the connection's settings, librdkafka's log, and lost brokers.

Always holds: an outage costs a few log lines a minute, not one a second and connection.
"""

import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeAlias

from confluent_kafka import Consumer, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from typing_extensions import override

from services.chassis.settings import KafkaSettings

_REPEAT_INTERVAL_S: Final = 30.0
_REACH_INTERVAL_S: Final = 5.0
_ANSWER_S: Final = 1.0
_SOCKET_TIMEOUT_MS: Final = 10_000
_PATIENCE_S: Final = 12.0
"""More than a connection may be silent: one that a broker neglects has been replaced by then."""

Client: TypeAlias = AdminClient | Consumer | Producer
IsLost: TypeAlias = Callable[[Client, str | None], bool]
"""Whether brokers answer, but never again this client, about a topic of its own (None: about all).
Asked often, on the client's own thread."""


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
        "socket.timeout.ms": _SOCKET_TIMEOUT_MS,
        "reconnect.backoff.max.ms": 1_000,
    }


class LostBrokers:
    """Tells a client that has lost all brokers for good from brokers that are away.

    A broker that ends in order, or that was frozen for longer than its session, names no broker at
    all for a moment, not even itself. librdkafka (2.16) lets go of every broker that an answer does
    not name, and bootstraps again when it has none left, unless the timer for that is stopped by
    the very answer that called for it. Then the client asks nobody anything for as long as it
    lives, without an error (measured: 2 of 40 consumers at one orderly stop of the only broker).

    Nothing that the client says shows it, so it is asked from time to time, and where it has no
    answer, a new client beside it: one that finds no broker either proves nothing. Nor does a
    question that stands behind a slow request on the client's own connection, so it gets a last one
    with more patience.
    """

    def __init__(
        self,
        connection: dict[str, Any],
        *,
        interval_s: float = _REACH_INTERVAL_S,
        answer_s: float = _ANSWER_S,
        patience_s: float = _PATIENCE_S,
    ) -> None:
        self._connection = connection
        self._interval_s = interval_s
        self._answer_s = answer_s
        self._patience_s = patience_s
        self._next_at = time.monotonic() + interval_s

    def __call__(self, client: Client, topic: str | None) -> bool:
        """Ask, if it is time; where there is no answer, this takes as long as its patience."""
        if time.monotonic() < self._next_at:
            return False
        is_lost = (
            not _has_answer(client, topic, self._answer_s)
            and _has_answer(AdminClient(self._connection, logger=LOG), topic, self._answer_s)
            and not _has_answer(client, topic, self._patience_s)
        )
        self._next_at = time.monotonic() + self._interval_s
        return is_lost


def _has_answer(client: Client, topic: str | None, patience_s: float) -> bool:
    try:
        client.list_topics(topic, timeout=patience_s)
    except KafkaException:
        return False
    return True
