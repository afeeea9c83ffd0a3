"""Who may call what."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import jwt
import pytest
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1 import job_service_pb2_grpc
from typing_extensions import override

from services.chassis.clock import SystemClock
from services.chassis.errors import PermissionDenied, Unauthenticated
from services.chassis.rpc.context import Context, acting_as, calling_service, principal
from services.chassis.rpc.identity import AUDIENCE, LIFETIME, TokenSigner, TokenVerifier
from services.chassis.rpc.server import serve
from services.chassis.settings import GrpcServerSettings, IdentitySettings
from services.chassis.tenancy import Principal
from tests.integration.chassis_rpc.yard import (
    A_JOB,
    ANNA,
    GATEWAY,
    JOBS,
    SOON,
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


async def test_the_handler_acts_for_the_callers_principal(yard: Yard) -> None:
    seen: list[tuple[Principal, str]] = []

    async def note(request: Any, context: Context) -> Any:
        seen.append((principal(), calling_service()))
        return A_JOB

    server = await yard.serving(Handlers(get_job=note))
    client = await yard.client(server.port)

    with acting_as(ANNA):
        await client.get_job()

    assert seen == [(ANNA, "api-gateway")]


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
        (("authorization", f"Basic {a_signer().token(ANNA)}"),),
        (("authorization", f"Bearer {a_signer(Keys.new()).token(ANNA)}"),),
        (("authorization", f"Bearer {a_signer(service='stranger').token(ANNA)}"),),
        (
            (
                "authorization",
                f"Bearer {TokenSigner('api-gateway', GATEWAY.private, LateClock()).token(ANNA)}",
            ),
        ),
    ],
    ids=["none", "empty", "garbage", "scheme", "key", "service", "expired"],
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


def test_a_token_that_lives_too_long_is_refused() -> None:
    now = datetime.now(UTC)
    claims = {
        "iss": "api-gateway",
        "aud": AUDIENCE,
        "sub": "anna",
        "tenant": "acme",
        "scopes": ["jobs:read"],
        "iat": now,
        "exp": now + timedelta(hours=1),
    }
    token = jwt.encode(claims, GATEWAY.private, algorithm="EdDSA", headers={"kid": "api-gateway"})

    with pytest.raises(Unauthenticated):
        a_verifier().verify(token)


def test_a_token_is_signed_once_for_half_of_its_life() -> None:
    clock = SetClock()
    signer = TokenSigner("api-gateway", GATEWAY.private, clock)
    first = signer.token(ANNA)

    clock.instant += LIFETIME / 2 - timedelta(seconds=1)
    assert signer.token(ANNA) == first

    clock.instant += timedelta(seconds=1)
    assert signer.token(ANNA) != first


def test_a_verified_token_is_refused_once_it_has_expired() -> None:
    clock = SetClock()
    token = TokenSigner("api-gateway", GATEWAY.private, clock).token(ANNA)
    verifier = TokenVerifier({"api-gateway": GATEWAY.public}, clock)
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

    token = TokenSigner.load("api-gateway", settings, SystemClock()).token(ANNA)

    caller = TokenVerifier.load(settings, SystemClock()).verify(token)
    assert (caller.principal, caller.service) == (ANNA, "api-gateway")


async def test_a_call_without_the_methods_scope_is_denied(yard: Yard) -> None:
    server = await yard.serving(Handlers())
    client = await yard.client(server.port)

    with acting_as(ANNA), pytest.raises(PermissionDenied) as denied:
        await client.edge.call(
            client.jobs.CancelJob, pb.CancelJobRequest(), timeout=SOON, idempotent=False
        )

    assert denied.value.detail["scope"] == "jobs:write"


async def test_a_server_with_a_method_that_has_no_scope_does_not_start() -> None:
    with pytest.raises(ValueError, match=f"/{JOBS}/SubmitJob declares no scope"):
        async with serve(
            GrpcServerSettings(port=0),
            register=Handlers().register,
            services=(JOBS,),
            verifier=a_verifier(),
            required_scopes={f"/{JOBS}/GetJob": "jobs:read"},
        ):
            pass


class SetClock(SystemClock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.instant = datetime(2030, 1, 1, tzinfo=UTC)

    @override
    def now(self) -> datetime:
        return self.instant
