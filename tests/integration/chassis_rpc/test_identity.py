"""Who may call what."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from modelyard.registry.v1 import artifact_service_pb2 as artifacts_pb
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1 import job_service_pb2_grpc
from typing_extensions import override

from services.chassis.clock import SystemClock
from services.chassis.errors import PermissionDenied, Unauthenticated
from services.chassis.rpc.callers import Callers, Grant
from services.chassis.rpc.client import Edge
from services.chassis.rpc.context import Context, acting_as, principal
from services.chassis.rpc.identity import LIFETIME, TokenSigner, TokenVerifier
from services.chassis.rpc.server import RpcServer, serve
from services.chassis.settings import GrpcServerSettings, IdentitySettings
from services.chassis.tenancy import Principal, TenantId
from tests.integration.chassis_rpc.yard import (
    A_JOB,
    ANNA,
    CALLEE,
    GATEWAY,
    JOBS,
    SCOPES,
    SOON,
    Client,
    Handlers,
    Keys,
    Yard,
    a_signer,
    a_verifier,
)


class LateClock(SystemClock):
    """A clock that lags, so that what it stamps is old."""

    @override
    def now(self) -> datetime:
        return datetime.now(UTC) - 2 * LIFETIME


def a_late_signer() -> TokenSigner:
    return TokenSigner("api-gateway", GATEWAY.private, LateClock())


async def test_the_handler_acts_for_the_callers_principal(yard: Yard) -> None:
    seen: list[Principal] = []

    async def note(request: Any, context: Context) -> Any:
        seen.append(principal())
        return A_JOB

    server = await yard.serving(Handlers(get_job=note))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        await client.get_job()

    assert seen == [ANNA]


async def test_a_call_for_nobody_is_not_made(yard: Yard) -> None:
    handlers = Handlers()
    server = await yard.serving(handlers)
    client = await yard.client(server.port)

    with pytest.raises(Unauthenticated):
        await client.get_job()

    assert handlers.seen == []


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "Bearer "),),
        (("authorization", "Bearer not.a.token"),),
        (("authorization", f"Basic {a_signer().token(ANNA, CALLEE)}"),),
        (("authorization", f"Bearer {a_signer(Keys.new()).token(ANNA, CALLEE)}"),),
        (("authorization", f"Bearer {a_signer(service='stranger').token(ANNA, CALLEE)}"),),
        (("authorization", f"Bearer {a_late_signer().token(ANNA, CALLEE)}"),),
        (("authorization", f"Bearer {a_signer().token(ANNA, 'log-collector')}"),),
    ],
    ids=["none", "empty", "garbage", "scheme", "key", "service", "expired", "audience"],
)
async def test_a_call_without_a_valid_token_is_refused_without_a_reason(
    yard: Yard, metadata: tuple[tuple[str, str], ...]
) -> None:
    handlers = Handlers()
    server = await yard.serving(handlers)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        stub: Any = job_service_pb2_grpc.JobServiceStub(channel)  # type: ignore[no-untyped-call,unused-ignore]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetJob(pb.GetJobRequest(), timeout=5, metadata=metadata)

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert refused.value.details() == "a valid credential is required"
    assert handlers.seen == []


async def test_a_service_can_not_use_elsewhere_what_it_was_called_with(yard: Yard) -> None:
    given: list[str] = []

    async def follow(request: Any, context: Context) -> AsyncIterator[logs_pb.FollowLogsResponse]:
        given.append(str(dict(context.invocation_metadata() or ())["authorization"]))
        yield logs_pb.FollowLogsResponse(complete=True)

    collector = await yard.serving(Handlers(follow=follow), verifier=a_verifier("log-collector"))
    registry = await yard.serving(Handlers(), verifier=a_verifier("model-registry"))
    to_collector = await yard.client(collector.port, callee="log-collector")
    to_registry = await yard.client(registry.port, callee="model-registry")
    with acting_as(ANNA):
        assert [page.complete async for page in to_collector.follow()] == [True]
        assert (await to_registry.put(an_upload())).size_bytes == 1

    [token] = given
    assert await status_of_put(collector, token) == ("OK", "")
    assert await status_of_put(registry, token) == (
        "UNAUTHENTICATED",
        "a valid credential is required",
    )


async def status_of_put(server: RpcServer, authorization: str) -> tuple[str, str]:
    """Store something with what somebody else was given; return the status and what it says."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = Client(channel, Edge.to("any")).artifacts.PutArtifact(
            an_upload(), timeout=5, metadata=(("authorization", authorization),)
        )
        return (await call.code()).name, await call.details()


async def an_upload() -> AsyncIterator[artifacts_pb.PutArtifactRequest]:
    yield artifacts_pb.PutArtifactRequest(chunk=b"x")


def test_a_token_that_lives_too_long_is_refused() -> None:
    now = datetime.now(UTC)
    claims = {
        "iss": "api-gateway",
        "aud": CALLEE,
        "sub": "anna",
        "tenant": "acme",
        "scopes": ["jobs:read"],
        "iat": now,
    }
    key_name = jwt.get_unverified_header(a_signer().token(ANNA, CALLEE))["kid"]

    def signed(*, lifetime: timedelta) -> str:
        lived = claims | {"exp": now + lifetime}
        return jwt.encode(lived, GATEWAY.private, algorithm="EdDSA", headers={"kid": key_name})

    assert a_verifier().verify(signed(lifetime=LIFETIME)).principal.subject == "anna"
    with pytest.raises(Unauthenticated):
        a_verifier().verify(signed(lifetime=timedelta(hours=1)))


def test_a_token_is_signed_once_for_half_of_its_life() -> None:
    clock = SetClock()
    signer = TokenSigner("api-gateway", GATEWAY.private, clock)
    first = signer.token(ANNA, CALLEE)

    clock.instant += LIFETIME / 2 - timedelta(seconds=1)
    assert signer.token(ANNA, CALLEE) == first

    clock.instant += timedelta(seconds=1)
    assert signer.token(ANNA, CALLEE) != first


def test_a_verified_token_is_refused_once_it_has_expired() -> None:
    clock = SetClock()
    token = TokenSigner("api-gateway", GATEWAY.private, clock).token(ANNA, CALLEE)
    verifier = TokenVerifier(CALLEE, {"api-gateway": GATEWAY.public}, clock)
    assert verifier.verify(token).principal == ANNA

    clock.instant += LIFETIME + timedelta(seconds=6)
    with pytest.raises(Unauthenticated):
        verifier.verify(token)


def test_keys_are_read_from_the_folders_of_the_settings(tmp_path: Path) -> None:
    (tmp_path / "identity.key.pem").write_bytes(GATEWAY.private)
    (tmp_path / "api-gateway.pub.pem").write_bytes(GATEWAY.public)
    settings = IdentitySettings(
        private_key_file=tmp_path / "identity.key.pem", trusted_keys_folder=tmp_path
    )

    token = TokenSigner.load("api-gateway", settings, SystemClock()).token(ANNA, CALLEE)

    caller = TokenVerifier.load(CALLEE, settings, SystemClock()).verify(token)
    assert (caller.principal, caller.service) == (ANNA, "api-gateway")


async def test_a_call_without_the_methods_scope_is_denied(yard: Yard) -> None:
    server = await yard.serving(Handlers())
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(PermissionDenied) as denied:
        await client.edge.call(
            client.jobs.CancelJob, pb.CancelJobRequest(), timeout=SOON, idempotent=False
        )

    assert denied.value.detail["scope"] == "jobs:write"


READS_JOBS = frozenset({"jobs:read"})
OF_SCHEDULER: Callers = {
    "scheduler": [
        Grant(frozenset({"attempt"}), READS_JOBS),
        Grant(frozenset({"scheduler"}), READS_JOBS, is_for_tenants=False),
        Grant(frozenset({"scheduler"}), frozenset({"logs:read"})),
    ]
}


@pytest.mark.parametrize(
    ("service", "tenant", "subject", "is_answered"),
    [
        ("scheduler", "acme", "attempt:1", True),
        ("scheduler", "acme", "attempt", True),
        ("scheduler", "", "scheduler", True),
        ("scheduler", "", "attempt:1", False),
        ("scheduler", "acme", "scheduler", False),
        ("scheduler", "acme", "attempts:1", False),
        ("scheduler", "acme", "user:anna", False),
        ("scheduler", "acme", "", False),
        ("api-gateway", "acme", "attempt:1", False),
        ("api-gateway", "", "scheduler", False),
    ],
)
async def test_a_service_does_for_others_what_is_taken_from_it_and_no_more(
    yard: Yard, service: str, tenant: str, subject: str, *, is_answered: bool
) -> None:
    scheduler = Keys.new()
    trusted = {"api-gateway": GATEWAY.public, "scheduler": scheduler.public}
    verifier = TokenVerifier(CALLEE, trusted, SystemClock())
    handlers = Handlers()
    server = await yard.serving(handlers, verifier=verifier, callers=OF_SCHEDULER)
    keys = scheduler if service == "scheduler" else GATEWAY
    client = await yard.client(server.port, signer=a_signer(keys, service=service))
    everything = frozenset(SCOPES.values())

    with acting_as(Principal(TenantId(tenant), subject, everything)):
        if is_answered:
            await client.get_job()
        else:
            with pytest.raises(PermissionDenied):
                await client.get_job()

    assert len(handlers.seen) == is_answered


async def test_what_a_service_may_its_token_must_say(yard: Yard) -> None:
    server = await yard.serving(Handlers())
    client = await yard.client(server.port)

    with acting_as(replace(ANNA, scopes=frozenset({"logs:read"}))), pytest.raises(PermissionDenied):
        await client.get_job()


async def test_a_server_with_a_method_that_has_no_scope_does_not_start() -> None:
    with pytest.raises(ValueError, match=f"/{JOBS}/SubmitJob declares no scope"):
        async with serve(
            GrpcServerSettings(port=0),
            register=Handlers().register,
            services=(JOBS,),
            verifier=a_verifier(),
            required_scopes={f"/{JOBS}/GetJob": "jobs:read"},
            callers={},
        ):
            pass


class SetClock(SystemClock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.instant = datetime(2030, 1, 1, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        return self.instant
