"""The blob store on a real folder."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterable
from contextlib import aclosing
from pathlib import Path

import pytest

from services.chassis.errors import InvalidArgument, PayloadTooLarge, Unavailable
from services.model_registry.adapters.blob_store import (
    CHUNK_BYTES,
    WRITE_BYTES,
    FileBlobStore,
    open_blob_store,
)
from services.model_registry.domain.artifact import Artifact, Digest
from tests.unit.model_registry.builders import an_artifact, digest_of

BLOB_BYTES_MAX = 4 * WRITE_BYTES


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FileBlobStore]:
    async with open_blob_store(
        tmp_path, blob_bytes_max=BLOB_BYTES_MAX, io_threads=2
    ) as opened_store:
        yield opened_store


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def put(
    store: FileBlobStore,
    *chunks: bytes,
    digest: Digest | None = None,
    size_bytes: int | None = None,
) -> Artifact:
    return await put_stream(store, stream(chunks), digest=digest, size_bytes=size_bytes)


async def put_stream(
    store: FileBlobStore,
    chunks: AsyncIterator[bytes],
    *,
    digest: Digest | None = None,
    size_bytes: int | None = None,
) -> Artifact:
    async with store.received(chunks, digest=digest, size_bytes=size_bytes) as blob:
        await blob.keep()
        return blob.artifact


async def read(store: FileBlobStore, artifact: Artifact) -> list[bytes]:
    async with aclosing(store.read(artifact)) as chunks:
        return [chunk async for chunk in chunks]


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


async def test_put_gives_the_bytes_back_in_bounded_chunks(
    store: FileBlobStore, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 10_000
    artifact = await put(
        store, data[:1000], data[1000:], digest=digest_of(data), size_bytes=len(data)
    )
    assert artifact == an_artifact(data)
    chunks = await read(store, artifact)
    assert b"".join(chunks) == data
    assert max(map(len, chunks)) <= CHUNK_BYTES
    hexadecimal = artifact.digest.removeprefix("sha256:")
    assert files_below(tmp_path) == [f"sha256/{hexadecimal[:2]}/{hexadecimal[2:]}"]


@pytest.mark.parametrize("chunks", [(), (b"",)])
async def test_put_stores_no_bytes_at_all(store: FileBlobStore, chunks: tuple[bytes, ...]) -> None:
    artifact = await put(store, *chunks, size_bytes=0)
    assert artifact == an_artifact(b"")
    assert await read(store, artifact) == []


@pytest.mark.parametrize(
    ("digest", "size_bytes", "field"),
    [
        (digest_of(b"other"), None, "digest"),
        (None, 6, "size_bytes"),
        (None, 8, "size_bytes"),
        (digest_of(b"weights"), 8, "size_bytes"),
    ],
)
async def test_put_leaves_nothing_when_the_bytes_are_not_what_was_announced(
    store: FileBlobStore, tmp_path: Path, digest: Digest | None, size_bytes: int | None, field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await put(store, b"weights", digest=digest, size_bytes=size_bytes)
    assert refused.value.detail["field"] == field
    assert files_below(tmp_path) == []


async def test_put_refuses_what_is_too_large_as_soon_as_it_is_certain(
    store: FileBlobStore, tmp_path: Path
) -> None:
    taken = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal taken
        while True:
            taken += WRITE_BYTES
            yield bytes(WRITE_BYTES)

    with pytest.raises(PayloadTooLarge):
        await put_stream(store, endless())
    assert taken == BLOB_BYTES_MAX + WRITE_BYTES
    with pytest.raises(PayloadTooLarge):
        await put_stream(store, endless(), size_bytes=BLOB_BYTES_MAX + 1)
    assert taken == BLOB_BYTES_MAX + WRITE_BYTES
    assert files_below(tmp_path) == []


async def test_put_leaves_nothing_when_the_stream_breaks(
    store: FileBlobStore, tmp_path: Path
) -> None:
    async def breaking() -> AsyncIterator[bytes]:
        yield bytes(WRITE_BYTES)
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await put_stream(store, breaking())
    assert files_below(tmp_path) == []


async def test_put_leaves_nothing_when_its_caller_goes_away(
    store: FileBlobStore, tmp_path: Path
) -> None:
    has_begun = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield bytes(WRITE_BYTES)
        has_begun.set()
        await asyncio.Event().wait()

    async with asyncio.TaskGroup() as tasks:
        upload = tasks.create_task(put_stream(store, stalling()))
        await has_begun.wait()
        assert len(files_below(tmp_path)) == 1
        upload.cancel()
    assert files_below(tmp_path) == []


async def test_put_keeps_one_file_when_the_same_bytes_come_at_once(
    store: FileBlobStore, tmp_path: Path
) -> None:
    data = bytes(WRITE_BYTES) + b"end"
    artifacts = await asyncio.gather(*(put(store, data) for _ in range(8)))
    assert set(artifacts) == {an_artifact(data)}
    assert len(files_below(tmp_path)) == 1
    assert b"".join(await read(store, artifacts[0])) == data


async def test_put_says_unavailable_when_the_disk_fails(
    store: FileBlobStore, tmp_path: Path
) -> None:
    (tmp_path / "sha256").rmdir()
    (tmp_path / "sha256").write_bytes(b"in the way")
    with pytest.raises(Unavailable):
        await put(store, b"weights")


async def test_read_survives_that_its_reader_leaves_early(store: FileBlobStore) -> None:
    data = bytes(3 * CHUNK_BYTES)
    artifact = await put(store, data)
    async with aclosing(store.read(artifact)) as chunks:
        assert len(await anext(chunks)) == CHUNK_BYTES
    assert b"".join(await read(store, artifact)) == data


async def test_start_sweeps_what_a_crash_left_but_no_living_store(tmp_path: Path) -> None:
    crashed = tmp_path / "incoming" / "crashed"
    crashed.mkdir(parents=True)
    (crashed / "1").write_bytes(b"half of it")
    has_begun = asyncio.Event()
    may_end = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield bytes(WRITE_BYTES)
        has_begun.set()
        await may_end.wait()

    async with open_blob_store(tmp_path, blob_bytes_max=BLOB_BYTES_MAX, io_threads=1) as living:
        assert not crashed.exists()
        async with asyncio.TaskGroup() as tasks:
            upload = tasks.create_task(put_stream(living, slow()))
            await has_begun.wait()
            async with open_blob_store(tmp_path, blob_bytes_max=BLOB_BYTES_MAX, io_threads=1):
                may_end.set()
                await upload
    assert files_below(tmp_path) != []
    assert list((tmp_path / "incoming").iterdir()) == []


async def test_other_work_goes_on_while_bytes_are_written(store: FileBlobStore) -> None:
    rounds = 0

    async def count(upload: asyncio.Task[Artifact]) -> None:
        nonlocal rounds
        while not upload.done():
            rounds += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        upload = tasks.create_task(put(store, *([bytes(WRITE_BYTES)] * 4)))
        await count(upload)
    assert rounds > 4


async def test_a_store_opens_while_another_one_closes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names_in = os.listdir

    def with_one_that_goes(folder: Path) -> list[str]:
        return [*names_in(folder), "gone-by-now"]

    monkeypatch.setattr(os, "listdir", with_one_that_goes)
    async with open_blob_store(tmp_path, blob_bytes_max=BLOB_BYTES_MAX, io_threads=2) as opened:
        await put(opened, b"bytes")


async def test_bytes_that_were_deleted_are_kept_again_while_their_upload_lasts(
    store: FileBlobStore, tmp_path: Path
) -> None:
    async with store.received(stream([b"weights"]), digest=None, size_bytes=None) as blob:
        assert len(files_below(tmp_path / "sha256")) == 0
        for _ in range(2):
            await blob.keep()
            await blob.keep()
            assert b"".join(await read(store, blob.artifact)) == b"weights"
            await store.delete(blob.artifact.digest)
        await blob.keep()
    assert b"".join(await read(store, blob.artifact)) == b"weights"
    assert len(files_below(tmp_path)) == 1


async def test_bytes_that_nobody_keeps_are_gone(store: FileBlobStore, tmp_path: Path) -> None:
    async with store.received(stream([b"weights"]), digest=None, size_bytes=None):
        pass
    assert files_below(tmp_path) == []
