"""Connections that only services can make."""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import ValidationError

from services.chassis.errors import Unauthenticated, Unavailable
from services.chassis.rpc.client import Edge, open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.server import RpcServer
from services.chassis.settings import GrpcClientSettings, TlsSettings
from tests.integration.chassis_rpc.yard import ANNA, Client, Handlers, a_signer, serving


@dataclass
class Authority:
    """Signs certificates."""

    folder: Path
    name: str = "authority"

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.file = self.folder / "authorities.pem"
        self.certificate = self._sign(self.key, self.name, [], is_authority=True)
        self.file.write_bytes(self.certificate.public_bytes(Encoding.PEM))

    def certify(self, *names: str) -> TlsSettings:
        """Make a certificate for these DNS names on loopback."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(key, names[0], names)
        key_file, file = self.folder / f"{names[0]}.key", self.folder / f"{names[0]}.pem"
        key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.write_bytes(certificate.public_bytes(Encoding.PEM))
        return TlsSettings(
            certificate_file=file, private_key_file=key_file, authorities_file=self.file
        )

    def _sign(
        self, key: Any, name: str, names: Any, *, is_authority: bool = False
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        )
        if names:
            loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
            alternatives = [*map(x509.DNSName, names), loopback]
            builder = builder.add_extension(
                x509.SubjectAlternativeName(alternatives), critical=False
            )
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "ours")


@pytest.fixture
async def server(authority: Authority) -> AsyncIterator[RpcServer]:
    async with serving(Handlers(), tls=authority.certify("scheduler")) as running:
        yield running


async def call(server: RpcServer, tls: TlsSettings | None) -> Any:
    settings = GrpcClientSettings(address=f"127.0.0.1:{server.port}", tls=tls)
    async with open_channel(settings, signer=a_signer()) as channel:
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


def test_tls_by_halves_does_not_load(tmp_path: Path) -> None:
    with pytest.raises(ValidationError):
        GrpcClientSettings.model_validate(
            {"address": "a:1", "tls": {"authorities_file": tmp_path / "a"}}
        )
