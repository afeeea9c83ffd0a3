"""What the routes are given, and how a route reaches it."""

from dataclasses import dataclass

from fastapi import Request
from opentelemetry.trace import TracerProvider
from slowapi import Limiter

from services.api_gateway.domain.rate_limit import RatePolicy
from services.api_gateway.domain.scopes import require
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.infer import Infer
from services.api_gateway.use_cases.manage_keys import IssueKey, ListKeys, RevokeKey
from services.api_gateway.use_cases.ports import (
    ArtifactsClient,
    DeploymentsClient,
    JobsClient,
    LogsClient,
    ModelsClient,
    RateLimiter,
)
from services.chassis.clock import Clock
from services.chassis.lifecycle import Readiness
from services.chassis.tenancy import Principal


@dataclass(frozen=True, slots=True)
class EdgePolicies:
    """The edge's bounds on requests."""

    tenant: RatePolicy
    """Requests of one tenant, over all replicas of the gateway."""
    source: RatePolicy
    """Requests without a valid credential, by network address."""
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
    issue_key: IssueKey
    list_keys: ListKeys
    revoke_key: RevokeKey
    infer: Infer
    jobs: JobsClient
    deployments: DeploymentsClient
    models: ModelsClient
    artifacts: ArtifactsClient
    logs: LogsClient
    limiter: RateLimiter
    burst_limiter: Limiter
    policies: EdgePolicies
    readiness: Readiness
    clock: Clock
    tracer_provider: TracerProvider


def gateway(request: Request) -> Gateway:
    """Return what the application was built with."""
    found = request.app.state.gateway
    assert isinstance(found, Gateway)
    return found


def caller(request: Request, scope: str) -> Principal:
    """Return the authenticated principal; raises PermissionDenied without the scope."""
    principal = request.scope["modelyard.principal"]
    assert isinstance(principal, Principal)
    require(principal, scope)
    return principal
