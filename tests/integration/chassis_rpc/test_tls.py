"""Connections that only services can make."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from modelyard.logs.v1 import log_service_pb2 as logs_pb
from pydantic import ValidationError

from services.chassis.errors import Unauthenticated, Unavailable
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import Context, acting_as
from services.chassis.rpc.server import RpcServer
from services.chassis.settings import GrpcClientSettings, TlsSettings
from tests.integration.chassis_rpc.yard import ANNA, CALLEE, Client, Handlers, a_signer, serving
from tests.support.authority import Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[RpcServer]:
    async with serving(Handlers(), tls=authority.certify("scheduler")) as running:
        yield running


async def call(server: RpcServer, tls: TlsSettings | None) -> Any:
    settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}", tls=tls)
    async with open_channel(settings, callee=CALLEE, signer=a_signer()) as channel:
        with acting_as(ANNA):
            return await Client(channel, Edge.to("scheduler")).get_job()


@pytest.mark.parametrize("name", ["api-gateway", "api-gateway.modelyard.svc"])
async def test_a_service_with_its_certificate_gets_through(
    server: RpcServer, authority: Authority, name: str
) -> None:
    assert (await call(server, authority.certify(name))).job.id == "job_1"


async def test_a_call_in_the_open_is_refused(server: RpcServer) -> None:
    with pytest.raises(Unavailable):
        await call(server, None)


async def test_a_strangers_certificate_is_refused(
    server: RpcServer, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "theirs").certify("api-gateway")
    trusting = stranger.model_copy(update={"authorities_file": authority.file})

    with pytest.raises(Unavailable):
        await call(server, trusting)


async def test_a_client_without_a_certificate_is_refused_even_a_health_check(
    server: RpcServer, authority: Authority
) -> None:
    credentials = grpc.ssl_channel_credentials(authority.file.read_bytes())
    async with grpc.aio.secure_channel(f"127.0.0.1:{server.port}", credentials) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await health.Check(health_pb2.HealthCheckRequest(), timeout=5)

    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_server_that_our_authority_has_not_certified_gets_no_call(
    authority: Authority, tmp_path: Path
) -> None:
    theirs = Authority(tmp_path / "theirs")
    handlers = Handlers()
    async with serving(handlers, tls=theirs.certify("scheduler")) as impostor:
        ours = authority.certify("api-gateway")
        with pytest.raises(Unavailable):
            await call(impostor, ours)

    assert handlers.seen == []


async def test_a_token_of_another_service_than_the_certificate_is_refused(
    server: RpcServer, authority: Authority
) -> None:
    """The gateway's token in the log collector's hands."""
    with pytest.raises(Unauthenticated):
        await call(server, authority.certify("log-collector"))


def renew(files: TlsSettings, fresh: TlsSettings) -> None:
    for name in ("certificate_file", "private_key_file", "authorities_file"):
        getattr(files, name).write_bytes(getattr(fresh, name).read_bytes())


@pytest.fixture
def ours(authority: Authority, tmp_path: Path) -> Mapping[str, TlsSettings]:
    """Give files of two services' own, which are read at each connection and call."""

    def own(name: str) -> TlsSettings:
        folder = tmp_path / name
        folder.mkdir()
        files = TlsSettings(
            certificate_file=folder / "certificate.pem",
            private_key_file=folder / "key.pem",
            authorities_file=folder / "authorities.pem",
            read_interval=timedelta(0),
        )
        renew(files, authority.certify(name))
        return files

    return {name: own(name) for name in ("scheduler", "api-gateway")}


@pytest.fixture
def next_year(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "next year")


async def test_renewed_certificates_are_used_without_a_restart_and_calls_at_work_go_on(
    ours: Mapping[str, TlsSettings], authority: Authority, next_year: Authority
) -> None:
    is_renewed = asyncio.Event()

    async def follow(request: Any, context: Context) -> AsyncIterator[Any]:
        yield logs_pb.FollowLogsResponse()
        await is_renewed.wait()
        yield logs_pb.FollowLogsResponse(complete=True)

    old = authority.certify("api-gateway")
    async with serving(Handlers(follow=follow), tls=ours["scheduler"]) as server:
        settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}", tls=ours["api-gateway"])
        async with open_channel(settings, callee=CALLEE, signer=a_signer()) as channel:
            client = Client(channel, Edge.to("scheduler"))
            with acting_as(ANNA):
                followed = client.follow()
                await anext(followed)
                for name, files in ours.items():
                    renew(files, next_year.certify(name))

                assert (await client.get_job()).job.id == "job_1"
                is_renewed.set()
                assert [answer.complete async for answer in followed] == [True]
                assert (await client.get_job()).job.id == "job_1"
            renewed: Any = channel
            assert not renewed._retired, "the channel of before is closed"
        with pytest.raises(Unavailable):
            await call(server, old)


@pytest.mark.parametrize("broken", ["certificate_file", "private_key_file", "authorities_file"])
@pytest.mark.parametrize("content", [None, b"", b"-----BEGIN CERTIFICATE-----\nAAAA"])
async def test_what_was_there_goes_on_while_files_are_half_renewed(
    ours: Mapping[str, TlsSettings],
    authority: Authority,
    next_year: Authority,
    broken: str,
    content: bytes | None,
) -> None:
    """With None the file is gone; a mere key of next year fits no certificate of this one."""
    unchanged = authority.certify("api-gateway")
    async with serving(Handlers(), tls=ours["scheduler"]) as server:
        settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}", tls=ours["api-gateway"])
        async with open_channel(settings, callee=CALLEE, signer=a_signer()) as channel:
            for name, files in ours.items():
                renew(files, next_year.certify(name))
                if content is None:
                    getattr(files, broken).unlink()
                else:
                    getattr(files, broken).write_bytes(content)
            with acting_as(ANNA):
                assert (await Client(channel, Edge.to("scheduler")).get_job()).job.id == "job_1"
        assert (await call(server, unchanged)).job.id == "job_1"


async def test_a_key_of_another_certificate_is_not_used(
    ours: Mapping[str, TlsSettings], authority: Authority
) -> None:
    unchanged = authority.certify("api-gateway")
    async with serving(Handlers(), tls=ours["scheduler"]) as server:
        other = ours["api-gateway"].private_key_file.read_bytes()
        ours["scheduler"].private_key_file.write_bytes(other)

        assert (await call(server, unchanged)).job.id == "job_1"
    with pytest.raises(ValueError, match="not the certificate's"):
        async with serving(Handlers(), tls=ours["scheduler"]):
            pass


def test_tls_by_halves_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        GrpcClientSettings.model_validate(
            {"address": "a:1", "tls": {"authorities_file": tmp_path / "a"}}
        )
