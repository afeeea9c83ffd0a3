"""The registry as it is run: a process on PostgreSQL and Apache Kafka, killed and stopped."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from modelyard.registry.v1 import artifact_service_pb2
from modelyard.registry.v1.model_events_pb2 import ModelChanged

from deploy.local import kafka
from services.chassis.errors import NotFound, Unavailable
from services.chassis.events.kafka_consumer import open_reader
from services.chassis.events.kafka_producer import open_producer
from services.chassis.events.ports import Record
from services.chassis.rpc.client import open_channel
from services.chassis.rpc.context import acting_as
from services.chassis.rpc.identity import TokenSigner
from services.chassis.settings import GrpcClientSettings, KafkaSettings
from services.chassis.tenancy import Principal
from services.model_registry.entrypoints.protobuf import TOPIC
from tests.integration.model_registry.registry import (
    ACME,
    CHUNK_BYTES,
    CLOCK,
    SCOPES,
    Client,
    identity,
    job_succeeded,
)
from tests.support.databases import Databases
from tests.support.eventually import eventually
from tests.support.free_port import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("registry-process"),  # two would share the service's group on Kafka
]


class Process:
    """The service as a process, started again and again on the same data."""

    def __init__(self, root: Path, url: str, broker: KafkaSettings) -> None:
        private, public = identity()
        (root / "identity.key.pem").write_bytes(private)
        (root / "trusted").mkdir()
        (root / "trusted" / "api-gateway.pub.pem").write_bytes(public)
        self._signer = TokenSigner("api-gateway", private, CLOCK)
        self._grpc_port, self._operations_port = free_port(), free_port()
        self._environment: Mapping[str, str] = os.environ | {
            "MODELYARD_ARTIFACTS__ROOT": str(root / "artifacts"),
            "MODELYARD_GRPC__PORT": str(self._grpc_port),
            "MODELYARD_OPERATIONS__PORT": str(self._operations_port),
            "MODELYARD_POSTGRES__URL": url,
            "MODELYARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "MODELYARD_IDENTITY__PRIVATE_KEY_FILE": str(root / "identity.key.pem"),
            "MODELYARD_IDENTITY__TRUSTED_KEYS_FOLDER": str(root / "trusted"),
        }

    async def migrate(self) -> None:
        """Bring the database up to date."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.model_registry", "migrate", env=self._environment
        )
        assert await process.wait() == 0

    async def start(self) -> asyncio.subprocess.Process:
        """Start the service; returns when it is ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.model_registry", env=self._environment
        )

        async def is_ready() -> bool:
            assert process.returncode is None, "the registry has ended"
            try:
                async with aiohttp.ClientSession() as session, session.get(self._url) as response:
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await eventually(is_ready, what="the registry is ready", within_s=60)
        return process

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """Call it as the gateway does."""
        settings = GrpcClientSettings(address=f"127.0.0.1:{self._grpc_port}")
        async with open_channel(settings, callee="model-registry", signer=self._signer) as channel:
            yield Client(channel)

    @property
    def _url(self) -> str:
        return f"http://127.0.0.1:{self._operations_port}/readyz"


@pytest.fixture
def broker(kafka_broker: str) -> KafkaSettings:
    kafka.ensure_topics(kafka_broker, kafka.declared_topics())
    return KafkaSettings(bootstrap_servers=kafka_broker)


async def test_one_version_is_made_over_a_kill_and_the_process_leaves_in_order(
    tmp_path: Path, database_url: Databases, broker: KafkaSettings
) -> None:
    registry = Process(tmp_path, database_url(), broker)
    await registry.migrate()
    process = await registry.start()
    async with registry.client() as client:
        await client.put(b"weights")
        await _tell(broker, job_succeeded())
        await _until_versions(client, 1)
    # The offset leaves within a second of the commit: the kill most often comes before it.
    process.kill()
    await process.wait()

    process = await registry.start()
    await _tell(broker, job_succeeded(job_id="job_2"))
    async with registry.client() as client:
        await _until_versions(client, 2)
        versions = [await client.get_version(version=number) for number in (1, 2)]
        assert [version.job_id for version in versions] == ["job_1", "job_2"]
    changes = await _changes(broker, versions[0].model_name, count=3)
    assert [change.revision for change in changes] == [1, 2, 3]
    assert [change.version.version for change in changes] == [0, 1, 2]
    process.terminate()
    assert await process.wait() == 0


async def test_upload_that_a_kill_cut_off_is_swept_by_the_next_start(
    tmp_path: Path, database_url: Databases, broker: KafkaSettings
) -> None:
    registry = Process(tmp_path, database_url(), broker)
    await registry.migrate()
    process = await registry.start()

    async def is_begun() -> bool:
        return any(path.is_file() for path in (tmp_path / "artifacts" / "incoming").rglob("*"))

    async def stalling() -> AsyncIterator[artifact_service_pb2.PutArtifactRequest]:
        header = artifact_service_pb2.ArtifactHeader(size_bytes=-1)
        yield artifact_service_pb2.PutArtifactRequest(header=header)
        for _ in range(8):
            yield artifact_service_pb2.PutArtifactRequest(chunk=bytes(CHUNK_BYTES))
        await asyncio.Event().wait()

    async with registry.client() as client:
        with acting_as(Principal(ACME, "key:tests", SCOPES)):
            call = client.artifacts.PutArtifact(stalling())
        await eventually(is_begun, what="the upload has begun")
        process.kill()
        await process.wait()
        call.cancel()
    assert await is_begun()

    process = await registry.start()
    assert not await is_begun()
    process.terminate()
    assert await process.wait() == 0


async def _tell(broker: KafkaSettings, record: Record) -> None:
    async with open_producer(broker, client_id="tests") as producer:
        await producer.send(record)


async def _until_versions(client: Client, count: int) -> None:
    async def has_them() -> bool:
        try:
            return (await client.get_model()).newest_version == count
        except (NotFound, Unavailable):
            return False

    await eventually(has_them, what=f"{count} versions", within_s=60)


async def _changes(broker: KafkaSettings, name: str, *, count: int) -> list[ModelChanged]:
    """Return what the topic tells of a model, each revision once, once there are so many."""
    changes: dict[int, ModelChanged] = {}
    async with asyncio.timeout(60), open_reader(broker, TOPIC, client_id="tests") as records:
        while len(changes) < count:
            for record in await records.poll(records_max=100, wait_s=0.5):
                change = ModelChanged.FromString(record.value or b"")
                if change.name == name:
                    changes.setdefault(change.revision, change)
    return list(changes.values())
