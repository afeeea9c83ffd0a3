"""What the gateway needs from outside.

Jobs, models, deployments and logs belong to other services: for them the ports speak the owner's
own protobuf, and a route translates JSON to it and back (ADR-0008). Keys and tenants are the
gateway's.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime, timedelta
from typing import Protocol

from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb
from modelyard.registry.v1 import model_service_pb2 as models_pb
from modelyard.scheduler.v1 import deployment_service_pb2 as deployments_pb
from modelyard.scheduler.v1 import job_service_pb2 as jobs_pb
from modelyard.scheduler.v1 import node_service_pb2 as nodes_pb
from modelyard.scheduler.v1 import queue_service_pb2 as queues_pb

from services.api_gateway.domain.api_key import ApiKey, KeyPlace
from services.api_gateway.domain.member import Member, Person
from services.api_gateway.domain.rate_limit import RateDecision, RatePolicy
from services.api_gateway.domain.tenant import Tenant
from services.chassis.tenancy import TenantId


class KeyRepository(Protocol):
    """A tenant's API keys."""

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""
        ...

    async def locked(self, key_id: str) -> ApiKey:
        """Return a key that nobody else changes before this transaction's end; raises NotFound."""
        ...

    async def save_rotated(self, key: ApiKey) -> None:
        """Store a locked key's end and successor."""
        ...

    async def find(self, key_id: str) -> ApiKey | None:
        """Return a key, or None."""
        ...

    async def count_in_force(self, *, at: datetime) -> int:
        """Return how many are neither revoked nor expired."""
        ...

    async def list(self, *, after: KeyPlace | None, at: datetime, limit: int) -> Sequence[ApiKey]:
        """Return keys after a place, those in force first, and of each the newest."""
        ...

    async def revoke(self, key_id: str, *, at: datetime) -> None:
        """Put a key out of force; raises NotFound. Again: no change."""
        ...

    async def in_force_of(self, person: Person, *, at: datetime) -> Sequence[ApiKey]:
        """Return the keys in force that somebody is behind, locked."""
        ...

    async def revoke_all(self, key_ids: Sequence[str], *, at: datetime) -> None:
        """Put keys out of force that this transaction has locked."""
        ...


class Directory(Protocol):
    """What authentication reads, across tenants."""

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, whatever its tenant."""
        ...


class MemberRepository(Protocol):
    """A tenant's members."""

    async def locked_tenant(self) -> Tenant:
        """Return the tenant, whose members nobody else changes meanwhile; raises NotFound."""
        ...

    async def find(self, person: Person) -> Member | None:
        """Return somebody's membership."""
        ...

    async def count(self) -> int:
        """Return how many there are."""
        ...

    async def has_administrator_beside(self, person: Person) -> bool:
        """Tell whether somebody else administers the tenant, whoever their issuer is."""
        ...

    async def add(self, member: Member) -> None:
        """Store a new member."""
        ...

    async def save(self, member: Member) -> None:
        """Store a member that this transaction has found, with other roles."""
        ...

    async def remove(self, person: Person) -> None:
        """Delete the membership of somebody whom this transaction has found."""
        ...

    async def removed_version_max(self) -> int:
        """Return the greatest version of a member who was removed, 0 when nobody was."""
        ...

    async def page(self, *, after: Person | None, limit: int) -> Sequence[Member]:
        """Return members by issuer and subject, after this one."""
        ...


class Transaction(Protocol):
    """One transaction for one tenant."""

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        ...

    @property
    def keys(self) -> KeyRepository:
        """The tenant's keys."""
        ...

    @property
    def members(self) -> MemberRepository:
        """The tenant's members."""
        ...


class UnitOfWork(Protocol):
    """Opens transactions."""

    def __call__(self, tenant: TenantId) -> AbstractAsyncContextManager[Transaction]:
        """One transaction; commits on a clean exit."""
        ...


class MemberDirectory(Protocol):
    """What authentication reads of members, across tenants."""

    async def find_members(
        self, person: Person, *, tenant: TenantId | None, limit: int
    ) -> Sequence[Member]:
        """Return somebody's memberships, or the one of a tenant."""
        ...


class TokenIssuer(Protocol):
    """Somebody else who knows our users."""

    async def claims(self, token: str) -> Mapping[str, object]:
        """Return what the issuer says in a token; raises Unauthenticated, Unavailable."""
        ...


class Lease(Protocol):
    """A lease that this process holds, or held."""

    @property
    def name(self) -> str:
        """Return what it is for."""
        ...

    @property
    def holder(self) -> str:
        """Return the process start that holds it."""
        ...

    @property
    def epoch(self) -> int:
        """Return the how-manieth holder it has."""
        ...


class TenantTransaction(Protocol):
    """One transaction over tenants, for those who administer the platform."""

    @property
    def now(self) -> datetime:
        """Return the one instant that this transaction stamps."""
        ...

    async def add(self, tenant: Tenant, first_key: ApiKey) -> bool:
        """Store and publish a new tenant with its first key; False when it exists."""
        ...

    async def add_key(self, key: ApiKey) -> None:
        """Store a key of a tenant."""
        ...

    async def get(self, tenant: TenantId) -> Tenant:
        """Return a tenant and keep it from changing until the commit; raises NotFound."""
        ...

    async def save(self, before: Tenant, after: Tenant) -> None:
        """Store and publish a tenant that this transaction has read and changed."""
        ...

    async def locked_page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        """Return tenants by name, none of which changes until the commit."""
        ...

    async def due(self, *, at: datetime, limit: int) -> Sequence[Tenant]:
        """Return tenants whose grace is over by then, locked, the longest since first."""
        ...

    async def delete_purged_keys(self, *, limit: int) -> int:
        """Delete keys of tenants that are PURGED; returns how many."""
        ...

    async def delete_purged_members(self, *, limit: int) -> int:
        """Delete members of tenants that are PURGED; returns how many."""
        ...

    async def hold(self, lease: Lease) -> None:
        """Begin a lease holder's transaction with this; raises Conflict when it is over."""
        ...

    def emit(self, tenant: Tenant) -> None:
        """Publish the tenant as it is if and only if this transaction commits."""
        ...


class TenantStore(Protocol):
    """All tenants."""

    def changing(self) -> AbstractAsyncContextManager[TenantTransaction]:
        """Open a transaction; commits on a clean exit."""
        ...

    async def find(self, tenant: TenantId) -> Tenant | None:
        """Return the tenant, or None."""
        ...

    async def page(self, *, after: str, limit: int) -> Sequence[Tenant]:
        """Return tenants by name, after this one."""
        ...


class KeyUseStore(Protocol):
    """Where keys' last uses are written, across tenants."""

    async def write_uses(self, uses: Mapping[str, datetime], *, again_after: timedelta) -> None:
        """Store each key's last use, unless one is stored that is less than `again_after` older."""
        ...


class RateLimiter(Protocol):
    """Counts requests."""

    async def hit(self, policy: RatePolicy, key: str) -> RateDecision:
        """Count one request of `key`; never blocks long and never fails."""
        ...


class JobsClient(Protocol):
    """The scheduler's JobService."""

    async def submit(
        self, request: jobs_pb.SubmitJobRequest, *, key: str | None
    ) -> jobs_pb.SubmitJobResponse:
        """Queue a job; repeatable only with an idempotency key."""
        ...

    async def check(self, request: jobs_pb.CheckJobRequest) -> None:
        """Raise what a submission would be refused for."""
        ...

    async def get(self, request: jobs_pb.GetJobRequest) -> jobs_pb.GetJobResponse:
        """Show a job."""
        ...

    async def explain(self, request: jobs_pb.ExplainJobRequest) -> jobs_pb.ExplainJobResponse:
        """Say what holds a job."""
        ...

    async def list(self, request: jobs_pb.ListJobsRequest) -> jobs_pb.ListJobsResponse:
        """Show a page of jobs."""
        ...

    async def list_attempts(
        self, request: jobs_pb.ListAttemptsRequest
    ) -> jobs_pb.ListAttemptsResponse:
        """Show a page of a job's attempts."""
        ...

    async def get_stats(self, request: jobs_pb.GetStatsRequest) -> jobs_pb.GetStatsResponse:
        """Show how a tenant's jobs have fared."""
        ...

    async def cancel(self, request: jobs_pb.CancelJobRequest) -> jobs_pb.CancelJobResponse:
        """Ask for a job's end."""
        ...


class NodesClient(Protocol):
    """The scheduler's NodeService."""

    async def list(self) -> nodes_pb.ListNodesResponse:
        """Show the nodes."""
        ...

    async def cordon(self, request: nodes_pb.CordonNodeRequest) -> nodes_pb.CordonNodeResponse:
        """Place nothing new on a node."""
        ...

    async def drain(self, request: nodes_pb.DrainNodeRequest) -> nodes_pb.DrainNodeResponse:
        """Move off what runs on a node."""
        ...

    async def uncordon(
        self, request: nodes_pb.UncordonNodeRequest
    ) -> nodes_pb.UncordonNodeResponse:
        """Open a node again."""
        ...


class QueuesClient(Protocol):
    """The scheduler's QueueService."""

    async def list(self, request: queues_pb.ListQueuesRequest) -> queues_pb.ListQueuesResponse:
        """Show a page of queues."""
        ...

    async def pause(self, request: queues_pb.PauseQueueRequest) -> queues_pb.PauseQueueResponse:
        """Admit nothing of a queue any more."""
        ...

    async def resume(self, request: queues_pb.ResumeQueueRequest) -> queues_pb.ResumeQueueResponse:
        """End a queue's pause."""
        ...


class DeploymentsClient(Protocol):
    """The scheduler's DeploymentService."""

    async def create(
        self, request: deployments_pb.CreateDeploymentRequest, *, key: str | None
    ) -> deployments_pb.CreateDeploymentResponse:
        """Start serving; repeatable only with an idempotency key."""
        ...

    async def get(
        self, request: deployments_pb.GetDeploymentRequest
    ) -> deployments_pb.GetDeploymentResponse:
        """Show a deployment."""
        ...

    async def explain(
        self, request: deployments_pb.ExplainDeploymentRequest
    ) -> deployments_pb.ExplainDeploymentResponse:
        """Say what holds a deployment's replicas."""
        ...

    async def list(
        self, request: deployments_pb.ListDeploymentsRequest
    ) -> deployments_pb.ListDeploymentsResponse:
        """Show a page of deployments."""
        ...

    async def delete(
        self, request: deployments_pb.DeleteDeploymentRequest
    ) -> deployments_pb.DeleteDeploymentResponse:
        """Ask for a deployment's end."""
        ...


class ModelsClient(Protocol):
    """The registry's ModelService."""

    async def create(
        self, request: models_pb.CreateModelRequest, *, key: str | None
    ) -> models_pb.CreateModelResponse:
        """Make a model."""
        ...

    async def get(self, request: models_pb.GetModelRequest) -> models_pb.GetModelResponse:
        """Show a model."""
        ...

    async def list(self, request: models_pb.ListModelsRequest) -> models_pb.ListModelsResponse:
        """Show a page of models."""
        ...

    async def create_version(
        self, request: models_pb.CreateVersionRequest, *, key: str | None
    ) -> models_pb.CreateVersionResponse:
        """Make a version from stored files."""
        ...

    async def get_version(
        self, request: models_pb.GetVersionRequest
    ) -> models_pb.GetVersionResponse:
        """Show a version."""
        ...

    async def list_versions(
        self, request: models_pb.ListVersionsRequest
    ) -> models_pb.ListVersionsResponse:
        """Show a page of versions."""
        ...

    async def set_alias(self, request: models_pb.SetAliasRequest) -> models_pb.SetAliasResponse:
        """Point an alias at a version."""
        ...

    async def delete_alias(
        self, request: models_pb.DeleteAliasRequest
    ) -> models_pb.DeleteAliasResponse:
        """Remove an alias."""
        ...

    async def set_tags(
        self, request: models_pb.SetModelTagsRequest
    ) -> models_pb.SetModelTagsResponse:
        """Replace a model's tags."""
        ...


class ArtifactsClient(Protocol):
    """The registry's ArtifactService."""

    async def put(
        self, chunks: AsyncIterator[bytes], *, digest: str, size_bytes: int
    ) -> artifacts_pb.PutArtifactResponse:
        """Store bytes; "" and -1 stand for unknown."""
        ...

    async def stat(self, digest: str) -> artifacts_pb.StatArtifactResponse:
        """Tell a stored artifact's size; raises NotFound."""
        ...

    def get(self, digest: str) -> AsyncIterator[bytes]:
        """Stream stored bytes; raises NotFound at the first step."""
        ...


class LogsClient(Protocol):
    """The log collector's LogService."""

    async def read(self, request: logs_pb.ReadLogsRequest) -> logs_pb.ReadLogsResponse:
        """Return one page."""
        ...

    def follow(
        self, request: logs_pb.FollowLogsRequest
    ) -> AsyncGenerator[logs_pb.FollowLogsResponse, None]:
        """Stream records until the output is complete; to be closed by its reader."""
        ...
