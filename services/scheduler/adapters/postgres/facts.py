"""Facts of the domain as events.

Owns: which topic, key, type and message each fact has. Always holds: the key is the aggregate's id,
so that an aggregate's events stay in order.
"""

from datetime import datetime
from typing import Final, assert_never

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.common.v1 import files_pb2, resources_pb2
from modelyard.scheduler.v1 import deployment_events_pb2, deployment_pb2, job_events_pb2, job_pb2

from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import AttemptTransitioned, LogLocation
from services.scheduler.domain.deployments.deployment import DeploymentChanged, RoutingEntry
from services.scheduler.domain.deployments.model import ModelPin
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.jobs.job import JobFailure, JobTransitioned
from services.scheduler.use_cases.ports import Fact

JOB_LIFECYCLE: Final = "modelyard.job.lifecycle.v1"
ATTEMPT_LIFECYCLE: Final = "modelyard.attempt.lifecycle.v1"
DEPLOYMENT_LIFECYCLE: Final = "modelyard.deployment.lifecycle.v1"
REPLICA_ENDPOINTS: Final = "modelyard.replica.endpoints.v1"


def event_of(fact: Fact) -> NewEvent:
    """Return the event that tells a fact; its `traceparent` is the submission's."""
    match fact:
        case JobTransitioned():
            return _event(
                _job(fact),
                topic=JOB_LIFECYCLE,
                key=fact.job_id,
                kind=f"modelyard.job.{fact.state.lower()}.v1",
                tenant=fact.tenant,
                traceparent=fact.traceparent,
            )
        case AttemptTransitioned(attempt=attempt):
            return _event(
                _attempt(fact),
                topic=ATTEMPT_LIFECYCLE,
                key=attempt.id,
                kind=f"modelyard.attempt.{attempt.state.lower()}.v1",
                tenant=attempt.tenant,
                traceparent=attempt.traceparent,
            )
        case DeploymentChanged(deployment=deployment):
            return _event(
                _deployment(fact),
                topic=DEPLOYMENT_LIFECYCLE,
                key=deployment.id,
                kind=f"modelyard.deployment.{fact.what}.v1",
                tenant=deployment.tenant,
                traceparent=deployment.traceparent,
            )
        case RoutingEntry():
            return _event(
                _routing_entry(fact),
                topic=REPLICA_ENDPOINTS,
                key=fact.deployment_id,
                kind="modelyard.replica-endpoints.changed.v1",
                tenant=fact.tenant,
                traceparent=fact.traceparent,
            )
        case _:
            assert_never(fact)


def _event(
    data: Message, *, topic: str, key: str, kind: str, tenant: TenantId, traceparent: str | None
) -> NewEvent:
    return NewEvent(
        topic=topic,
        key=key,
        type=kind,
        subject=key,
        tenant=tenant,
        data=data.SerializeToString(deterministic=True),
        dataschema=data.DESCRIPTOR.full_name,
        traceparent=traceparent,
    )


def _job(fact: JobTransitioned) -> job_events_pb2.JobTransitioned:
    return job_events_pb2.JobTransitioned(
        job_id=fact.job_id,
        tenant=fact.tenant,
        name=fact.name,
        state=job_pb2.JobState.Value(f"JOB_STATE_{fact.state}"),
        reason=fact.reason,
        version=fact.version,
        attempt_number=fact.attempt_number,
        attempt_id=fact.attempt_id or "",
        at=_timestamp(fact.at),
        outputs=[
            job_events_pb2.OutputManifest(
                name=output.name,
                register_as=output.register_as,
                files=[_file(entry) for entry in output.files],
            )
            for output in fact.outputs
        ],
        failure=_failure(fact.failure) if fact.failure else None,
        source_digest=fact.source_digest,
        metrics=fact.metrics,
    )


def _failure(failure: JobFailure) -> job_pb2.JobFailure:
    return job_pb2.JobFailure(
        reason=failure.reason,
        message=failure.message,
        exit_code=failure.exit_code,
        last_lines=failure.last_lines,
    )


def _attempt(fact: AttemptTransitioned) -> job_events_pb2.AttemptTransitioned:
    attempt = fact.attempt
    return job_events_pb2.AttemptTransitioned(
        attempt_id=attempt.id,
        tenant=attempt.tenant,
        owner_kind=job_events_pb2.AttemptOwnerKind.Value(
            f"ATTEMPT_OWNER_KIND_{attempt.owner.kind}"
        ),
        owner_id=attempt.owner.public_id,
        number=attempt.number,
        state=job_events_pb2.AttemptState.Value(f"ATTEMPT_STATE_{attempt.state}"),
        version=attempt.version,
        node_id=attempt.node_id,
        container_name=attempt.container_name,
        log_location=_log_location(attempt.log_location) if attempt.log_location else None,
        exit_code=attempt.exit_code,
        at=_timestamp(fact.at),
        resources=resources_pb2.Resources(
            cpu_millicores=attempt.resources.cpu_millicores,
            memory_bytes=attempt.resources.memory_bytes,
            gpu_count=attempt.resources.gpu_count,
        ),
    )


def _log_location(location: LogLocation) -> job_events_pb2.LogLocation:
    return job_events_pb2.LogLocation(format=location.format, path=location.path)


def _deployment(fact: DeploymentChanged) -> deployment_events_pb2.DeploymentChanged:
    deployment = fact.deployment
    return deployment_events_pb2.DeploymentChanged(
        deployment_id=deployment.id,
        tenant=deployment.tenant,
        name=deployment.spec.name,
        state=deployment_pb2.DeploymentState.Value(f"DEPLOYMENT_STATE_{deployment.state}"),
        reason=deployment.reason,
        version=deployment.version,
        at=_timestamp(fact.at),
        model=_model(deployment.model),
    )


def _model(model: ModelPin) -> deployment_pb2.ModelPin:
    return deployment_pb2.ModelPin(
        model_name=model.model_name,
        version=model.version,
        files=[_file(entry) for entry in model.files],
    )


def _routing_entry(fact: RoutingEntry) -> deployment_events_pb2.RoutingEntry:
    return deployment_events_pb2.RoutingEntry(
        deployment_id=fact.deployment_id,
        tenant=fact.tenant,
        name=fact.name,
        generation=fact.generation,
        endpoints=[
            deployment_events_pb2.ReplicaEndpoint(
                replica_id=endpoint.replica_id, address=endpoint.address
            )
            for endpoint in fact.endpoints
        ],
        deleted=fact.deleted,
    )


def _file(entry: FileEntry) -> files_pb2.FileEntry:
    return files_pb2.FileEntry(path=entry.path, size_bytes=entry.size_bytes, digest=entry.digest)


def _timestamp(at: datetime) -> Timestamp:
    timestamp = Timestamp()
    timestamp.FromDatetime(at)
    return timestamp
