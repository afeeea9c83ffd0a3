"""Bytes over gRPC, streamed both ways."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import ServiceDescriptor
from modelyard.registry.v1 import artifact_service_pb2 as pb

from services.chassis.errors import (
    InvalidArgument,
    NotFound,
    PayloadTooLarge,
    PermissionDenied,
)
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal
from tests.integration.model_registry.registry import (
    ACME,
    BLOB_BYTES_MAX,
    CHUNK_BYTES,
    GLOBEX,
    SCOPES,
    Client,
    Registry,
    digest_of,
)
from tests.support.eventually import eventually

LARGE = bytes(range(256)) * 8_000


async def test_bytes_come_back_as_they_were_sent(client: Client) -> None:
    stored = await client.put(LARGE, digest=digest_of(LARGE), size_bytes=len(LARGE))
    assert (stored.digest, stored.size_bytes) == (digest_of(LARGE), len(LARGE))
    chunks = await client.get(stored.digest)
    assert b"".join(chunks) == LARGE
    assert max(map(len, chunks)) <= CHUNK_BYTES
    assert await client.stat(stored.digest) == len(LARGE)


async def test_digest_is_computed_when_it_was_not_announced(client: Client) -> None:
    assert (await client.put(b"")).digest == digest_of(b"")
    assert await client.get(digest_of(b"")) == []
    assert (await client.put(b"weights")).digest == digest_of(b"weights")


async def test_foreign_bytes_are_not_found_and_stored_again_without_a_word(
    registry: Registry,
) -> None:
    owner, other = registry.client, registry.client.of(GLOBEX)
    await owner.put(LARGE)
    with pytest.raises(NotFound):
        await other.get(digest_of(LARGE))
    with pytest.raises(NotFound):
        await other.stat(digest_of(LARGE))
    assert (await other.put(LARGE)).size_bytes == len(LARGE)
    assert b"".join(await other.get(digest_of(LARGE))) == LARGE
    assert len(registry.stored_files()) == 1


@pytest.mark.parametrize(
    ("digest", "size_bytes"),
    [(digest_of(b"other"), -1), ("", 6), ("", 8), ("sha256:0", -1), ("", -2)],
)
async def test_bytes_are_refused_when_they_are_not_what_was_announced(
    registry: Registry, digest: str, size_bytes: int
) -> None:
    with pytest.raises(InvalidArgument):
        await registry.client.put(b"weights", digest=digest, size_bytes=size_bytes)
    with pytest.raises(NotFound):
        await registry.client.get(digest_of(b"weights"))
    assert registry.stored_files() == []


async def test_bytes_are_refused_when_they_are_too_many(registry: Registry) -> None:
    with pytest.raises(PayloadTooLarge):
        await registry.client.put(b"", size_bytes=BLOB_BYTES_MAX + 1)
    with pytest.raises(PayloadTooLarge):
        await registry.client.put(bytes(BLOB_BYTES_MAX + 1))
    assert registry.stored_files() == []


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [pb.PutArtifactRequest()],
        [pb.PutArtifactRequest(chunk=b"weights")],
        [pb.PutArtifactRequest(header=pb.ArtifactHeader(size_bytes=-1))] * 2,
        [pb.PutArtifactRequest(header=pb.ArtifactHeader(size_bytes=-1)), pb.PutArtifactRequest()],
    ],
)
async def test_stream_is_refused_when_it_is_out_of_order(
    registry: Registry, requests: list[pb.PutArtifactRequest]
) -> None:
    with pytest.raises(InvalidArgument):
        await registry.client.send(requests)
    assert registry.stored_files() == []


async def test_chunk_is_refused_when_it_is_too_large(client: Client) -> None:
    header = pb.PutArtifactRequest(header=pb.ArtifactHeader(size_bytes=-1))
    chunk = pb.PutArtifactRequest(chunk=bytes(CHUNK_BYTES + 1))
    with pytest.raises(PayloadTooLarge):
        await client.send([header, chunk])


async def test_aborted_upload_leaves_nothing_also_when_nothing_was_announced(
    registry: Registry,
) -> None:
    sent = asyncio.Event()

    async def stalling() -> AsyncIterator[pb.PutArtifactRequest]:
        yield pb.PutArtifactRequest(header=pb.ArtifactHeader(size_bytes=-1))
        for _ in range(8):
            yield pb.PutArtifactRequest(chunk=bytes(CHUNK_BYTES))
        sent.set()
        await asyncio.Event().wait()

    with acting_as(Principal(ACME, "key:tests", SCOPES)):
        call = registry.client.artifacts.PutArtifact(stalling())
    await sent.wait()

    async def has_begun() -> bool:
        return registry.stored_files() != []

    async def is_empty() -> bool:
        return registry.stored_files() == []

    await eventually(has_begun, what="the upload lies in the store's folder")
    call.cancel()
    await eventually(is_empty, what="nothing is left of the upload")
    with pytest.raises(NotFound):
        await registry.client.stat(digest_of(bytes(8 * CHUNK_BYTES)))


async def test_reader_that_leaves_early_disturbs_nobody(registry: Registry) -> None:
    await registry.client.put(LARGE)
    request = pb.GetArtifactRequest(digest=digest_of(LARGE))
    with acting_as(Principal(ACME, "key:tests", SCOPES)):
        call = registry.client.artifacts.GetArtifact(request)
        first = await anext(aiter(call))
    call.cancel()
    assert LARGE.startswith(first.chunk)
    assert b"".join(await registry.client.get(digest_of(LARGE))) == LARGE


async def test_same_bytes_are_stored_once_when_many_send_them_at_once(registry: Registry) -> None:
    answers = await asyncio.gather(*(registry.client.put(LARGE) for _ in range(6)))
    assert {answer.digest for answer in answers} == {digest_of(LARGE)}
    assert len(registry.stored_files()) == 1


@pytest.mark.parametrize("digest", ["", "sha256:../../etc/passwd", "sha256:" + "A" * 64])
async def test_malformed_digest_is_refused(client: Client, digest: str) -> None:
    with pytest.raises(InvalidArgument):
        await client.get(digest)
    with pytest.raises(InvalidArgument):
        await client.stat(digest)


async def test_a_node_stores_as_an_attempt(registry: Registry) -> None:
    attempt = registry.node.named("attempt:att_1", scopes=["artifacts:write"])

    assert (await attempt.put(b"weights")).digest == digest_of(b"weights")


@pytest.mark.parametrize(
    ("subject", "scopes"),
    [
        ("scheduler", ["artifacts:write"]),
        ("key:1", ["artifacts:write"]),
        ("attempt:att_1", ["artifacts:read"]),
    ],
)
async def test_a_node_stores_in_no_other_way(
    registry: Registry, subject: str, scopes: list[str]
) -> None:
    with pytest.raises(PermissionDenied):
        await registry.node.named(subject, scopes=scopes).put(b"weights")
    assert registry.stored_files() == []


async def test_only_a_node_stores_as_an_attempt(registry: Registry) -> None:
    with pytest.raises(PermissionDenied):
        await registry.client.named("attempt:att_1", scopes=["artifacts:write"]).put(b"weights")


async def test_an_attempts_token_is_good_for_nothing_else(registry: Registry) -> None:
    """Tried against each method of the registry, whatever the token says besides."""
    attempt = registry.node.named("attempt:att_1", scopes=SCOPES)
    await registry.client.create_version((await registry.client.create_model()).name)
    allowed = []
    for service, stub in (("Model", attempt.models), ("Artifact", attempt.artifacts)):
        for method in service_of(service).methods:
            request = message_factory.GetMessageClass(method.input_type)()
            try:
                if method.client_streaming:
                    await attempt.put(b"weights")
                elif method.server_streaming:
                    await attempt.get(digest_of(b"weights"))
                else:
                    await attempt.call(getattr(stub, method.name), request)
            except PermissionDenied:
                continue
            allowed.append(method.name)

    assert allowed == ["PutArtifact"]


def service_of(name: str) -> ServiceDescriptor:
    pool = descriptor_pool.Default()
    return pool.FindServiceByName(f"modelyard.registry.v1.{name}Service")
