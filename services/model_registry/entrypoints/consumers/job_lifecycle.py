"""`modelyard.job.lifecycle.v1`: a succeeded job's outputs become model versions.

Owns: the table of event types that the registry acts on. An event that breaks the contract (no
message, a path or name that can't be) is dead-lettered with its reason. Bytes that are missing are
no such case: `use_cases.register_outputs` says what becomes of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError
from modelyard.scheduler.v1.job_events_pb2 import JobTransitioned

from services.chassis.errors import InvalidArgument
from services.chassis.events.consumer import Handler
from services.chassis.events.envelope import Event
from services.model_registry.domain.artifact import checked_digest
from services.model_registry.entrypoints.protobuf import manifest_from_pb
from services.model_registry.use_cases.register_outputs import (
    JobOutput,
    RegisterOutputs,
    SucceededJob,
)

TOPIC: Final = "modelyard.job.lifecycle.v1"


def handlers(register_outputs: RegisterOutputs) -> Mapping[str, Handler]:
    """Return what to do for each event type."""
    return {"modelyard.job.succeeded.v1": _JobSucceeded(register_outputs)}


@dataclass(frozen=True, slots=True)
class _JobSucceeded:
    register_outputs: RegisterOutputs

    async def __call__(self, event: Event) -> None:
        """Register what the job left. Raises InvalidArgument, DuplicateEvent."""
        await self.register_outputs(event.tenant, _job_from_pb(event))


def _job_from_pb(event: Event) -> SucceededJob:
    try:
        job = JobTransitioned.FromString(event.data)
    except DecodeError as error:
        raise InvalidArgument("data", "is no JobTransitioned") from error
    if job.tenant != event.tenant:
        raise InvalidArgument("tenant", "is not that of the envelope")
    if not job.job_id:
        raise InvalidArgument("job_id", "is required")
    return SucceededJob(
        event_id=event.id,
        job_id=job.job_id,
        source_digest=(
            checked_digest(job.source_digest, field="source_digest") if job.source_digest else None
        ),
        metrics=job.metrics,
        outputs=[
            JobOutput(output.name, output.register_as, manifest_from_pb(output.files))
            for output in job.outputs
            if output.register_as
        ],
    )
