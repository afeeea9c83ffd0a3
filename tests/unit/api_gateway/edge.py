"""A gateway whose neighbours are fakes, behind the real REST application."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import httpx
from google.protobuf.timestamp_pb2 import Timestamp
from modelyard.logs.v1 import log_record_pb2, log_service_pb2
from modelyard.registry.v1 import artifact_service_pb2, model_pb2, model_service_pb2
from modelyard.scheduler.v1 import (
    deployment_explanation_pb2,
    deployment_pb2,
    deployment_service_pb2,
    job_explanation_pb2,
    job_pb2,
    job_service_pb2,
    job_stats_pb2,
    node_pb2,
    node_service_pb2,
    queue_pb2,
    queue_service_pb2,
)
from starlette.types import ASGIApp

from services.api_gateway.adapters.burst_limiter import BurstLimiter
from services.api_gateway.adapters.rate_limiter import memory_rate_limiter
from services.api_gateway.domain.api_key import ApiKey, KeyPlace
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.rate_limit import RatePolicy
from services.api_gateway.domain.routing import RoutingTable
from services.api_gateway.domain.scopes import SCOPES
from services.api_gateway.domain.tenant import Plan, Tenant
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.dependencies import EdgePolicies, Gateway
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.create_tenant import CreateTenant, IssueTenantKey
from services.api_gateway.use_cases.infer import (
    Infer,
    InferenceRequest,
    InferenceResponse,
    NotSent,
)
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.manage_keys import (
    IssueKey,
    ListKeys,
    NewKeys,
    RevokeKey,
    RotateKey,
)
from services.api_gateway.use_cases.manage_members import ListMembers, PutMember, RemoveMember
from services.api_gateway.use_cases.manage_tenants import ChangeTenant
from services.api_gateway.use_cases.ports import Lease
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import SystemClock
from services.chassis.errors import ModelyardError, NotFound, check_version
from services.chassis.ids import TimeOrderedIds
from services.chassis.lifecycle import Readiness
from services.chassis.rpc.context import principal
from services.chassis.tenancy import Principal, TenantId

TENANT = TenantId("default")
SECRET = "s" * 43
ANSWER = InferenceResponse(200, {"content-type": "application/json"}, b'{"outputs": []}')


@dataclass
class Clock:
    """A clock that moves when told to."""

    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    elapsed_s: float = 0.0

    def now(self) -> datetime:
        return self.at + timedelta(seconds=self.elapsed_s)

    def monotonic(self) -> float:
        return self.elapsed_s


@dataclass
class FakeKeys:
    """Keys in memory, for every tenant; `error` stands for a database that is away."""

    keys: dict[str, ApiKey] = field(default_factory=dict)
    lookups: int = 0
    error: ModelyardError | None = None

    async def find_key(self, key_id: str) -> ApiKey | None:
        self.lookups += 1
        if self.error is not None:
            raise self.error
        return self.keys.get(key_id)


@dataclass
class FakeTenantKeys:
    """One tenant's view."""

    store: FakeKeys
    tenant: TenantId

    async def add(self, key: ApiKey) -> None:
        self.store.keys[key.id] = key

    async def locked(self, key_id: str) -> ApiKey:
        key = self.store.keys.get(key_id)
        if key is None or key.tenant != self.tenant:
            raise NotFound("api key", key_id)
        return key

    async def save_rotated(self, key: ApiKey) -> None:
        self.store.keys[key.id] = key

    async def find(self, key_id: str) -> ApiKey | None:
        return next((key for key in self._own() if key.id == key_id), None)

    async def count_in_force(self, *, at: datetime) -> int:
        return sum(key.is_in_force(at=at) for key in self._own())

    async def list(self, *, after: KeyPlace | None, at: datetime, limit: int) -> Sequence[ApiKey]:
        keys = {key.place(at=at): key for key in self._own()}
        places = sorted(keys, reverse=True)
        return [keys[place] for place in places if after is None or place < after][:limit]

    async def revoke(self, key_id: str, *, at: datetime) -> None:
        key = await self.locked(key_id)
        self.store.keys[key_id] = replace(key, revoked_at=key.revoked_at or at)

    async def in_force_of(self, person: Person, *, at: datetime) -> Sequence[ApiKey]:
        return [key for key in self._own() if key.person == person and key.is_in_force(at=at)]

    async def revoke_all(self, key_ids: Sequence[str], *, at: datetime) -> None:
        for key_id in key_ids:
            await self.revoke(key_id, at=at)

    def _own(self) -> Sequence[ApiKey]:
        return [key for key in self.store.keys.values() if key.tenant == self.tenant]


@dataclass
class FakeTenants:
    """Tenants in memory; one that nobody made is active, without a plan."""

    clock: Clock
    keys: FakeKeys
    tenants: dict[TenantId, Tenant] = field(default_factory=dict)
    lookups: int = 0
    published: list[Tenant] = field(default_factory=list)

    @property
    def now(self) -> datetime:
        return self.clock.now()

    @asynccontextmanager
    async def changing(self) -> AsyncIterator["FakeTenants"]:
        yield self

    async def find(self, tenant: TenantId) -> Tenant | None:
        self.lookups += 1
        return self.tenants.get(tenant) or Tenant.created(tenant, Plan(), at=self.now)

    async def page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        return [self.tenants[name] for name in sorted(self.tenants) if name > after][:limit]

    async def locked_page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        return await self.page(after=after, limit=limit)

    async def add(self, tenant: Tenant, first_key: ApiKey) -> bool:
        if tenant.id in self.tenants:
            return False
        self.tenants[tenant.id] = tenant
        await self.add_key(first_key)
        return True

    async def add_key(self, key: ApiKey) -> None:
        self.keys.keys[key.id] = key

    async def get(self, tenant: TenantId) -> Tenant:
        if tenant in self.tenants:
            return self.tenants[tenant]
        if tenant != TENANT:  # whose keys ask
            raise NotFound("tenant", tenant)
        return Tenant.created(tenant, Plan(), at=self.now)

    async def save(self, before: Tenant, after: Tenant) -> None:
        self.tenants[after.id] = after

    async def due(self, *, at: datetime, limit: int) -> Sequence[Tenant]:
        found = [tenant for tenant in self.tenants.values() if tenant.purge_at is not None]
        return [tenant for tenant in found if tenant.purge_at and tenant.purge_at <= at][:limit]

    async def delete_purged_keys(self, *, limit: int) -> int:
        purged = [key for key in self.keys.keys.values() if self.tenants[key.tenant].is_purged]
        for key in purged[:limit]:
            del self.keys.keys[key.id]
        return len(purged[:limit])

    async def delete_purged_members(self, *, limit: int) -> int:
        return 0  # they are with `FakeMembers`

    async def hold(self, lease: Lease) -> None:
        """Hold nothing: nobody else is here."""

    def emit(self, tenant: Tenant) -> None:
        self.published.append(tenant)


@dataclass
class FakeMembers:
    """Members in memory, of every tenant."""

    tenants: FakeTenants
    members: dict[tuple[TenantId, Person], Member] = field(default_factory=dict)
    removed_version_max: dict[TenantId, int] = field(default_factory=dict)

    async def find_members(
        self, person: Person, *, tenant: TenantId | None, limit: int
    ) -> Sequence[Member]:
        found = [each for each in self.members.values() if each.person == person]
        return [each for each in found if tenant in (None, each.tenant)][:limit]


@dataclass
class FakeTenantMembers:
    """One tenant's view."""

    store: FakeMembers
    tenant: TenantId

    async def locked_tenant(self) -> Tenant:
        found = await self.store.tenants.find(self.tenant)
        if found is None:
            raise NotFound("tenant", self.tenant)
        return found

    async def find(self, person: Person) -> Member | None:
        return self.store.members.get((self.tenant, person))

    async def count(self) -> int:
        return len(self._own())

    async def has_administrator_beside(self, person: Person) -> bool:
        return any(each.is_administrator and each.person != person for each in self._own())

    async def add(self, member: Member) -> None:
        self.store.members[member.tenant, member.person] = member

    async def save(self, member: Member) -> None:
        self.store.members[member.tenant, member.person] = member

    async def remove(self, person: Person) -> None:
        removed = self.store.members.pop((self.tenant, person))
        kept = await self.removed_version_max()
        self.store.removed_version_max[self.tenant] = max(kept, removed.version)

    async def removed_version_max(self) -> int:
        return self.store.removed_version_max.get(self.tenant, 0)

    async def page(self, *, after: Person | None, limit: int) -> Sequence[Member]:
        begin = ("", "") if after is None else (after.issuer, after.subject)
        named = {(each.person.issuer, each.person.subject): each for each in self._own()}
        return [named[name] for name in sorted(named) if name > begin][:limit]

    def _own(self) -> list[Member]:
        return [each for each in self.store.members.values() if each.tenant == self.tenant]


@dataclass(frozen=True)
class FakeTransaction:
    """One tenant's transaction; what a failed one has done stays."""

    now: datetime
    keys: FakeTenantKeys
    members: FakeTenantMembers


@dataclass(frozen=True)
class FakeUnitOfWork:
    """Opens a tenant's transactions, one after another."""

    keys: FakeKeys
    members: FakeMembers

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[FakeTransaction]:
        yield FakeTransaction(
            self.members.tenants.now,
            FakeTenantKeys(self.keys, tenant),
            FakeTenantMembers(self.members, tenant),
        )


@dataclass
class FakeJobs:
    """A scheduler that remembers what it was asked, or fails with `error`."""

    error: ModelyardError | None = None
    submitted: list[tuple[job_service_pb2.SubmitJobRequest, str | None, str]] = field(
        default_factory=list
    )
    checked: list[job_service_pb2.CheckJobRequest] = field(default_factory=list)
    listed: list[job_service_pb2.ListJobsRequest] = field(default_factory=list)
    attempts: list[job_service_pb2.JobAttempt] = field(default_factory=list)
    attempts_asked: list[job_service_pb2.ListAttemptsRequest] = field(default_factory=list)
    stats: job_stats_pb2.JobStats = field(default_factory=job_stats_pb2.JobStats)
    stats_asked: list[job_service_pb2.GetStatsRequest] = field(default_factory=list)
    shown: list[job_pb2.Job] = field(default_factory=list)
    """What it answers first, in turn, when it is asked for a job."""

    async def submit(
        self, request: job_service_pb2.SubmitJobRequest, *, key: str | None
    ) -> job_service_pb2.SubmitJobResponse:
        self._fail()
        self.submitted.append((request, key, principal().tenant))
        return job_service_pb2.SubmitJobResponse(job=a_job(spec=request.spec))

    async def check(self, request: job_service_pb2.CheckJobRequest) -> None:
        self._fail()
        self.checked.append(request)

    async def get(self, request: job_service_pb2.GetJobRequest) -> job_service_pb2.GetJobResponse:
        self._fail()
        ended = a_job(job_id=request.job_id, state=job_pb2.JOB_STATE_SUCCEEDED, attempt_number=1)
        shown = self.shown.pop(0) if self.shown else ended
        return job_service_pb2.GetJobResponse(job=shown)

    async def explain(
        self, request: job_service_pb2.ExplainJobRequest
    ) -> job_service_pb2.ExplainJobResponse:
        self._fail()
        told = job_explanation_pb2.JobExplanation(
            job_id=request.job_id,
            state=job_pb2.JOB_STATE_QUEUED,
            hold=job_explanation_pb2.JOB_HOLD_RESOURCES,
            because="no node has room for it",
            helped_by="the end of what runs",
            jobs_before=2,
        )
        return job_service_pb2.ExplainJobResponse(explanation=told)

    async def list(
        self, request: job_service_pb2.ListJobsRequest
    ) -> job_service_pb2.ListJobsResponse:
        self._fail()
        self.listed.append(request)
        return job_service_pb2.ListJobsResponse(jobs=[a_job()])

    async def list_attempts(
        self, request: job_service_pb2.ListAttemptsRequest
    ) -> job_service_pb2.ListAttemptsResponse:
        self._fail()
        self.attempts_asked.append(request)
        return job_service_pb2.ListAttemptsResponse(attempts=self.attempts)

    async def get_stats(
        self, request: job_service_pb2.GetStatsRequest
    ) -> job_service_pb2.GetStatsResponse:
        self._fail()
        self.stats_asked.append(request)
        return job_service_pb2.GetStatsResponse(stats=self.stats)

    async def cancel(
        self, request: job_service_pb2.CancelJobRequest
    ) -> job_service_pb2.CancelJobResponse:
        self._fail()
        return job_service_pb2.CancelJobResponse(
            job=a_job(job_id=request.job_id, state=job_pb2.JOB_STATE_STOPPING)
        )

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


@dataclass
class FakeDeployments:
    """A scheduler with one deployment, or one that fails; remembers what it is to delete."""

    version: int = 2
    deleted: list[deployment_service_pb2.DeleteDeploymentRequest] = field(default_factory=list)
    replicas: list[deployment_pb2.Replica] = field(default_factory=list)
    error: ModelyardError | None = None

    async def create(
        self, request: deployment_service_pb2.CreateDeploymentRequest, *, key: str | None
    ) -> deployment_service_pb2.CreateDeploymentResponse:
        return deployment_service_pb2.CreateDeploymentResponse(
            deployment=deployment_pb2.Deployment(
                id="dep_1",
                spec=request.spec,
                state=deployment_pb2.DEPLOYMENT_STATE_PREPARING,
                version=self.version,
            )
        )

    async def get(
        self, request: deployment_service_pb2.GetDeploymentRequest
    ) -> deployment_service_pb2.GetDeploymentResponse:
        if self.error is not None:
            raise self.error
        return deployment_service_pb2.GetDeploymentResponse(
            deployment=deployment_pb2.Deployment(
                id="dep_1",
                state=deployment_pb2.DEPLOYMENT_STATE_SERVING,
                version=self.version,
                replicas=self.replicas,
            )
        )

    async def explain(
        self, request: deployment_service_pb2.ExplainDeploymentRequest
    ) -> deployment_service_pb2.ExplainDeploymentResponse:
        told = deployment_explanation_pb2.DeploymentExplanation(
            deployment_id="dep_1",
            state=deployment_pb2.DEPLOYMENT_STATE_PREPARING,
            waiting_count=2,
            hold=job_explanation_pb2.JOB_HOLD_PLAN,
            because="its tenant's replicas before it take what the plan lets it take",
            helped_by="a larger plan",
            estimate_basis=job_explanation_pb2.ESTIMATE_BASIS_HISTORY,
        )
        told.estimated_start_at.seconds = 1_800_000_000
        return deployment_service_pb2.ExplainDeploymentResponse(explanation=told)

    async def list(
        self, request: deployment_service_pb2.ListDeploymentsRequest
    ) -> deployment_service_pb2.ListDeploymentsResponse:
        return deployment_service_pb2.ListDeploymentsResponse()

    async def delete(
        self, request: deployment_service_pb2.DeleteDeploymentRequest
    ) -> deployment_service_pb2.DeleteDeploymentResponse:
        check_version(
            "deployment",
            request.deployment,
            current=self.version,
            if_version=request.if_version or None,
        )
        self.deleted.append(request)
        return deployment_service_pb2.DeleteDeploymentResponse(
            deployment=deployment_pb2.Deployment(
                id="dep_1",
                state=deployment_pb2.DEPLOYMENT_STATE_DELETING,
                version=self.version + 1,
            )
        )


class FakeNodes:
    """A scheduler with one node, whose container runtime is away."""

    async def list(self) -> node_service_pb2.ListNodesResponse:
        node = node_pb2.Node(
            id="node-1", alive=True, runtime="docker", runtime_down_since=Timestamp(seconds=60)
        )
        return node_service_pb2.ListNodesResponse(nodes=[node], node_count=1)

    async def cordon(
        self, request: node_service_pb2.CordonNodeRequest
    ) -> node_service_pb2.CordonNodeResponse:
        node = node_pb2.Node(id=request.node_id, cordoned_at=Timestamp(seconds=60))
        return node_service_pb2.CordonNodeResponse(node=node)

    async def drain(
        self, request: node_service_pb2.DrainNodeRequest
    ) -> node_service_pb2.DrainNodeResponse:
        at = Timestamp(seconds=60)
        node = node_pb2.Node(id=request.node_id, cordoned_at=at, draining_since=at)
        return node_service_pb2.DrainNodeResponse(node=node)

    async def uncordon(
        self, request: node_service_pb2.UncordonNodeRequest
    ) -> node_service_pb2.UncordonNodeResponse:
        return node_service_pb2.UncordonNodeResponse(node=node_pb2.Node(id=request.node_id))


@dataclass
class FakeQueues:
    """A scheduler with one queue, which is paused."""

    listed: list[queue_service_pb2.ListQueuesRequest] = field(default_factory=list)

    async def list(
        self, request: queue_service_pb2.ListQueuesRequest
    ) -> queue_service_pb2.ListQueuesResponse:
        self.listed.append(request)
        paused = queue_pb2.Queue(
            name="nightly",
            paused_at=Timestamp(seconds=60),
            paused_reason="it is day",
            queued_count=2,
            running_count=1,
        )
        answer = queue_service_pb2.ListQueuesResponse(queues=[paused])
        answer.page.next_page_token = "next"
        return answer

    async def pause(
        self, request: queue_service_pb2.PauseQueueRequest
    ) -> queue_service_pb2.PauseQueueResponse:
        paused = queue_pb2.Queue(
            name=request.queue, paused_at=Timestamp(seconds=60), paused_reason=request.reason
        )
        return queue_service_pb2.PauseQueueResponse(queue=paused)

    async def resume(
        self, request: queue_service_pb2.ResumeQueueRequest
    ) -> queue_service_pb2.ResumeQueueResponse:
        return queue_service_pb2.ResumeQueueResponse(queue=queue_pb2.Queue(name=request.queue))


@dataclass
class FakeModels:
    """A registry with one model, whose aliases are all at one revision."""

    alias_revision: int = 4
    changed: list[model_service_pb2.SetAliasRequest | model_service_pb2.DeleteAliasRequest] = field(
        default_factory=list
    )

    async def create(
        self, request: model_service_pb2.CreateModelRequest, *, key: str | None
    ) -> model_service_pb2.CreateModelResponse:
        return model_service_pb2.CreateModelResponse(model=model_pb2.Model(name=request.name))

    async def get(
        self, request: model_service_pb2.GetModelRequest
    ) -> model_service_pb2.GetModelResponse:
        return model_service_pb2.GetModelResponse(model=model_pb2.Model(name=request.name))

    async def list(
        self, request: model_service_pb2.ListModelsRequest
    ) -> model_service_pb2.ListModelsResponse:
        return model_service_pb2.ListModelsResponse()

    async def create_version(
        self, request: model_service_pb2.CreateVersionRequest, *, key: str | None
    ) -> model_service_pb2.CreateVersionResponse:
        return model_service_pb2.CreateVersionResponse(version=self._version(request.model_name))

    async def get_version(
        self, request: model_service_pb2.GetVersionRequest
    ) -> model_service_pb2.GetVersionResponse:
        return model_service_pb2.GetVersionResponse(
            version=self._version(request.model_name),
            alias_revision=self.alias_revision if request.alias else 0,
        )

    async def list_versions(
        self, request: model_service_pb2.ListVersionsRequest
    ) -> model_service_pb2.ListVersionsResponse:
        return model_service_pb2.ListVersionsResponse(versions=[self._version(request.model_name)])

    async def set_alias(
        self, request: model_service_pb2.SetAliasRequest
    ) -> model_service_pb2.SetAliasResponse:
        self._check(request)
        alias = model_pb2.Alias(
            name=request.alias, version=request.version, revision=self.alias_revision + 1
        )
        return model_service_pb2.SetAliasResponse(
            model=model_pb2.Model(name=request.model_name, aliases=[alias])
        )

    async def delete_alias(
        self, request: model_service_pb2.DeleteAliasRequest
    ) -> model_service_pb2.DeleteAliasResponse:
        self._check(request)
        return model_service_pb2.DeleteAliasResponse(model=model_pb2.Model(name=request.model_name))

    async def set_tags(
        self, request: model_service_pb2.SetModelTagsRequest
    ) -> model_service_pb2.SetModelTagsResponse:
        return model_service_pb2.SetModelTagsResponse(
            model=model_pb2.Model(name=request.model_name, tags=request.tags)
        )

    def _check(
        self, request: model_service_pb2.SetAliasRequest | model_service_pb2.DeleteAliasRequest
    ) -> None:
        check_version(
            "alias",
            f"{request.model_name}@{request.alias}",
            current=self.alias_revision,
            if_version=request.if_revision or None,
            counted_as="revision",
        )
        self.changed.append(request)

    def _version(self, name: str) -> model_pb2.ModelVersion:
        return model_pb2.ModelVersion(
            model_name=name, version=1, state=model_pb2.VERSION_STATE_READY
        )


@dataclass
class FakeArtifacts:
    """Bytes in memory."""

    stored: dict[str, bytes] = field(default_factory=dict)

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str, size_bytes: int
    ) -> artifact_service_pb2.PutArtifactResponse:
        body = b"".join([chunk async for chunk in chunks])
        digest = digest or "sha256:" + "0" * 64
        self.stored[digest] = body
        return artifact_service_pb2.PutArtifactResponse(digest=digest, size_bytes=len(body))

    async def stat(self, digest: str) -> artifact_service_pb2.StatArtifactResponse:
        if digest not in self.stored:
            raise NotFound("artifact", digest)
        return artifact_service_pb2.StatArtifactResponse(
            digest=digest, size_bytes=len(self.stored[digest])
        )

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        yield self.stored[digest]


@dataclass
class FakeLogs:
    """Two lines, live or as a page; `error` ends a stream after the first."""

    error: ModelyardError | None = None
    quiet_count: int = 0
    """How often a stream says that nothing is new, before its last line."""
    meanwhile: Callable[[], None] = lambda: None
    """What happens after a stream's first line."""
    followed: list[log_service_pb2.FollowLogsRequest] = field(default_factory=list)

    async def read(
        self, request: log_service_pb2.ReadLogsRequest
    ) -> log_service_pb2.ReadLogsResponse:
        return log_service_pb2.ReadLogsResponse(
            records=[a_line(1), a_line(2)],
            next=log_service_pb2.LogPosition(attempt_number=1, sequence=2),
            complete=True,
        )

    async def follow(
        self, request: log_service_pb2.FollowLogsRequest
    ) -> AsyncGenerator[log_service_pb2.FollowLogsResponse, None]:
        self.followed.append(request)
        attempt_number = max(1, request.after.attempt_number)
        yield log_service_pb2.FollowLogsResponse(records=[a_line(1, attempt_number)])
        self.meanwhile()
        if self.error is not None:
            raise self.error
        for _ in range(self.quiet_count):
            yield log_service_pb2.FollowLogsResponse()
        yield log_service_pb2.FollowLogsResponse(
            records=[a_line(2, attempt_number)],
            complete=True,
            last_attempt_number=attempt_number,
        )


@dataclass
class FakeReplicas:
    """Replicas that answer, but for those whose address is in `refusing`."""

    refusing: set[str] = field(default_factory=set)
    answer: InferenceResponse = ANSWER
    sent: list[tuple[str, InferenceRequest]] = field(default_factory=list)

    async def send(self, address: str, request: InferenceRequest) -> InferenceResponse:
        if address in self.refusing:
            raise NotSent(address)
        self.sent.append((address, request))
        return self.answer


@dataclass
class Edge:
    """The gateway under test and its fakes."""

    clock: Clock = field(default_factory=Clock)
    keys: FakeKeys = field(default_factory=FakeKeys)
    tenants: FakeTenants = field(init=False)
    members: FakeMembers = field(init=False)
    unit_of_work: FakeUnitOfWork = field(init=False)
    makers: Makers = field(init=False)
    issuer: str | None = "https://issuer.test"
    members_max: int = 100
    keys_max: int = 100
    tokens: AuthenticateToken | None = None
    """Lets people in; those of `issuer` are who its tenants' lists of members say."""
    jobs: FakeJobs = field(default_factory=FakeJobs)
    deployments: FakeDeployments = field(default_factory=FakeDeployments)
    queues: FakeQueues = field(default_factory=FakeQueues)
    models: FakeModels = field(default_factory=FakeModels)
    artifacts: FakeArtifacts = field(default_factory=FakeArtifacts)
    logs: FakeLogs = field(default_factory=FakeLogs)
    replicas: FakeReplicas = field(default_factory=FakeReplicas)
    routes: RoutingTable = field(default_factory=RoutingTable)
    requests_max: int = 100
    key_requests_max: int = 100
    burst: str = "1000/second"

    def gateway(self) -> Gateway:
        """Return what the application is built with."""
        new_keys = NewKeys(self.clock, TimeOrderedIds(self.clock), lambda: SECRET)
        window = timedelta(seconds=60)
        standing = TenantStanding(self.tenants, self.clock)
        return Gateway(
            authenticate=Authenticate(self.keys, self.clock, tokens=self.tokens),
            standing=standing,
            tenants=self.tenants,
            create_tenant=CreateTenant(self.tenants, new_keys),
            issue_tenant_key=IssueTenantKey(self.tenants, new_keys),
            change_tenant=ChangeTenant(self.tenants, standing),
            issue_key=IssueKey(self.unit_of_work, new_keys, self.makers, self.keys_max),
            list_keys=ListKeys(self.unit_of_work),
            rotate_key=RotateKey(self.unit_of_work, new_keys, self.makers, self.keys_max),
            revoke_key=RevokeKey(self.unit_of_work),
            put_member=PutMember(self.unit_of_work, self.clock, self.makers, self.members_max),
            list_members=ListMembers(self.tenants, self.unit_of_work),
            remove_member=RemoveMember(self.unit_of_work, self.makers),
            issuer=self.issuer,
            infer=Infer(self.routes, self.replicas, self.clock),
            jobs=self.jobs,
            deployments=self.deployments,
            nodes=FakeNodes(),
            queues=self.queues,
            models=self.models,
            artifacts=self.artifacts,
            logs=self.logs,
            limiter=memory_rate_limiter(SystemClock()),
            burst_limiter=BurstLimiter(),
            policies=EdgePolicies(
                tenant=RatePolicy("tenant", self.requests_max, window),
                source=RatePolicy("source", self.requests_max, window),
                key=RatePolicy("key", self.key_requests_max, window),
                burst=self.burst,
                body_bytes_max=10_000,
                artifact_bytes_max=100_000,
                inference_bytes_max=50_000,
            ),
            readiness=Readiness(),
            clock=self.clock,
        )

    def __post_init__(self) -> None:
        self.tenants = FakeTenants(self.clock, self.keys)
        self.members = FakeMembers(self.tenants)
        self.unit_of_work = FakeUnitOfWork(self.keys, self.members)
        self.makers = Makers(self.issuer, are_members=True)

    def client(self, *, key: str | None = None) -> httpx.AsyncClient:
        """Return a client of the application; by default without a credential."""
        return client_of(build_app(self.gateway(), ids=TimeOrderedIds(self.clock)), key=key)

    async def key(
        self, *scopes: str, tenant: TenantId = TENANT, lifetime: timedelta | None = None
    ) -> str:
        """Issue a key and return its text."""
        new_keys = NewKeys(self.clock, TimeOrderedIds(self.clock), lambda: SECRET)
        issuer = Principal(tenant, "test", SCOPES)
        _, text = await IssueKey(self.unit_of_work, new_keys, self.makers)(
            issuer, name="test", scopes=frozenset(scopes or {"admin"}), lifetime=lifetime
        )
        return text


def client_of(
    app: ASGIApp, *, key: str | None = None, source: str = "127.0.0.1"
) -> httpx.AsyncClient:
    """Return a client of an application, at a network address."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=app, raise_app_exceptions=False, client=(source, 1)),
        base_url="http://edge",
        headers={} if key is None else {"Authorization": f"Bearer {key}"},
    )


def a_job(
    *,
    job_id: str = "job_1",
    state: job_pb2.JobState.ValueType = job_pb2.JOB_STATE_QUEUED,
    spec: job_pb2.JobSpec | None = None,
    attempt_number: int = 0,
) -> job_pb2.Job:
    """Return a job as the scheduler would."""
    return job_pb2.Job(
        id=job_id,
        spec=spec or job_pb2.JobSpec(name="n"),
        state=state,
        version=1,
        attempt_number=attempt_number,
    )


def a_line(sequence: int, attempt_number: int = 1) -> log_record_pb2.LogRecord:
    """Return a line of output."""
    return log_record_pb2.LogRecord(
        attempt_id=f"att_{attempt_number}",
        attempt_number=attempt_number,
        sequence=sequence,
        source=log_record_pb2.LOG_SOURCE_STDOUT,
        text=f"line {sequence} ü",
        gap=sequence == 2,
    )


def a_spec(**changes: object) -> dict[str, object]:
    """Return the smallest job that is accepted."""
    return {"name": "n", "image": "modelyard/base", "command": ["true"], **changes}
