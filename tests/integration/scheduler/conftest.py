"""A database of its own for each test, brought up by the scheduler's migrations."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr

import services.scheduler
from deploy.local import postgres
from deploy.local.postgres import PostgresServer
from deploy.local.state import State
from services.chassis.clock import SystemClock
from services.chassis.db.engine import open_engine
from services.chassis.db.migrate import upgrade
from services.chassis.rpc.identity import TokenSigner, TokenVerifier
from services.chassis.settings import PostgresSettings
from tests.integration.scheduler.yard import Yard

MIGRATIONS = Path(services.scheduler.__file__).parent / "migrations"

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    state = State(tmp_path_factory.mktemp("postgres"))
    yield postgres.start(state, durable=False)
    postgres.halt(state)


@pytest.fixture(scope="session")
def template(server: PostgresServer) -> str:
    server.execute("CREATE DATABASE scheduler_template")
    asyncio.run(upgrade(server.url("scheduler_template"), MIGRATIONS))
    return "scheduler_template"


@pytest.fixture
async def url(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"scheduler_{next(_numbers)}"
    admin = await server.connect()
    await admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def yard(url: str) -> AsyncIterator[Yard]:
    settings = PostgresSettings(url=SecretStr(url))
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
        TokenVerifier({"api-gateway": public}, clock),
    )
