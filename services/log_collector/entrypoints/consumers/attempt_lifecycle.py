"""`modelyard.attempt.lifecycle.v1`: which streams to expect, to collect, and to bring to an end.

Owns: the table of event types that the collector acts on. Events of one attempt come in order, but
a redelivered or a dead-lettered one may be missing or late, so each says all that is needed.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from google.protobuf.message import DecodeError
from modelyard.scheduler.v1 import job_events_pb2 as pb

from services.chassis.errors import InvalidArgument
from services.chassis.events.consumer import Handler
from services.chassis.events.envelope import Event
from services.log_collector.domain.log_stream import LogLocation, OwnerKind
from services.log_collector.use_cases.end_stream import EndStream
from services.log_collector.use_cases.expect_stream import AttemptEvent, ExpectStream
from services.log_collector.use_cases.open_stream import OpenStream

TOPIC: Final = "modelyard.attempt.lifecycle.v1"

_OWNER_KINDS: Final = {
    pb.ATTEMPT_OWNER_KIND_JOB: OwnerKind.JOB,
    pb.ATTEMPT_OWNER_KIND_REPLICA: OwnerKind.REPLICA,
}


def handlers(
    expect_stream: ExpectStream, open_stream: OpenStream, end_stream: EndStream
) -> Mapping[str, Handler]:
    """Return what to do for each event type."""
    end = _handler(end_stream)
    return {
        "modelyard.attempt.created.v1": _handler(expect_stream),
        "modelyard.attempt.started.v1": _handler(open_stream),
        "modelyard.attempt.exited.v1": end,
        "modelyard.attempt.lost.v1": end,
        "modelyard.attempt.closed.v1": end,
    }


def _handler(use_case: Callable[[AttemptEvent], Awaitable[None]]) -> Handler:
    async def handle(event: Event) -> None:
        await use_case(_attempt_from_pb(event))

    return handle


def _attempt_from_pb(event: Event) -> AttemptEvent:
    """Return what the event says. Raises InvalidArgument."""
    try:
        attempt = pb.AttemptTransitioned.FromString(event.data)
    except DecodeError as error:
        raise InvalidArgument("data", "is no AttemptTransitioned") from error
    if attempt.tenant != event.tenant:
        raise InvalidArgument("tenant", "is not that of the envelope")
    if (owner_kind := _OWNER_KINDS.get(attempt.owner_kind)) is None:
        raise InvalidArgument("owner_kind", "is not known")
    if attempt.number < 1:
        raise InvalidArgument("number", "must be 1 or more")
    if not 0 <= attempt.task < (attempt.task_count or 1):
        raise InvalidArgument("task", "must be less than task_count")
    return AttemptEvent(
        event_id=event.id,
        tenant=event.tenant,
        attempt_id=attempt.attempt_id,
        owner_kind=owner_kind,
        owner_id=attempt.owner_id,
        # A job's attempts in their order, and within one its tasks: for one task, the number.
        attempt_number=(attempt.number - 1) * (attempt.task_count or 1) + attempt.task + 1,
        node_id=attempt.node_id,
        at=event.time,
        location=(
            LogLocation(attempt.log_location.format, attempt.log_location.path)
            if attempt.HasField("log_location")
            else None
        ),
        is_end_seen=not attempt.end_unseen,
        traceparent=event.traceparent,
    )
