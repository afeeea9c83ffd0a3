"""The gateway's wiring: settings → ports → use cases → routes → loops."""

import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from datetime import timedelta
from functools import partial
from typing import Final

from loguru import logger
from modelyard.gateway.v1.tenant_service_pb2_grpc import add_TenantServiceServicer_to_server
from modelyard.logs.v1.log_service_pb2_grpc import LogServiceStub
from modelyard.registry.v1.artifact_service_pb2_grpc import ArtifactServiceStub
from modelyard.registry.v1.model_service_pb2_grpc import ModelServiceStub
from modelyard.scheduler.v1.deployment_service_pb2_grpc import DeploymentServiceStub
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub
from modelyard.scheduler.v1.node_service_pb2_grpc import NodeServiceStub
from modelyard.scheduler.v1.queue_service_pb2_grpc import QueueServiceStub
from sqlalchemy.ext.asyncio import AsyncEngine

from services.api_gateway.adapters.burst_limiter import BurstLimiter
from services.api_gateway.adapters.logs_client import GrpcLogs
from services.api_gateway.adapters.oidc import IssuerPolicy, open_oidc_issuer
from services.api_gateway.adapters.postgres.keys import PostgresDirectory
from services.api_gateway.adapters.postgres.members import PostgresMemberDirectory
from services.api_gateway.adapters.postgres.tables import api_key_table, chassis, key_ended_at
from services.api_gateway.adapters.postgres.tenants import PostgresTenants
from services.api_gateway.adapters.postgres.unit_of_work import OneTenantUnitOfWork
from services.api_gateway.adapters.rate_limiter import (
    memory_rate_limiter,
    redis_client,
    redis_rate_limiter,
)
from services.api_gateway.adapters.registry_client import GrpcArtifacts, GrpcModels
from services.api_gateway.adapters.replicas_http import open_replicas
from services.api_gateway.adapters.scheduler_client import (
    GrpcDeployments,
    GrpcJobs,
    GrpcNodes,
    GrpcQueues,
)
from services.api_gateway.domain.rate_limit import RatePolicy
from services.api_gateway.domain.routing import RoutingTable
from services.api_gateway.domain.token_claims import ClaimRules
from services.api_gateway.entrypoints.consumers.replica_endpoints import (
    TOPIC,
    ApplyReplicaEndpoints,
)
from services.api_gateway.entrypoints.facts import event_of
from services.api_gateway.entrypoints.grpc.tenants import SCOPES, TENANT_SERVICE, TenantRpcs
from services.api_gateway.entrypoints.loops.key_uses import KeyUsesLoop
from services.api_gateway.entrypoints.loops.tenants import TenantsLoop
from services.api_gateway.entrypoints.rest.app import build_app
from services.api_gateway.entrypoints.rest.dependencies import EdgePolicies, Gateway
from services.api_gateway.entrypoints.rest.server import HttpServer
from services.api_gateway.entrypoints.rest.tracing import Tracing
from services.api_gateway.settings import LimitSettings, OidcSettings, Settings
from services.api_gateway.use_cases.authenticate import Authenticate
from services.api_gateway.use_cases.authenticate_token import AuthenticateToken
from services.api_gateway.use_cases.create_tenant import (
    CreateTenant,
    IssuePlatformKey,
    IssueTenantKey,
)
from services.api_gateway.use_cases.infer import Infer
from services.api_gateway.use_cases.key_uses import WriteKeyUses
from services.api_gateway.use_cases.makers import Makers
from services.api_gateway.use_cases.manage_keys import (
    IssueKey,
    ListKeys,
    NewKeys,
    RevokeKey,
    RotateKey,
)
from services.api_gateway.use_cases.manage_members import ListMembers, PutMember, RemoveMember
from services.api_gateway.use_cases.manage_tenants import ChangeTenant, RepublishTenants
from services.api_gateway.use_cases.memberships import Memberships
from services.api_gateway.use_cases.ports import RateLimiter
from services.api_gateway.use_cases.purge_tenants import PurgeTenants
from services.api_gateway.use_cases.tenant_standing import TenantStanding
from services.chassis.clock import Clock, SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.janitor import Janitor, Kept
from services.chassis.db.lease import LeaseKeeper, PostgresLeases, Recurrence
from services.chassis.db.outbox import PostgresOutbox
from services.chassis.db.relay import Relay
from services.chassis.db.unit_of_work import PostgresUnitOfWork
from services.chassis.errors import AlreadyExists, Unavailable
from services.chassis.events.kafka_producer import KafkaProducer, open_producer
from services.chassis.events.projection import CompactedProjection
from services.chassis.ids import TimeOrderedIds
from services.chassis.lifecycle import Readiness, Stage, Supervisor, run_until_stopped
from services.chassis.rpc.callers import Callers, Grant
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.rpc.server import RpcLoop
from services.chassis.telemetry.logging import set_up_logging
from services.chassis.telemetry.tracing import is_drawn, open_tracing, tracer
from services.chassis.tenancy import TenantId

SERVICE = "api-gateway"
REQUIRED_SCOPES: Final[Mapping[str, str]] = SCOPES
CALLERS: Final[Callers] = {
    service: [
        Grant(frozenset({service}), frozenset({"tenants:follow"}), is_for_tenants=False),
    ]
    for service in ("log-collector", "model-registry", "scheduler")
}
_TENANTS_LEASE_TTL = timedelta(seconds=10)
_OUTBOX_POLL = timedelta(seconds=1)
"""For what other gateways commit: the rest of the 2 s in which a suspension acts is for reading."""


async def serve(settings: Settings) -> int:
    """Run the gateway until it is told to stop; return its exit code."""
    set_up_logging(SERVICE, level=settings.telemetry.log_level)
    with open_tracing(SERVICE, settings.telemetry) as provider:
        async with AsyncExitStack() as stack:
            engine = await stack.enter_async_context(
                open_engine(settings.postgres, application_name=SERVICE)
            )
            producer = await stack.enter_async_context(
                open_producer(settings.kafka, client_id=SERVICE)
            )
            base = _unit_of_work(engine)
            edge, routes = await _wire(stack, settings, base)
            projection = CompactedProjection(
                settings.kafka, TOPIC, ApplyReplicaEndpoints(routes), client_id=SERVICE
            )

            async def caught_up() -> None:
                if not projection.is_caught_up:
                    raise Unavailable("routing table")

            edge.readiness.add("routes", caught_up)
            edge.readiness.advise("kafka", producer.ping)
            supervisor = Supervisor()
            server = HttpServer(
                app=Tracing(
                    build_app(edge, ids=TimeOrderedIds(edge.clock)),
                    tracer(__name__),
                    draw=partial(is_drawn, provider),
                ),
                host=settings.http.host,
                port=settings.http.port,
                connections_max=settings.http.connections_max,
                keep_alive=settings.http.keep_alive,
                grace=settings.shutdown.stage_timeout / 2,
            )
            supervisor.add("rest", server.run, Stage.INTAKE)
            supervisor.add("routes", projection.run, Stage.WORK)
            supervisor.add("recent-keys", edge.authenticate.keys.run, Stage.WORK)
            supervisor.add("recent-tenants", edge.standing.tenants.run, Stage.WORK)
            tokens = edge.authenticate.tokens
            if tokens is not None and tokens.memberships is not None:
                supervisor.add("recent-members", tokens.memberships.members.run, Stage.WORK)
            key_uses = WriteKeyUses(edge.authenticate.uses, PostgresDirectory(base))
            key_uses_loop = KeyUsesLoop(key_uses, interval=settings.keys.uses_interval)
            supervisor.add("key-uses", key_uses_loop.run, Stage.RELAY)
            _answer_services(supervisor, settings, edge)
            _publish(supervisor, settings, engine, base, producer)
            return await run_until_stopped(supervisor, edge.readiness, settings.shutdown)


async def create_tenant(
    settings: Settings, tenant: TenantId, *, administers_platform: bool
) -> str | None:
    """Make a tenant and return its first key, or None when it exists."""
    async with open_engine(settings.postgres, application_name=SERVICE) as engine:
        create = CreateTenant(PostgresTenants(_unit_of_work(engine), event_of), _new_keys())
        try:
            _, text = await create(tenant, administers_platform=administers_platform)
        except AlreadyExists:
            return None
    return text


async def issue_platform_key(settings: Settings, tenant: TenantId) -> str:
    """Make another key of a tenant that administers the platform; return its text."""
    async with open_engine(settings.postgres, application_name=SERVICE) as engine:
        issue = IssuePlatformKey(PostgresTenants(_unit_of_work(engine), event_of), _new_keys())
        return await issue(tenant)


async def _wire(
    stack: AsyncExitStack,
    settings: Settings,
    base: PostgresUnitOfWork,
) -> tuple[Gateway, RoutingTable]:
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    unit_of_work = OneTenantUnitOfWork(base)
    new_keys = NewKeys(clock, ids, _new_secret)
    makers = makers_of(settings.oidc)
    signer = TokenSigner.load(SERVICE, settings.identity, clock)
    scheduler = await stack.enter_async_context(
        open_channel(settings.scheduler, callee="scheduler", signer=signer)
    )
    registry = await stack.enter_async_context(
        open_channel(settings.registry, callee="model-registry", signer=signer)
    )
    logs = await stack.enter_async_context(
        open_channel(settings.logs, callee="log-collector", signer=signer)
    )
    scheduler_edge, registry_edge = Edge.to("scheduler"), Edge.to("model-registry")
    replicas = await stack.enter_async_context(
        open_replicas(
            tracer=tracer(__name__),
            request_timeout=settings.inference_timeout,
            response_bytes_max=settings.limits.inference_bytes_max,
        )
    )
    routes = RoutingTable()
    tenants = PostgresTenants(base, event_of)
    standing = TenantStanding(tenants, clock)
    edge = Gateway(
        authenticate=Authenticate(
            PostgresDirectory(base),
            clock,
            tokens=await _open_tokens(stack, settings.oidc, base, clock),
        ),
        standing=standing,
        tenants=tenants,
        create_tenant=CreateTenant(tenants, new_keys),
        issue_tenant_key=IssueTenantKey(tenants, new_keys),
        change_tenant=ChangeTenant(tenants, standing),
        issue_key=IssueKey(unit_of_work, new_keys, makers, settings.keys.in_force_max),
        list_keys=ListKeys(unit_of_work),
        rotate_key=RotateKey(unit_of_work, new_keys, makers, settings.keys.in_force_max),
        revoke_key=RevokeKey(unit_of_work),
        put_member=PutMember(unit_of_work, clock, makers),
        list_members=ListMembers(tenants, unit_of_work),
        remove_member=RemoveMember(unit_of_work, makers),
        issuer=None if settings.oidc is None else settings.oidc.issuer,
        infer=Infer(routes, replicas, clock),
        jobs=GrpcJobs(JobServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline),
        deployments=GrpcDeployments(
            DeploymentServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline
        ),
        nodes=GrpcNodes(NodeServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline),
        queues=GrpcQueues(QueueServiceStub(scheduler), scheduler_edge, settings.scheduler.deadline),
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
        burst_limiter=BurstLimiter(),
        policies=policies_of(settings.limits),
        readiness=Readiness(),
        clock=clock,
    )

    edge.readiness.add("database", base.ping)
    return edge, routes


def _answer_services(supervisor: Supervisor, settings: Settings, edge: Gateway) -> None:
    """Let other services read the list of tenants, where the settings say."""
    if settings.grpc is None:
        logger.warning("list of tenants is not offered", reason="no setting says at which port")
        return
    rpcs = RpcLoop(
        settings.grpc,
        register=partial(add_TenantServiceServicer_to_server, TenantRpcs(edge.tenants)),
        services=(TENANT_SERVICE,),
        verifier=TokenVerifier.load(SERVICE, settings.identity, edge.clock),
        required_scopes=REQUIRED_SCOPES,
        callers=CALLERS,
        drain_max=settings.shutdown.stage_timeout / 2,
    )
    edge.readiness.add("grpc", rpcs.ping)
    supervisor.add("grpc", rpcs.run, Stage.INTAKE)


def _publish(
    supervisor: Supervisor,
    settings: Settings,
    engine: AsyncEngine,
    base: PostgresUnitOfWork,
    producer: KafkaProducer,
) -> None:
    """Send what is committed, and all tenants again now and then; leases go last."""
    clock = SystemClock()
    ids = TimeOrderedIds(clock)
    leases = PostgresLeases(engine, chassis)
    relay = Relay(
        PostgresOutbox(engine, chassis),
        leases,
        producer,
        holder=ids.new("proc"),
        clock=clock,
        idle=base.idle,
        poll_interval=_OUTBOX_POLL,
    )
    base.add_listener(relay.wake)
    lease = LeaseKeeper(
        leases, "tenants", holder=ids.new("proc"), ttl=_TENANTS_LEASE_TTL, clock=clock
    )
    store = PostgresTenants(base, event_of)
    interval = settings.tenants.republish_interval
    tenants = TenantsLoop(
        PurgeTenants(store, settings.tenants.purge_batch_max),
        RepublishTenants(store, settings.tenants.republish_batch_max),
        purging=Recurrence(interval, clock),
        republication=Recurrence(interval, clock),
        lease=lease,
    )
    supervisor.add("tenants", tenants.run, Stage.WORK)
    supervisor.add("relay", relay.run, Stage.RELAY)
    ended_keys = Kept(api_key_table, since=key_ended_at, kept=settings.keys.ended_kept)
    supervisor.add("janitor", Janitor(engine, chassis, others=[ended_keys]).run, Stage.RELAY)
    supervisor.add("tenants-lease", lease.run, Stage.LAST)


def _unit_of_work(engine: AsyncEngine) -> PostgresUnitOfWork:
    clock = SystemClock()
    return PostgresUnitOfWork(
        engine, chassis, source=f"/{SERVICE}", clock=clock, ids=TimeOrderedIds(clock)
    )


async def _open_tokens(
    stack: AsyncExitStack, oidc: OidcSettings | None, base: PostgresUnitOfWork, clock: Clock
) -> AuthenticateToken | None:
    if oidc is None:
        return None
    policy = IssuerPolicy(
        issuer=oidc.issuer,
        audience=oidc.audience,
        keys_url=oidc.keys_url,
        algorithms=oidc.algorithms,
        leeway=oidc.leeway,
        token_lifetime_max=oidc.token_lifetime_max,
        keys_read_interval=oidc.keys_read_interval,
        keys_kept_max=oidc.keys_kept_max,
        unknown_key_interval=oidc.unknown_key_interval,
        fetch_timeout=oidc.fetch_timeout,
    )
    issuer = await stack.enter_async_context(open_oidc_issuer(policy, clock))
    memberships = None
    if oidc.roles_from == "members":
        memberships = Memberships(PostgresMemberDirectory(base), oidc.issuer, clock)
    return AuthenticateToken(issuer, claim_rules_of(oidc), memberships)


def claim_rules_of(oidc: OidcSettings) -> ClaimRules:
    """Return how claims are read, as the settings say."""
    return ClaimRules(
        tenant_claim=oidc.tenant_claim,
        roles_claim=oidc.roles_claim,
        needs_second_factor=oidc.require_second_factor_for_admins,
        second_factor_methods=oidc.second_factor_methods,
        second_factor_levels=oidc.second_factor_levels,
    )


def makers_of(oidc: OidcSettings | None) -> Makers:
    """Return who may be behind keys, as the settings say."""
    if oidc is None:
        return Makers()
    return Makers(oidc.issuer, are_members=oidc.roles_from == "members")


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
        key=RatePolicy("key", limits.key_requests_max, limits.window),
        burst=limits.burst,
        body_bytes_max=limits.body_bytes_max,
        artifact_bytes_max=limits.artifact_bytes_max,
        inference_bytes_max=limits.inference_bytes_max,
    )


def _new_keys() -> NewKeys:
    clock = SystemClock()
    return NewKeys(clock, TimeOrderedIds(clock), _new_secret)


def _new_secret() -> str:
    return secrets.token_urlsafe(32)
