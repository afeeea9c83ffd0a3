"""The scheduler's RPCs over a real channel: translation, identity, scopes, errors."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.duration_pb2 import Duration
from modelyard.common.v1 import paging_pb2, resources_pb2
from modelyard.scheduler.v1 import (
    deployment_pb2,
    deployment_service_pb2,
    deployment_service_pb2_grpc,
    job_events_pb2,
    job_explanation_pb2,
    job_pb2,
    job_service_pb2,
    job_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    queue_service_pb2,
    queue_service_pb2_grpc,
)

from services.chassis.errors import ModelyardError
from services.chassis.rpc.client import Edge, idempotent
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.tenancy import NO_TENANT, Principal, TenantId
from services.scheduler.bootstrap import (
    REQUIRED_SCOPES,
)
from tests.integration.scheduler.rpcs import serving
from tests.integration.scheduler.yard import NODE_SILENCE_MAX, Yard
from tests.unit.scheduler.builders import ACME, DIGEST, UMBRELLA, resources

SCOPES = frozenset(REQUIRED_SCOPES.values())
RESOURCES = resources_pb2.Resources(cpu_millicores=500, memory_bytes=1 << 28)
SPEC = job_pb2.JobSpec(
    name="train",
    image="modelyard/train-sklearn",
    command=["python", "train.py"],
    env={"EPOCHS": "3"},
    source_digest=DIGEST,
    inputs=[job_pb2.JobInput(name="data", digest=DIGEST)],
    outputs=[job_pb2.JobOutput(name="model", path="model", register_as="digits")],
    resources=RESOURCES,
    priority=5,
    labels={"team": "vision"},
    queue="nightly",
    task_count=1,
)
ONE_CORE = resources_pb2.Resources(cpu_millicores=1_000, memory_bytes=1 << 28)
DEPLOYMENT = deployment_pb2.DeploymentSpec(
    name="digits",
    model="models:/digits@champion",
    image="modelyard/serve-sklearn",
    replica_count=1,
    resources=RESOURCES,
)


@dataclass(frozen=True, slots=True)
class Client:
    """Calls the scheduler as the gateway does."""

    channel: grpc.aio.Channel

    async def job(
        self, method: str, request: Any, *, tenant: TenantId = ACME, key: str | None = None
    ) -> Any:
        return await self._call(job_service_pb2_grpc.JobServiceStub, method, request, tenant, key)

    async def deployment(
        self, method: str, request: Any, *, tenant: TenantId = ACME, key: str | None = None
    ) -> Any:
        stub = deployment_service_pb2_grpc.DeploymentServiceStub
        return await self._call(stub, method, request, tenant, key)

    async def nodes(self) -> node_service_pb2.ListNodesResponse:
        stub = node_service_pb2_grpc.NodeServiceStub
        request = node_service_pb2.ListNodesRequest()
        found = await self._call(stub, "ListNodes", request, ACME, None)
        assert isinstance(found, node_service_pb2.ListNodesResponse)
        return found

    async def queue(self, method: str, request: Any, *, tenant: TenantId = ACME) -> Any:
        stub = queue_service_pb2_grpc.QueueServiceStub
        return await self._call(stub, method, request, tenant, None)

    async def queues(
        self, *, tenant: TenantId = ACME, **page: Any
    ) -> queue_service_pb2.ListQueuesResponse:
        request = queue_service_pb2.ListQueuesRequest(page=paging_pb2.PageRequest(**page))
        found = await self.queue("ListQueues", request, tenant=tenant)
        assert isinstance(found, queue_service_pb2.ListQueuesResponse)
        return found

    async def routes(self) -> deployment_service_pb2.ListRoutesResponse:
        """Ask as the gateway does for itself."""
        stub = deployment_service_pb2_grpc.DeploymentServiceStub
        request = deployment_service_pb2.ListRoutesRequest()
        gateway = Principal(NO_TENANT, "api-gateway", frozenset({"routes:read"}))
        found = await self._call_as(gateway, stub, "ListRoutes", request, None)
        assert isinstance(found, deployment_service_pb2.ListRoutesResponse)
        return found

    async def submit(self, spec: job_pb2.JobSpec = SPEC, **how: Any) -> job_pb2.Job:
        request = job_service_pb2.SubmitJobRequest(spec=spec)
        response = await self.job("SubmitJob", request, **how)
        assert isinstance(response, job_service_pb2.SubmitJobResponse)
        return response.job

    async def _call(
        self, stub: Any, method: str, request: Any, tenant: TenantId, key: str | None
    ) -> Any:
        caller = Principal(tenant, "key:tests", SCOPES)
        return await self._call_as(caller, stub, method, request, key)

    async def _call_as(
        self, caller: Principal, stub: Any, method: str, request: Any, key: str | None
    ) -> Any:
        with acting_as(caller):
            return await Edge.to("scheduler").call(
                getattr(stub(self.channel), method),
                request,
                timeout=timedelta(seconds=10),
                idempotent=False,
                metadata=idempotent(key),
            )


@pytest.fixture
async def client(yard: Yard, identity: tuple[TokenSigner, TokenVerifier]) -> AsyncIterator[Client]:
    signer, verifier = identity
    async with serving(yard, signer=signer, verifier=verifier) as channel:
        yield Client(channel)


async def refusal(call: Any) -> tuple[str, Mapping[str, str]]:
    with pytest.raises(ModelyardError) as refused:
        await call
    return refused.value.code, refused.value.detail


async def test_a_job_is_shown_as_it_was_asked_for(client: Client, yard: Yard) -> None:
    await yard.a_node()
    job = await client.submit()
    assert job.state == job_pb2.JOB_STATE_QUEUED
    assert job.version == 1
    shown = job_pb2.JobSpec()
    shown.CopyFrom(job.spec)
    assert shown.timeouts.run.seconds == 24 * 3600  # the default that was filled in
    assert shown.retries.count_max == 3
    shown.ClearField("timeouts")
    shown.ClearField("retries")
    assert shown == SPEC
    assert (await client.job("GetJob", job_service_pb2.GetJobRequest(job_id=job.id))).job == job


async def test_a_job_is_shown_with_what_it_waits_for(client: Client, yard: Yard) -> None:
    await yard.a_node()
    needed = await client.submit()
    spec = job_pb2.JobSpec()
    spec.CopyFrom(SPEC)
    spec.after.add(job_id=needed.id, condition=job_pb2.JOB_DEPENDENCY_CONDITION_END)
    job = await client.submit(spec)
    assert list(job.needs) == list(job.spec.after) == list(spec.after)
    assert (await client.job("GetJob", job_service_pb2.GetJobRequest(job_id=job.id))).job == job
    request = job_service_pb2.ExplainJobRequest(job_id=job.id)
    told = (await client.job("ExplainJob", request)).explanation
    assert told.hold == job_explanation_pb2.JOB_HOLD_DEPENDENCY
    assert told.because == f"waits for job {needed.id} to end"
    assert told.estimate_basis == job_explanation_pb2.ESTIMATE_BASIS_UNSPECIFIED


async def test_who_would_wait_in_vain_is_refused_at_the_field(client: Client) -> None:
    needed = await client.submit()
    await client.job("CancelJob", job_service_pb2.CancelJobRequest(job_id=needed.id))
    spec = job_pb2.JobSpec()
    spec.CopyFrom(SPEC)
    spec.after.add(job_id=needed.id, condition=job_pb2.JOB_DEPENDENCY_CONDITION_SUCCESS)
    code, detail = await refusal(client.submit(spec))
    assert (code, detail["field"]) == ("FAILED_PRECONDITION", "spec.after[0].job_id")


async def test_absent_resources_and_an_absent_queue_are_the_default(client: Client) -> None:
    spec = job_pb2.JobSpec(name="x", image="modelyard/base", command=["true"])
    job = await client.submit(spec)
    assert job.spec.resources.cpu_millicores == 1_000
    assert job.spec.queue == "default"


async def test_a_repeated_submission_makes_one_job(client: Client) -> None:
    first = await client.submit(key="k-1")
    assert (await client.submit(key="k-1")) == first
    assert (await client.submit(key="k-2")).id != first.id


async def test_a_key_with_another_body_is_refused(client: Client) -> None:
    await client.submit(key="k-1")
    other = job_pb2.JobSpec()
    other.CopyFrom(SPEC)
    other.priority = 6
    code, detail = await refusal(client.submit(other, key="k-1"))
    assert code == "KEY_REUSED"
    assert detail["field"] == "Idempotency-Key"


async def test_the_same_key_of_another_tenant_is_another_key(client: Client) -> None:
    first = await client.submit(key="k-1")
    assert (await client.submit(key="k-1", tenant=UMBRELLA)).id != first.id


async def test_a_full_line_says_when_to_come_back(client: Client) -> None:
    for _ in range(3):
        await client.submit()
    with pytest.raises(ModelyardError) as refused:
        await client.submit()
    assert refused.value.code == "QUEUE_FULL"
    assert refused.value.retry_after == timedelta(seconds=5)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (job_pb2.JobSpec(), "spec.name"),
        (job_pb2.JobSpec(name="x", image="i"), "spec.command"),
        (
            job_pb2.JobSpec(
                name="x", image="i", command=["c"], resources=resources_pb2.Resources()
            ),
            "spec.resources.cpu_millicores",
        ),
        (
            job_pb2.JobSpec(
                name="x",
                image="i",
                command=["c"],
                timeouts=job_pb2.JobTimeouts(run=Duration(seconds=315_576_000_000)),
            ),
            "spec.timeouts.run",
        ),
        (
            job_pb2.JobSpec(
                name="x",
                image="i",
                command=["c"],
                after=[job_pb2.JobDependency(job_id="job_1")],
            ),
            "spec.after[0].condition",
        ),
    ],
)
async def test_a_field_out_of_bounds_is_named(
    client: Client, spec: job_pb2.JobSpec, field: str
) -> None:
    code, detail = await refusal(client.submit(spec))
    assert (code, detail["field"]) == ("INVALID_ARGUMENT", field)


async def test_an_unspecified_state_is_refused(client: Client) -> None:
    request = job_service_pb2.ListJobsRequest(states=[job_pb2.JOB_STATE_UNSPECIFIED])
    code, detail = await refusal(client.job("ListJobs", request))
    assert (code, detail["field"]) == ("INVALID_ARGUMENT", "states[0]")


@pytest.mark.parametrize("job_id", ["job_unknown", "", "a\0b", "x" * 10_000])
async def test_an_unknown_job_is_not_found(client: Client, job_id: str) -> None:
    request = job_service_pb2.GetJobRequest(job_id=job_id)
    assert (await refusal(client.job("GetJob", request)))[0] == "NOT_FOUND"


async def test_another_tenants_job_reads_as_unknown(client: Client) -> None:
    job = await client.submit()
    get = client.job("GetJob", job_service_pb2.GetJobRequest(job_id=job.id), tenant=UMBRELLA)
    cancel = client.job(
        "CancelJob", job_service_pb2.CancelJobRequest(job_id=job.id), tenant=UMBRELLA
    )
    assert (await refusal(get))[0] == "NOT_FOUND"
    assert (await refusal(cancel))[0] == "NOT_FOUND"


async def test_jobs_are_paged(client: Client) -> None:
    made = [(await client.submit()).id for _ in range(3)]
    request = job_service_pb2.ListJobsRequest(page=paging_pb2.PageRequest(page_size=2))
    first = await client.job("ListJobs", request)
    request.page.page_token = first.page.next_page_token
    second = await client.job("ListJobs", request)
    assert [job.id for job in [*first.jobs, *second.jobs]] == sorted(made, reverse=True)
    assert second.page.next_page_token == ""


async def test_a_queued_job_is_cancelled_at_once(client: Client) -> None:
    job = await client.submit()
    request = job_service_pb2.CancelJobRequest(job_id=job.id, reason="user asked")
    response = await client.job("CancelJob", request)
    assert response.job.state == job_pb2.JOB_STATE_CANCELLED
    assert response.job.reason == "user asked"


async def test_a_deployment_is_created_shown_listed_and_deleted(client: Client, yard: Yard) -> None:
    await yard.a_node()
    request = deployment_service_pb2.CreateDeploymentRequest(spec=DEPLOYMENT)
    made = (await client.deployment("CreateDeployment", request, key="k-1")).deployment
    assert (await client.deployment("CreateDeployment", request, key="k-1")).deployment == made
    assert made.spec == DEPLOYMENT
    assert made.state == deployment_pb2.DEPLOYMENT_STATE_PREPARING
    assert (made.model.model_name, made.model.version) == ("digits", 3)
    assert [each.state for each in made.replicas] == [deployment_pb2.REPLICA_STATE_QUEUED]

    named = deployment_service_pb2.GetDeploymentRequest(deployment="digits")
    assert (await client.deployment("GetDeployment", named)).deployment == made
    asked = deployment_service_pb2.ExplainDeploymentRequest(deployment="digits")
    told = (await client.deployment("ExplainDeployment", asked)).explanation
    assert (told.deployment_id, told.state, told.waiting_count) == (made.id, made.state, 1)
    assert told.hold == job_explanation_pb2.JOB_HOLD_NONE
    assert told.estimate_basis == job_explanation_pb2.ESTIMATE_BASIS_LIMITS
    listed = await client.deployment(
        "ListDeployments", deployment_service_pb2.ListDeploymentsRequest()
    )
    assert list(listed.deployments) == [made]

    gone = await client.deployment(
        "DeleteDeployment", deployment_service_pb2.DeleteDeploymentRequest(deployment=made.id)
    )
    assert gone.deployment.state == deployment_pb2.DEPLOYMENT_STATE_DELETING
    routes = await client.routes()
    assert [(route.name, route.deleted) for route in routes.routes] == [("digits", True)]


async def test_nodes_are_shown_with_what_ails_them(client: Client, yard: Yard) -> None:
    await yard.a_node(name="node-0")
    await yard.are_silent(NODE_SILENCE_MAX)
    await yard.a_node()
    await yard.beats(is_runtime_up=False)
    await yard.a_node(name="node-2")

    found = await client.nodes()

    assert found.node_count == 3
    assert [(node.id, node.runtime, node.alive) for node in found.nodes] == [
        ("node-0", "process", False),
        ("node-1", "process", True),
        ("node-2", "process", True),
    ]
    down = [node.HasField("runtime_down_since") for node in found.nodes]
    assert down == [False, True, False]
    assert found.nodes[1].capacity.cpu_millicores == 4_000


async def test_queues_are_paused_listed_in_pages_and_resumed(client: Client) -> None:
    await client.submit()
    request = queue_service_pb2.PauseQueueRequest(queue="weekly", reason="it is monday")
    paused = (await client.queue("PauseQueue", request)).queue
    assert (paused.name, paused.paused_reason) == ("weekly", "it is monday")
    assert paused.HasField("paused_at")

    first = await client.queues(page_size=1)
    [nightly] = first.queues
    assert (nightly.name, nightly.queued_count, nightly.HasField("paused_at")) == (
        "nightly",
        1,
        False,
    )
    rest = await client.queues(page_size=1, page_token=first.page.next_page_token)
    assert (list(rest.queues), rest.page.next_page_token) == ([paused], "")
    assert not (await client.queues(tenant=UMBRELLA)).queues

    ended = queue_service_pb2.ResumeQueueRequest(queue="weekly")
    resumed = (await client.queue("ResumeQueue", ended)).queue
    assert (resumed.name, resumed.HasField("paused_at")) == ("weekly", False)
    code, detail = await refusal(client.queues(page_token="bm8gbmFtZQ"))
    assert (code, detail["field"]) == ("INVALID_ARGUMENT", "page.page_token")


async def test_a_call_without_the_scope_is_refused(client: Client) -> None:
    stub = job_service_pb2_grpc.JobServiceStub(client.channel)
    with acting_as(Principal(ACME, "key:tests", frozenset({"jobs:read"}))):
        call = Edge.to("scheduler").call(
            stub.SubmitJob,
            job_service_pb2.SubmitJobRequest(spec=SPEC),
            timeout=timedelta(seconds=5),
            idempotent=False,
        )
        assert (await refusal(call))[0] == "PERMISSION_DENIED"


async def test_attempts_are_shown_as_the_database_has_them(client: Client, yard: Yard) -> None:
    await yard.a_node()
    job = await client.submit()
    await yard.cycle()
    [work] = await yard.open_work()
    await yard.start(work.attempt.id)
    await yard.end(work.attempt.id)

    request = job_service_pb2.ListAttemptsRequest(job_id=job.id)
    [shown] = (await client.job("ListAttempts", request)).attempts

    assert (shown.id, shown.number, shown.node_id) == (work.attempt.id, 1, work.attempt.node_id)
    assert shown.state == job_events_pb2.ATTEMPT_STATE_EXITED
    assert shown.exit_code == 1
    assert (shown.ending.reason, shown.ending.message) == ("exit_code", "exit code 1")
    assert shown.ended_at.ToDatetime() >= shown.started_at.ToDatetime()
    code, _ = await refusal(client.job("ListAttempts", request, tenant=UMBRELLA))
    assert code == "NOT_FOUND"


async def test_stats_are_those_of_the_window_and_of_the_caller(client: Client, yard: Yard) -> None:
    await yard.a_node()
    await client.submit()
    await yard.cycle()

    def asked(seconds: int | None) -> job_service_pb2.GetStatsRequest:
        window = None if seconds is None else Duration(seconds=seconds)
        return job_service_pb2.GetStatsRequest(window=window)

    by_default = (await client.job("GetStats", asked(None))).stats
    [group] = by_default.waits
    assert (group.priority, group.waited.job_count) == (SPEC.priority, 1)
    assert group.waited.p50 == group.waited.p99
    assert (by_default.until.seconds - by_default.since.seconds, by_default.is_whole) == (
        24 * 3600,
        True,
    )
    assert (await client.job("GetStats", asked(60))).stats.waits == by_default.waits
    assert list((await client.job("GetStats", asked(60), tenant=UMBRELLA)).stats.waits) == []
    for beyond in (0, -1, 31 * 86_400, 10**12):
        code, detail = await refusal(client.job("GetStats", asked(beyond)))
        assert (code, detail["field"]) == ("INVALID_ARGUMENT", "window")


async def test_array_is_shown_with_its_elements_and_they_are_listed_by_it(
    yard: Yard, client: Client
) -> None:
    await yard.a_node(resources(cpu=2, memory=8))
    spec = job_pb2.JobSpec()
    spec.CopyFrom(SPEC)
    spec.array_size = 5
    spec.resources.CopyFrom(ONE_CORE)
    array = await client.submit(spec)
    assert array.spec.array_size == 5
    assert counts(array) == {job_pb2.JOB_STATE_QUEUED: 5}
    await yard.cycle()

    request = job_service_pb2.GetJobRequest(job_id=array.id)
    found = (await client.job("GetJob", request)).job
    assert counts(found) == {job_pb2.JOB_STATE_QUEUED: 3, job_pb2.JOB_STATE_ADMITTED: 2}
    assert not found.HasField("element")
    listed = await client.job("ListJobs", job_service_pb2.ListJobsRequest())
    assert [job.id for job in listed.jobs] == [array.id]
    listed = await client.job("ListJobs", job_service_pb2.ListJobsRequest(array_id=array.id))
    assert {job.element.index for job in listed.jobs} == {0, 1}
    assert {job.element.array_id for job in listed.jobs} == {array.id}
    one = job_service_pb2.ListJobsRequest(array_id=array.id, array_index=1)
    [second] = (await client.job("ListJobs", one)).jobs
    assert (second.element.index, second.HasField("array")) == (1, False)
    cancelled = await client.job("CancelJob", job_service_pb2.CancelJobRequest(job_id=array.id))
    assert counts(cancelled.job) == {job_pb2.JOB_STATE_ADMITTED: 2, job_pb2.JOB_STATE_CANCELLED: 3}


def counts(array: job_pb2.Job) -> dict[int, int]:
    return {each.state: each.element_count for each in array.array.element_counts}
