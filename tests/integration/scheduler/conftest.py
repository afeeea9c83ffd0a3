"""A database of its own for each test, brought up by the scheduler's migrations."""

from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr

from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.settings import PostgresSettings
from tests.integration.scheduler.yard import Yard
from tests.support.databases import Databases


@pytest.fixture
async def yard(database_url: Databases) -> AsyncIterator[Yard]:
    settings = PostgresSettings(url=SecretStr(database_url("scheduler")))
    async with open_engine(settings, application_name="tests") as engine:
        yard = Yard(engine)
        yield yard
        await yard.check()


@pytest.fixture(scope="session")
def identity() -> tuple[TokenSigner, TokenVerifier]:
    """Return what signs and what checks the tests' tokens."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    clock = SystemClock()
    return (
        TokenSigner("api-gateway", private, clock),
        TokenVerifier("scheduler", {"api-gateway": public}, clock),
    )
