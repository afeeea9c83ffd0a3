"""What the routes are given, and how a route reaches it."""

from dataclasses import dataclass

from fastapi import Request
from slowapi import Limiter

from services.api_gateway.domain.rate_limit import RatePolicy
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.create_tenant import CreateTenant, IssueTenantKey
from services.api_gateway.use_cases.infer import Infer
from services.api_gateway.use_cases.manage_keys import IssueKey, ListKeys, RevokeKey, RotateKey
from services.api_gateway.use_cases.manage_members import ListMembers, PutMember, RemoveMember
from services.api_gateway.use_cases.manage_tenants import ChangeTenant
from services.api_gateway.use_cases.ports import (
    ArtifactsClient,
    DeploymentsClient,
    JobsClient,
    LogsClient,
    ModelsClient,
    NodesClient,
    QueuesClient,
    RateLimiter,
    TenantStore,
)
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import Clock
from services.chassis.lifecycle import Readiness


@dataclass(frozen=True, slots=True)
class EdgePolicies:
    """The edge's bounds on requests."""

    tenant: RatePolicy
    """Requests of one tenant, over all replicas of the gateway."""
    source: RatePolicy
    """Requests without a valid credential, by network address."""
    key: RatePolicy
    """Requests with a wrong secret, by the id of the key."""
    burst: str
    """Requests of one tenant to one `/v1` route in one process, in slowapi's notation."""
    body_bytes_max: int
    artifact_bytes_max: int
    inference_bytes_max: int

    def bytes_max_of(self, path: str) -> int:
        """Return the largest body that a path takes."""
        if path.startswith("/v2"):
            return self.inference_bytes_max
        return self.artifact_bytes_max if path.startswith("/v1/artifacts") else self.body_bytes_max


@dataclass(frozen=True, slots=True)
class Gateway:
    """All that the REST API drives."""

    authenticate: Authenticate
    standing: TenantStanding
    tenants: TenantStore
    create_tenant: CreateTenant
    issue_tenant_key: IssueTenantKey
    change_tenant: ChangeTenant
    issue_key: IssueKey
    list_keys: ListKeys
    rotate_key: RotateKey
    revoke_key: RevokeKey
    put_member: PutMember
    list_members: ListMembers
    remove_member: RemoveMember
    issuer: str | None
    """Whose tokens let people in; None: nobody's."""
    infer: Infer
    jobs: JobsClient
    deployments: DeploymentsClient
    nodes: NodesClient
    queues: QueuesClient
    models: ModelsClient
    artifacts: ArtifactsClient
    logs: LogsClient
    limiter: RateLimiter
    burst_limiter: Limiter
    policies: EdgePolicies
    readiness: Readiness
    clock: Clock


def gateway(request: Request) -> Gateway:
    """Return what the application was built with."""
    found = request.app.state.gateway
    assert isinstance(found, Gateway)
    return found
