"""What a purged tenant has stored: rows and bytes go, and nobody else's."""

import asyncio
from dataclasses import replace

import pytest
import sqlalchemy as sa

from services.chassis.errors import Unavailable
from services.chassis.tenancy import PurgedTenants, TenantId
from services.model_registry.adapters.blob_store import FileBlobStore
from services.model_registry.adapters.postgres.repositories import PostgresArtifacts
from services.model_registry.adapters.postgres.tables import artifact, chassis, metadata
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.use_cases.purge_tenants import PurgeTenants
from tests.integration.model_registry.registry import (
    ACME,
    GLOBEX,
    Client,
    Registry,
    a_file,
    digest_of,
)

ROWS = {"model": 1, "model_version": 2, "artifact": 2, "idempotency": 1}


def a_purge(registry: Registry, *tenants: TenantId) -> PurgeTenants:
    """Return the purge of a process that has heard of these."""
    purged = PurgedTenants()
    for tenant in tenants:
        purged.add(tenant)
    return PurgeTenants(registry.unit_of_work, registry.blobs, purged, rows_per_pass_max=1)


async def to_the_end(purge: PurgeTenants) -> int:
    """Run passes until one finds nothing; return how many found something."""
    for count in range(20):
        if not await purge():
            return count
    raise AssertionError("a purge comes to an end")


async def furnish(client: Client, own: bytes) -> None:
    """Make a model of two versions, of bytes that others have and of bytes that nobody has."""
    await client.create_model(key="key-1")
    await client.create_version()
    await client.put(own)
    await client.create_version(files=[a_file(data=own)])


async def rows_of(registry: Registry, tenant: TenantId) -> dict[str, int]:
    """Count a tenant's rows in every table that has tenants, but for events that are to leave."""
    counts = {}
    async with registry.database.system(because="a test looks") as tx:
        for table in metadata.sorted_tables:
            if "tenant" in table.c and table is not chassis.outbox:
                query = sa.select(sa.func.count()).where(table.c.tenant == tenant)
                counts[table.name] = await tx.connection.scalar(query) or 0
    return {name: count for name, count in counts.items() if count}


async def are_bytes_there_for_each_row(registry: Registry) -> bool:
    async with registry.database.system(because="a test looks") as tx:
        digests = (await tx.connection.scalars(sa.select(artifact.c.digest))).all()
    stored = {f"sha256:{file.parent.name}{file.name}" for file in registry.stored_files()}
    return stored >= set(digests)


async def test_rows_and_bytes_of_a_purged_tenant_go_and_nobody_elses(registry: Registry) -> None:
    others = registry.client.of(GLOBEX)
    await furnish(registry.client, b"acme's own")
    await furnish(others, b"globex's own")
    assert await rows_of(registry, ACME) == await rows_of(registry, GLOBEX) == ROWS
    assert await to_the_end(a_purge(registry)) == 0

    assert await to_the_end(a_purge(registry, ACME)) > 1  # a row of each kind a pass
    assert await rows_of(registry, ACME) == {}
    assert await rows_of(registry, GLOBEX) == ROWS
    assert await others.get(digest_of(b"weights")) == [b"weights"]
    assert await others.get(digest_of(b"globex's own")) == [b"globex's own"]
    assert len(registry.stored_files()) == 2

    assert await to_the_end(a_purge(registry, ACME, GLOBEX)) > 1
    assert registry.stored_files() == []


async def test_what_came_late_goes_with_the_next_pass(registry: Registry) -> None:
    purge = a_purge(registry, ACME)
    assert await to_the_end(purge) == 0
    await furnish(registry.client, b"late")
    assert await to_the_end(purge) > 0
    assert await rows_of(registry, ACME) == {}
    assert registry.stored_files() == []


async def test_bytes_that_can_not_be_deleted_hold_up_no_others_and_go_later(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(registry.client, b"own")
    delete = FileBlobStore.delete
    asked: list[Digest] = []

    async def delete_all_but_the_first(store: FileBlobStore, digest: Digest) -> None:
        asked.append(digest)
        if digest == asked[0]:
            raise Unavailable("artifact store")
        await delete(store, digest)

    with monkeypatch.context() as patch:
        patch.setattr(FileBlobStore, "delete", delete_all_but_the_first)
        await replace(a_purge(registry, ACME), rows_per_pass_max=10)()
    assert len(asked) == 2
    assert await rows_of(registry, ACME) == {"artifact": 1}
    for file in registry.stored_files():
        file.unlink()  # as if the commit behind it had been lost
    assert await to_the_end(a_purge(registry, ACME)) > 0
    assert await rows_of(registry, ACME) == {}


async def test_bytes_that_can_never_be_deleted_are_passed_over(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = registry.client.of(GLOBEX)
    for client in (registry.client, others):
        for data in (b"a", b"b", b"c"):
            await client.put(data)
    delete = FileBlobStore.delete
    asked: list[Digest] = []

    async def delete_all_but_one(store: FileBlobStore, digest: Digest) -> None:
        asked.append(digest)
        if digest == asked[0]:
            raise Unavailable("artifact store")
        await delete(store, digest)

    purge = a_purge(registry, ACME, GLOBEX)
    with monkeypatch.context() as patch:
        patch.setattr(FileBlobStore, "delete", delete_all_but_one)
        for _ in range(6):  # one artifact a pass
            await purge()
    for tenant in (ACME, GLOBEX):
        assert await rows_of(registry, tenant) == {"artifact": 1}
    for _ in range(2):  # round again
        await purge()
    assert registry.stored_files() == []


async def test_an_upload_whose_bytes_were_deleted_before_its_row_stores_them_again(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = PostgresArtifacts.add

    async def add_late(artifacts: PostgresArtifacts, stored: Artifact) -> None:
        await registry.blobs.delete(stored.digest)
        await add(artifacts, stored)

    with monkeypatch.context() as patch:
        patch.setattr(PostgresArtifacts, "add", add_late)
        others = registry.client.of(GLOBEX)
        await others.put(b"weights")
    assert await are_bytes_there_for_each_row(registry)
    assert await others.get(digest_of(b"weights")) == [b"weights"]


async def test_others_store_the_same_bytes_while_they_are_purged(registry: Registry) -> None:
    others = registry.client.of(GLOBEX)
    purge = a_purge(registry, ACME)

    for _ in range(10):
        await registry.client.put(b"weights")
        await asyncio.gather(purge(), others.put(b"weights"))
        assert await are_bytes_there_for_each_row(registry)
        assert await others.get(digest_of(b"weights")) == [b"weights"]
        await to_the_end(a_purge(registry, ACME, GLOBEX))
