"""The collector as it is run: a process on PostgreSQL and Apache Kafka, killed and stopped."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from modelyard.logs.v1 import log_service_pb2 as pb

from deploy.local import kafka
from deploy.local.state import State
from services.chassis.errors import Unavailable
from services.chassis.events.envelope import from_headers, record_of
from services.chassis.events.kafka_consumer import open_reader
from services.chassis.events.kafka_producer import open_producer
from services.chassis.ids import TimeOrderedIds
from services.chassis.rpc.client import open_channel
from services.chassis.rpc.identity import TokenSigner
from services.chassis.settings import GrpcClientSettings, KafkaSettings
from services.log_collector.domain.log_stream import LogStream
from services.log_collector.entrypoints.protobuf import TOPIC as STREAMS
from tests.integration.log_collector.fakes import until
from tests.integration.log_collector.service import CLOCK, Client, attempt_event
from tests.support.free_port import free_port
from tests.unit.log_collector.builders import ContainerLog, a_stream

STREAM = a_stream()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaSettings]:
    # Its own: the service's group and topics have fixed names.
    state = State(tmp_path / "kafka")
    address = kafka.start(state)
    try:
        kafka.ensure_topics(address, kafka.declared_topics())
        yield KafkaSettings(bootstrap_servers=address)
    finally:
        kafka.halt(state)


class Collector:
    """The service as a process, started again and again on the same data."""

    def __init__(self, root: Path, url: str, broker: KafkaSettings) -> None:
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        (root / "identity.key.pem").write_bytes(private)
        (root / "trusted").mkdir()
        (root / "trusted" / "api-gateway.pub.pem").write_bytes(
            key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        )
        self._process: asyncio.subprocess.Process | None = None
        self.signer = TokenSigner("api-gateway", private, CLOCK)
        self.grpc_port, self.operations_port = free_port(), free_port()
        self._environment: Mapping[str, str] = os.environ | {
            "MODELYARD_COLLECT__CONTAINERS_ROOT": str(root / "containers"),
            "MODELYARD_STORE__ROOT": str(root / "store"),
            "MODELYARD_GRPC__PORT": str(self.grpc_port),
            "MODELYARD_OPERATIONS__PORT": str(self.operations_port),
            "MODELYARD_POSTGRES__URL": url,
            "MODELYARD_KAFKA__BOOTSTRAP_SERVERS": broker.bootstrap_servers,
            "MODELYARD_IDENTITY__PRIVATE_KEY_FILE": str(root / "identity.key.pem"),
            "MODELYARD_IDENTITY__TRUSTED_KEYS_FOLDER": str(root / "trusted"),
        }

    async def close(self) -> None:
        """Leave nothing running."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def migrate(self) -> None:
        """Bring the database up to date."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.log_collector", "migrate", env=self._environment
        )
        assert await process.wait() == 0

    async def start(self) -> asyncio.subprocess.Process:
        """Start the service; returns when it is ready."""
        process = self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "services.log_collector", env=self._environment
        )

        async def is_ready() -> bool:
            assert process.returncode is None, "the collector has ended"
            try:
                async with (
                    aiohttp.ClientSession() as session,
                    session.get(f"http://127.0.0.1:{self.operations_port}/readyz") as response,
                ):
                    return response.status == 200
            except aiohttp.ClientConnectionError:
                return False

        await until(is_ready, within_s=30)
        return process


@pytest.fixture
async def collector(tmp_path: Path, url: str, broker: KafkaSettings) -> AsyncIterator[Collector]:
    collector = Collector(tmp_path, url, broker)
    yield collector
    await collector.close()


@asynccontextmanager
async def reader(collector: Collector) -> AsyncIterator[Client]:
    settings = GrpcClientSettings(address=f"127.0.0.1:{collector.grpc_port}")
    async with open_channel(settings, callee="log-collector", signer=collector.signer) as channel:
        yield Client(channel)


async def follow_to_the_end(collector: Collector, texts: list[str]) -> None:
    """Add what follows the texts so far; resumes, as callers do, while the server isn't there."""

    async def is_complete() -> bool:
        after = pb.LogPosition(attempt_number=1, sequence=len(texts))
        request = pb.FollowLogsRequest(owner_id="job_1", after=after)
        try:
            async with aclosing(client.follow(request)) as pages:
                async for page in pages:
                    texts.extend(record.text for record in page.records)
                    if page.complete:
                        return True
        except Unavailable:
            pass
        return False

    async with reader(collector) as client:
        await until(is_complete, within_s=60)


async def tell(broker: KafkaSettings, stream: LogStream, state: str, *, version: int) -> None:
    async with open_producer(broker, client_id="tests") as producer:
        await producer.send(
            record_of(
                attempt_event(stream, state, version=version),
                event_id=TimeOrderedIds(CLOCK).new("evt"),
                source="/scheduler",
                time=CLOCK.now(),
            )
        )


async def types_on(broker: KafkaSettings, topic: str, *, count: int) -> list[str]:
    """Return the types of the first events; what the kill made the relay send again counts once."""
    found: dict[str, str] = {}
    async with asyncio.timeout(20), open_reader(broker, topic, client_id="tests") as records:
        while len(found) < count:
            for record in await records.poll(records_max=100, wait_s=0.5):
                headers = from_headers(record.headers)
                found[headers["ce_id"]] = headers["ce_type"]
    return list(found.values())


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_job_is_collected_over_a_kill_and_the_process_leaves_in_order(
    tmp_path: Path, collector: Collector, broker: KafkaSettings
) -> None:
    log = ContainerLog(tmp_path / "containers", STREAM.attempt_id)
    await collector.migrate()
    process = await collector.start()
    await tell(broker, STREAM, "started", version=2)
    log.write("one")
    texts: list[str] = []
    request = pb.FollowLogsRequest(owner_id="job_1")
    async with reader(collector) as client, aclosing(client.follow(request)) as pages:
        texts += [record.text for record in (await anext(pages)).records]
    process.kill()
    await process.wait()
    log.write("two")
    log.rotate()
    log.write("three")

    process = await collector.start()
    await tell(broker, STREAM, "exited", version=3)
    await follow_to_the_end(collector, texts)

    assert texts == ["one", "two", "three"]
    assert await types_on(broker, STREAMS, count=2) == [
        "modelyard.log-stream.opened.v1",
        "modelyard.log-stream.completed.v1",
    ]
    process.terminate()
    assert await process.wait() == 0
    log.close()
