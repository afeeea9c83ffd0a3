"""Messages that jobs, deployments and events share, to and from domain values.

Owns: refusing what a message can't mean: an enum's UNSPECIFIED, a duration out of any bounds.
"""

import re
from datetime import datetime, timedelta
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.common.v1 import files_pb2, paging_pb2, resources_pb2
from modelyard.scheduler.v1 import (
    deployment_events_pb2,
    deployment_pb2,
    job_explanation_pb2,
    job_pb2,
)

from services.chassis.db.idempotency import request_hash
from services.chassis.errors import InvalidArgument, NotFound
from services.chassis.rpc.context import Context, idempotency_key
from services.scheduler.domain.deployments.deployment import RoutingEntry
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.jobs.failure import JobFailure
from services.scheduler.domain.jobs.job import ArrayElement
from services.scheduler.domain.queues.queue import QUEUE_NAME
from services.scheduler.domain.resources import (
    DEFAULT_RESOURCES,
    Resources,
    requested_resources,
)
from services.scheduler.domain.scheduling.forecast import Basis
from services.scheduler.use_cases.paging import PageRequest
from services.scheduler.use_cases.ports import RequestKey

_DURATION_SECONDS_MAX: Final = 10**9
_NAME: Final = re.compile(r"[a-z0-9_-]{1,63}")
_NAME_SHOWN_CHARACTERS: Final = 64


def request_key_of(context: Context, request: Message) -> RequestKey | None:
    """Return what makes this call repeatable, if its caller asked for that."""
    key = idempotency_key(context)
    if key is None:
        return None
    return RequestKey(key, request_hash(request.SerializeToString(deterministic=True)))


def name_from_pb(text: str, *, kind: str) -> str:
    """Return an id or a name that may exist; raises NotFound for what can't be one."""
    if not _NAME.fullmatch(text):
        raise NotFound(kind, text[:_NAME_SHOWN_CHARACTERS])
    return text


def page_from_pb(page: paging_pb2.PageRequest) -> PageRequest:
    """Return which page is asked for; raises InvalidArgument."""
    return PageRequest.of(page.page_size, page.page_token)


def page_of_queues_from_pb(page: paging_pb2.PageRequest) -> PageRequest:
    """Return which page of a list by queues' names is asked for; raises InvalidArgument."""
    return PageRequest.of(page.page_size, page.page_token, places=QUEUE_NAME)


def resources_from_pb(asked: resources_pb2.Resources | None) -> Resources:
    """Return the checked resources of a spec; absent ones are the default."""
    if asked is None:
        return DEFAULT_RESOURCES
    return requested_resources(
        cpu_millicores=asked.cpu_millicores,
        memory_bytes=asked.memory_bytes,
        gpu_count=asked.gpu_count,
        field="spec.resources",
    )


def resources_to_pb(resources: Resources) -> resources_pb2.Resources:
    """Return resources as a message."""
    return resources_pb2.Resources(
        cpu_millicores=resources.cpu_millicores,
        memory_bytes=resources.memory_bytes,
        gpu_count=resources.gpu_count,
    )


def file_to_pb(entry: FileEntry) -> files_pb2.FileEntry:
    """Return a file as a message."""
    return files_pb2.FileEntry(path=entry.path, size_bytes=entry.size_bytes, digest=entry.digest)


def timestamp_to_pb(at: datetime | None) -> Timestamp | None:
    """Return an instant as a message."""
    if at is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp


def duration_to_pb(length: timedelta | None) -> Duration | None:
    """Return a length of time as a message."""
    if length is None:
        return None
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def duration_from_pb(duration: Duration, *, field: str) -> timedelta:
    """Return a length of time; raises InvalidArgument when it is beyond any use."""
    if abs(duration.seconds) > _DURATION_SECONDS_MAX:
        raise InvalidArgument(field, "is out of range")
    return timedelta(seconds=duration.seconds, microseconds=duration.nanos // 1_000)


def failure_to_pb(failure: JobFailure) -> job_pb2.JobFailure:
    """Return why a job failed."""
    return job_pb2.JobFailure(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code,
        last_lines=failure.last_lines,
    )


def element_to_pb(element: ArrayElement | None) -> job_pb2.ArrayElement | None:
    """Return which element of an array a job is, if it is one."""
    if element is None:
        return None
    return job_pb2.ArrayElement(array_id=element.array_id, index=element.index)


def basis_to_pb(basis: Basis | None) -> job_explanation_pb2.EstimateBasis.ValueType:
    """Return what tells when somebody starts; unspecified where nobody can."""
    if basis is None:
        return job_explanation_pb2.ESTIMATE_BASIS_UNSPECIFIED
    return job_explanation_pb2.EstimateBasis.Value(f"ESTIMATE_BASIS_{basis}")


def model_to_pb(model: ModelPin) -> deployment_pb2.ModelPin:
    """Return the pinned version."""
    return deployment_pb2.ModelPin(
        model_name=model.model_name,
        version=model.version,
        files=[file_to_pb(entry) for entry in model.files],
    )


def route_to_pb(entry: RoutingEntry) -> deployment_events_pb2.RoutingEntry:
    """Return where a deployment answers."""
    return deployment_events_pb2.RoutingEntry(
        deployment_id=entry.deployment_id,
        tenant=entry.tenant,
        name=entry.name,
        generation=entry.generation,
        endpoints=[
            deployment_events_pb2.ReplicaEndpoint(
                replica_id=endpoint.replica_id, address=endpoint.address
            )
            for endpoint in entry.endpoints
        ],
        deleted=entry.deleted,
    )
