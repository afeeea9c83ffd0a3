"""`modelyard.log.stream.v1`: a container whose output is stored may go.

Owns: the table of event types that the runner acts on. Every node's runner has a group of its own
and sees all events; a container of another node is simply not there.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from modelyard.logs.v1.log_events_pb2 import LogStreamChanged

from services.chassis.errors import InvalidArgument
from services.chassis.events.consumer import Handler
from services.chassis.events.envelope import Event
from services.scheduler.domain.identities import AttemptId
from services.scheduler.use_cases.attempts.remove_container import RemoveContainer

TOPIC: Final = "modelyard.log.stream.v1"


def handlers(remove_container: RemoveContainer) -> Mapping[str, Handler]:
    """Return what to do for each event type."""
    return {"modelyard.log-stream.completed.v1": _LogStreamCompleted(remove_container)}


@dataclass(frozen=True, slots=True)
class _LogStreamCompleted:
    remove_container: RemoveContainer

    async def __call__(self, event: Event) -> None:
        """Remove the attempt's container; repeating it is no harm. Raises InvalidArgument."""
        try:
            stream = LogStreamChanged.FromString(event.data)
        except DecodeError as error:
            raise InvalidArgument("data", "is no LogStreamChanged") from error
        if not stream.attempt_id:
            raise InvalidArgument("attempt_id", "is required")
        await self.remove_container(AttemptId(stream.attempt_id))
