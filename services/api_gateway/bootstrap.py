"""The gateway's wiring: settings → ports → use cases → routes → loops."""

import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from fastapi import Request
from modelyard.logs.v1.log_service_pb2_grpc import LogServiceStub
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceStub
from modelyard.scheduler.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub
from opentelemetry.trace import TracerProvider
from slowapi import Limiter

from services.api_gateway.adapters.logs_client import GrpcLogs
from services.api_gateway.adapters.postgres.keys import KeyUnitOfWork, PostgresDirectory
from services.api_gateway.adapters.postgres.tables import chassis
from services.api_gateway.adapters.rate_limiter import (
    memory_rate_limiter,
    redis_client,
    redis_rate_limiter,
)
from services.api_gateway.adapters.registry_client import GrpcArtifacts, GrpcModels
from services.api_gateway.adapters.replicas_http import open_replicas
from services.api_gateway.adapters.scheduler_client import GrpcDeployments, GrpcJobs
from services.api_gateway.domain.rate_limit import RatePolicy
from services.api_gateway.domain.routing import RoutingTable
from services.api_gateway.entrypoints.consumers.replica_endpoints import (
    TOPIC,
    ApplyReplicaEndpoints,
)
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.dependencies import EdgePolicies, Gateway
from services.api_gateway.entrypoints.rest.server import HttpServer
from services.api_gateway.settings import LimitSettings, Settings
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.create_tenant import CreateTenant
from services.api_gateway.use_cases.infer import Infer
from services.api_gateway.use_cases.manage_keys import IssueKey, ListKeys, NewKeys, RevokeKey
from services.api_gateway.use_cases.ports import RateLimiter
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import Unavailable
from services.chassis.events.projection import CompactedProjection
from services.chassis.ids import TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import open_tracing, tracer
from services.chassis.tenancy import Principal, TenantId

SERVICE = "api-gateway"


async def serve(settings: Settings) -> int:
    """Run the gateway until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry) as provider:
        async with AsyncExitStack() as stack:
            edge, routes = await _wire(stack, settings, provider)
            projection = CompactedProjection(
                settings.kafka, TOPIC, ApplyReplicaEndpoints(routes), client_id=SERVICE
            )

            async def caught_up() -> None:
                if not projection.is_caught_up:
                    raise Unavailable("routing table")

            edge.readiness.add("routes", caught_up)
            supervisor = Supervisor()
            server = HttpServer(
                app=build_app(edge, ids=TimeOrderedIds(edge.clock)),
                host=settings.http.host,
                port=settings.http.port,
                connections_max=settings.http.connections_max,
                keep_alive=settings.http.keep_alive,
                grace=settings.shutdown.stage_timeout / 2,
            )
            supervisor.add("rest", server.run, Stage.INTAKE)
            supervisor.add("routes", projection.run, Stage.WORK)
            return await run_until_stopped(supervisor, edge.readiness, settings.shutdown)


async def create_tenant(settings: Settings, tenant: TenantId) -> str | None:
    """Make a tenant and return its first key, or None when it exists."""
    async with _open_unit_of_work(settings) as base:
        clock = SystemClock()
        new_keys = NewKeys(clock, TimeOrderedIds(clock), _new_secret)
        return await CreateTenant(PostgresDirectory(base), new_keys)(tenant)


async def _wire(
    stack: AsyncExitStack, settings: Settings, provider: TracerProvider
) -> tuple[Gateway, RoutingTable]:
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    base = await stack.enter_async_context(_open_unit_of_work(settings))
    keys = KeyUnitOfWork(base)
    new_keys = NewKeys(clock, ids, _new_secret)
    signer = TokenSigner.load(SERVICE, settings.identity, clock)
    scheduler = await stack.enter_async_context(open_channel(settings.scheduler, signer=signer))
    registry = await stack.enter_async_context(open_channel(settings.registry, signer=signer))
    logs = await stack.enter_async_context(open_channel(settings.logs, signer=signer))
    scheduler_edge, registry_edge = Edge.to("scheduler"), Edge.to("model-registry")
    replicas = await stack.enter_async_context(
        open_replicas(
            tracer=tracer(__name__),
            request_timeout=settings.inference_timeout,
            response_bytes_max=settings.limits.inference_bytes_max,
        )
    )
    routes = RoutingTable()
    edge = Gateway(
        authenticate=Authenticate(PostgresDirectory(base), clock),
        issue_key=IssueKey(keys, new_keys),
        list_keys=ListKeys(keys),
        revoke_key=RevokeKey(keys, clock),
        infer=Infer(routes, replicas, clock),
        jobs=GrpcJobs(JobServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline),
        deployments=GrpcDeployments(
            DeploymentServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline
        ),
        models=GrpcModels(ModelServiceStub(registry), registry_edge, settings.registry.deadline),
        artifacts=GrpcArtifacts(
            ArtifactServiceStub(registry),
            registry_edge,
            settings.registry.deadline,
            settings.stream_timeout,
        ),
        logs=GrpcLogs(
            LogServiceStub(logs),
            Edge.to("log-collector"),
            settings.logs.deadline,
            settings.follow_timeout,
        ),
        limiter=await _limiter(stack, settings),
        burst_limiter=Limiter(key_func=_tenant_of, storage_uri="memory://", key_style="endpoint"),
        policies=policies_of(settings.limits),
        readiness=Readiness(),
        clock=clock,
        tracer_provider=provider,
    )

    edge.readiness.add("database", base.ping)
    return edge, routes


@asynccontextmanager
async def _open_unit_of_work(settings: Settings) -> AsyncIterator[PostgresUnitOfWork]:
    clock = SystemClock()
    async with open_engine(settings.postgres, application_name=SERVICE) as engine:
        yield PostgresUnitOfWork(
            engine, chassis, source=f"/{SERVICE}", clock=clock, ids=TimeOrderedIds(clock)
        )


async def _limiter(stack: AsyncExitStack, settings: Settings) -> RateLimiter:
    clock = SystemClock()
    if settings.redis.url is None:
        return memory_rate_limiter(clock)
    client = redis_client(settings.redis.url.get_secret_value())
    stack.push_async_callback(client.aclose)
    return redis_rate_limiter(client, clock)


def policies_of(limits: LimitSettings) -> EdgePolicies:
    """Return the edge's bounds as the settings give them."""
    return EdgePolicies(
        tenant=RatePolicy("tenant", limits.tenant_requests_max, limits.window),
        source=RatePolicy("source", limits.source_requests_max, limits.window),
        burst=limits.burst,
        body_bytes_max=limits.body_bytes_max,
        artifact_bytes_max=limits.artifact_bytes_max,
        inference_bytes_max=limits.inference_bytes_max,
    )


def _tenant_of(request: Request) -> str:
    principal = request.scope["modelyard.principal"]
    assert isinstance(principal, Principal)
    return principal.tenant


def _new_secret() -> str:
    return secrets.token_urlsafe(32)
