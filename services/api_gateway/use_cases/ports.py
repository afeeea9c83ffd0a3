"""What the gateway needs from outside.

Jobs, models, deployments and logs belong to other services: for them the ports speak the owner's
own protobuf, and a route translates JSON to it and back (ADR-0008). Keys and tenants are the
gateway's.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol

from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb
from modelyard.registry.v1 import model_service_pb2 as models_pb
from modelyard.scheduler.v1 import deployment_service_pb2 as deployments_pb
from modelyard.scheduler.v1 import job_service_pb2 as jobs_pb

from services.api_gateway.domain.api_key import ApiKey
from services.api_gateway.domain.rate_limit import RateDecision, RatePolicy
from services.chassis.tenancy import TenantId


class KeyRepository(Protocol):
    """A tenant's API keys."""

    async def add(self, key: ApiKey) -> None:
        """Store a new key."""
        ...

    async def get(self, key_id: str) -> ApiKey:
        """Return a key; raises NotFound."""
        ...

    async def list(self, *, limit: int) -> Sequence[ApiKey]:
        """Return the newest keys."""
        ...

    async def revoke(self, key_id: str, *, at: datetime) -> None:
        """Put a key out of force; raises NotFound. Again: no change."""
        ...


class KeyTransaction(Protocol):
    """One transaction for one tenant."""

    @property
    def keys(self) -> KeyRepository:
        """The tenant's keys."""
        ...


class UnitOfWork(Protocol):
    """Opens transactions."""

    def __call__(self, tenant: TenantId) -> AbstractAsyncContextManager[KeyTransaction]:
        """One transaction; commits on a clean exit."""
        ...


class Directory(Protocol):
    """What authentication reads and the first start writes, across tenants."""

    async def find_key(self, key_id: str) -> ApiKey | None:
        """Return the key with this id, whatever its tenant."""
        ...

    async def add_tenant(self, tenant: TenantId, first_key: ApiKey) -> bool:
        """Make a tenant and its first key in one transaction; False when it exists."""
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

    async def get(self, request: jobs_pb.GetJobRequest) -> jobs_pb.GetJobResponse:
        """Show a job."""
        ...

    async def list(self, request: jobs_pb.ListJobsRequest) -> jobs_pb.ListJobsResponse:
        """Show a page of jobs."""
        ...

    async def cancel(self, request: jobs_pb.CancelJobRequest) -> jobs_pb.CancelJobResponse:
        """Ask for a job's end."""
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
