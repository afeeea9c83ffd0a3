"""Facts as events: topics, keys, types and data that others rely on."""

from dataclasses import replace

from modelyard.scheduler.v1 import deployment_events_pb2, job_events_pb2, job_pb2

from services.scheduler.domain.attempts.attempt import LogLocation, Owner, OwnerKind
from services.scheduler.domain.files import FileEntry
from services.scheduler.domain.identities import AttemptId, JobId
from services.scheduler.domain.jobs.failure import FailureReason, JobFailure
from services.scheduler.domain.jobs.job import Job, JobProgress, OutputManifest
from services.scheduler.entrypoints.facts import event_of
from tests.unit.scheduler.builders import (
    ACME,
    DIGEST,
    ENDING,
    NODE,
    NOW,
    TRACEPARENT,
    a_deployment,
    a_job,
    a_replica,
    a_spec,
    an_attempt,
)


def a_running_job() -> Job:
    job, _ = a_job(spec=a_spec(source_digest=DIGEST)).admitted(AttemptId("att_1"), NODE, at=NOW)
    job, _ = job.starting(at=NOW)
    return job.running(at=NOW)[0]


def test_a_succeeded_job_tells_what_it_left() -> None:
    outputs = (OutputManifest("model", "digits", (FileEntry("model.pkl", 10, DIGEST),)),)
    job = a_running_job().progressed(JobProgress(1.0, "", {"accuracy": 0.97}, NOW))
    event = event_of(job.succeeded(outputs, at=NOW)[1])

    assert event.topic == "modelyard.job.lifecycle.v1"
    assert event.type == "modelyard.job.succeeded.v1"
    assert (event.key, event.subject, event.tenant) == ("job_1", "job_1", ACME)
    assert event.traceparent == TRACEPARENT
    assert event.dataschema == "modelyard.scheduler.v1.JobTransitioned"
    data = job_events_pb2.JobTransitioned.FromString(event.data)
    assert data.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (data.version, data.attempt_number, data.attempt_id) == (5, 1, "att_1")
    assert data.source_digest == DIGEST
    assert dict(data.metrics) == {"accuracy": 0.97}
    [output] = data.outputs
    assert (output.name, output.register_as) == ("model", "digits")
    assert [(file.path, file.size_bytes, file.digest) for file in output.files] == [
        ("model.pkl", 10, DIGEST)
    ]
    assert not data.HasField("failure")
    assert not data.HasField("element")


def test_an_element_of_an_array_tells_which_one_it_is() -> None:
    array, _ = Job.queued(JobId("job_9"), ACME, a_spec(array_size=3), at=NOW, traceparent=None)
    array, *_ = array.split(JobId("job_10"), at=NOW)
    _, _, _, queued = array.split(JobId("job_11"), at=NOW)
    data = job_events_pb2.JobTransitioned.FromString(event_of(queued).data)
    assert (data.job_id, data.version) == ("job_11", 1)
    assert (data.element.array_id, data.element.index) == ("job_9", 1)


def test_a_failed_job_tells_why() -> None:
    failure = JobFailure(FailureReason.KILLED, "out of memory", last_lines="…")
    event = event_of(a_running_job().failed(failure, at=NOW)[1])
    data = job_events_pb2.JobTransitioned.FromString(event.data)
    assert event.type == "modelyard.job.failed.v1"
    assert (data.failure.reason, data.failure.message) == ("killed", "out of memory")
    assert not data.failure.HasField("exit_code")


def test_an_attempt_tells_whose_it_is_and_where_its_output_lies() -> None:
    owner = Owner(OwnerKind.REPLICA, "rep_1", public_id="dep_1")
    _, fact = an_attempt(owner=owner).started(LogLocation("c/container.log"), at=NOW)
    event = event_of(fact)
    assert event.topic == "modelyard.attempt.lifecycle.v1"
    assert event.type == "modelyard.attempt.started.v1"
    assert event.key == "att_1"
    data = job_events_pb2.AttemptTransitioned.FromString(event.data)
    assert data.owner_kind == job_events_pb2.ATTEMPT_OWNER_KIND_REPLICA
    assert data.owner_id == "dep_1"
    assert (data.log_location.format, data.log_location.path) == ("json-file", "c/container.log")
    assert data.container_name == "modelyard-att_1"
    assert not data.HasField("exit_code")


def test_an_exit_code_of_zero_is_told() -> None:
    started, _ = an_attempt().started(LogLocation("c/container.log"), at=NOW)
    data = job_events_pb2.AttemptTransitioned.FromString(
        event_of(started.exited(0, ENDING, at=NOW)[1]).data
    )
    assert data.HasField("exit_code")
    assert data.exit_code == 0


def test_an_end_that_was_not_seen_says_so() -> None:
    started, _ = an_attempt().started(LogLocation("c/container.log"), at=NOW)
    told = [
        job_events_pb2.AttemptTransitioned.FromString(event_of(fact).data).end_unseen
        for _, fact in (started.exited(0, ENDING, at=NOW), started.lost(ENDING, at=NOW))
    ]
    assert told == [False, True]


def test_a_deployment_tells_its_pinned_version() -> None:
    moved = a_deployment().observed(ready_count=1, at=NOW)
    assert moved is not None
    event = event_of(moved[1])
    assert event.topic == "modelyard.deployment.lifecycle.v1"
    assert event.type == "modelyard.deployment.serving.v1"
    data = deployment_events_pb2.DeploymentChanged.FromString(event.data)
    assert (data.deployment_id, data.name, data.version) == ("dep_1", "digits", 2)
    assert (data.model.model_name, data.model.version) == ("digits", 3)


def test_a_routing_entry_goes_to_the_compacted_topic_under_its_deployment() -> None:
    ready = replace(a_replica(), address="127.0.0.1:9000")
    event = event_of(a_deployment().rerouted().routing_entry([ready]))
    assert event.topic == "modelyard.replica.endpoints.v1"
    assert event.type == "modelyard.replica-endpoints.changed.v1"
    assert event.key == "dep_1"
    entry = deployment_events_pb2.RoutingEntry.FromString(event.data)
    assert (entry.tenant, entry.name, entry.generation) == (ACME, "digits", 1)
    assert [endpoint.address for endpoint in entry.endpoints] == ["127.0.0.1:9000"]
