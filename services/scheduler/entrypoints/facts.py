"""Facts of the domain as events.

Owns: which topic, key, type and message each fact has. Always holds: the key is the aggregate's id,
so that an aggregate's events stay in order.
"""

from typing import Final, assert_never

from google.protobuf.message import Message
from modelyard.scheduler.v1 import deployment_events_pb2, deployment_pb2, job_events_pb2, job_pb2

from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import AttemptTransitioned, LogLocation
from services.scheduler.domain.deployments.deployment import DeploymentChanged, RoutingEntry
from services.scheduler.domain.jobs.job import JobTransitioned
from services.scheduler.entrypoints.grpc.messages import (
    element_to_pb,
    failure_to_pb,
    file_to_pb,
    model_to_pb,
    resources_to_pb,
    route_to_pb,
    timestamp_to_pb,
)
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
                route_to_pb(fact),
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
        at=timestamp_to_pb(fact.at),
        outputs=[
            job_events_pb2.OutputManifest(
                name=output.name,
                register_as=output.register_as,
                files=[file_to_pb(entry) for entry in output.files],
            )
            for output in fact.outputs
        ],
        failure=failure_to_pb(fact.failure) if fact.failure else None,
        source_digest=fact.source_digest,
        metrics=fact.metrics,
        element=element_to_pb(fact.element),
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
        at=timestamp_to_pb(fact.at),
        resources=resources_to_pb(attempt.resources),
        end_unseen=not fact.is_end_seen,
        task=attempt.task,
        task_count=attempt.task_count,
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
        at=timestamp_to_pb(fact.at),
        model=model_to_pb(deployment.model),
    )
