"""The repositories on PostgreSQL: rows to domain values and back.

Owns: the statements. Each filters and stamps the tenant of its transaction; none commits.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from services.chassis.db.statements import is_one_of, take_turn
from services.chassis.db.unit_of_work import Transaction
from services.chassis.errors import NotFound
from services.model_registry.adapters.postgres import tables
from services.model_registry.domain.artifact import Artifact, Digest, FileEntry, Manifest
from services.model_registry.domain.model import Model
from services.model_registry.domain.version import (
    Lineage,
    ModelVersion,
    NewVersion,
    VersionState,
)
from services.model_registry.use_cases.ports import Item, Page

PAGE_BYTES_MAX: Final = 2 * 1024 * 1024
"""With the largest single row on top a page still fits into a gRPC message of 4 MiB."""

_MODEL = tables.model.c
_VERSION = tables.model_version.c
_ARTIFACT = tables.artifact.c

# Built once: building one anew costs as much as running it.
_MODEL_BY_NAME: Final = sa.select(tables.model).where(
    _MODEL.tenant == sa.bindparam("tenant"), _MODEL.name == sa.bindparam("name")
)
# Not the key: versions refer to it, and inserting one must not wait for the lock.
_MODEL_BY_NAME_LOCKED: Final = _MODEL_BY_NAME.with_for_update(key_share=True)
_VERSION_BY_NUMBER: Final = sa.select(tables.model_version).where(
    _VERSION.tenant == sa.bindparam("tenant"),
    _VERSION.model_id == sa.bindparam("model_id"),
    _VERSION.number == sa.bindparam("number"),
)


class PostgresModels:
    """The tenant's models."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def add(self, model: Model) -> bool:
        """Insert the row unless the name is taken; waits for a twin that is inserting it."""
        inserted = await self._tx.connection.execute(
            insert(tables.model)
            .values(
                id=model.id,
                tenant=self._tx.tenant,
                name=model.name,
                description=model.description,
                created_at=model.created_at,
                **_changing(model),
            )
            .on_conflict_do_nothing(index_elements=[_MODEL.tenant, _MODEL.name])
        )
        return inserted.rowcount == 1

    async def get(self, name: str) -> Model:
        """Read the row. Raises NotFound."""
        return await self._one(name, _MODEL_BY_NAME)

    async def lock(self, name: str) -> Model:
        """Read the row and keep it until the commit. Raises NotFound."""
        return await self._one(name, _MODEL_BY_NAME_LOCKED)

    async def save(self, model: Model) -> None:
        """Update what can change."""
        updated = await self._tx.connection.execute(
            sa.update(tables.model)
            .where(_MODEL.id == model.id, _MODEL.tenant == self._tx.tenant)
            .values(_changing(model))
        )
        assert updated.rowcount == 1, f"{model.id} was locked, so it has to be there"

    async def after(self, name: str, *, size: int) -> Page[Model]:
        """Read rows by name."""
        return await _page(
            self._tx,
            sa.select(tables.model)
            .where(_MODEL.tenant == self._tx.tenant, _MODEL.name > name)
            .order_by(_MODEL.name),
            large=(_MODEL.description, _MODEL.tags, _MODEL.aliases, _MODEL.alias_revisions),
            size=size,
            to_item=_to_model,
        )

    async def _one(self, name: str, query: sa.Select[Any]) -> Model:
        if "\0" in name:  # which PostgreSQL's text can't hold, not even to be compared
            raise NotFound("model", name)
        rows = await self._tx.connection.execute(query, {"tenant": self._tx.tenant, "name": name})
        if (row := rows.one_or_none()) is None:
            raise NotFound("model", name)
        return _to_model(row)


class PostgresVersions:
    """The versions of the tenant's models."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def add(self, version: ModelVersion) -> None:
        """Insert the row."""
        lineage = version.content.lineage
        await self._tx.connection.execute(
            insert(tables.model_version).values(
                model_id=version.model_id,
                number=version.number,
                tenant=self._tx.tenant,
                state=version.state,
                reason=version.reason,
                files=_from_manifest(version.content.manifest),
                tags=version.content.tags,
                metrics=version.content.metrics,
                job_id=lineage and lineage.job_id,
                output_name=lineage and lineage.output_name,
                source_digest=lineage and lineage.source_digest,
                created_at=version.created_at,
            )
        )

    async def get(self, model: Model, number: int) -> ModelVersion:
        """Read the row. Raises NotFound."""
        rows = await self._tx.connection.execute(
            _VERSION_BY_NUMBER,
            {"tenant": self._tx.tenant, "model_id": model.id, "number": number},
        )
        if (row := rows.one_or_none()) is None:
            raise NotFound("version", f"{model.name}/{number}")
        return _to_version(row)

    async def has_output(self, *, job_id: str, output_name: str) -> bool:
        """Look for the row that the unique constraint allows once."""
        found = await self._tx.connection.execute(
            sa.select(
                sa.exists().where(
                    _VERSION.tenant == self._tx.tenant,
                    _VERSION.job_id == job_id,
                    _VERSION.output_name == output_name,
                )
            )
        )
        return bool(found.scalar_one())

    async def before(self, model: Model, number: int | None, *, size: int) -> Page[ModelVersion]:
        """Read rows from the newest."""
        query = sa.select(tables.model_version).where(
            _VERSION.tenant == self._tx.tenant, _VERSION.model_id == model.id
        )
        if number is not None:
            query = query.where(_VERSION.number < number)
        return await _page(
            self._tx,
            query.order_by(_VERSION.number.desc()),
            large=(_VERSION.files, _VERSION.tags, _VERSION.metrics),
            size=size,
            to_item=_to_version,
        )


class PostgresArtifacts:
    """What the tenant has stored."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx

    async def add(self, artifact: Artifact) -> None:
        """Insert the row unless it is there; whoever deletes these bytes has done so, or waits."""
        await take_turn(self._tx.connection, artifact.digest)
        await self._tx.connection.execute(
            insert(tables.artifact)
            .values(
                tenant=self._tx.tenant,
                digest=artifact.digest,
                size_bytes=artifact.size_bytes,
                created_at=self._tx.now,
            )
            .on_conflict_do_nothing()
        )

    async def get(self, digest: Digest) -> Artifact:
        """Read the row. Raises NotFound."""
        found = await self.stored([digest])
        if digest not in found:
            raise NotFound("artifact", digest)
        return found[digest]

    async def stored(self, digests: Collection[Digest]) -> Mapping[Digest, Artifact]:
        """Read the rows that are there."""
        rows = await self._tx.connection.execute(
            sa.select(_ARTIFACT.digest, _ARTIFACT.size_bytes).where(
                _ARTIFACT.tenant == self._tx.tenant,
                is_one_of(_ARTIFACT.digest, digests),  # a manifest can have many
            )
        )
        return {row.digest: Artifact(Digest(row.digest), row.size_bytes) for row in rows}


async def _page(
    tx: Transaction,
    query: sa.Select[Any],
    *,
    large: Sequence[sa.ColumnElement[Any]],
    size: int,
    to_item: Callable[[sa.Row[Any]], Item],
) -> Page[Item]:
    """Read rows until the page is full, in number or in bytes, but never none."""
    row_bytes = sum(
        (sa.func.octet_length(sa.cast(column, sa.Text)) for column in large), sa.literal(0)
    )
    items: list[Item] = []
    page_bytes = 0
    async with tx.connection.stream(
        query.add_columns(row_bytes.label("row_bytes")).limit(size + 1)
    ) as rows:
        async for row in rows:
            page_bytes += row.row_bytes
            if items and (len(items) == size or page_bytes > PAGE_BYTES_MAX):
                return Page(items, has_more=True)
            items.append(to_item(row))
    return Page(items, has_more=False)


def _changing(model: Model) -> dict[str, Any]:
    return {
        "tags": model.tags,
        "aliases": model.aliases,
        "alias_revisions": model.alias_revisions,
        "newest_version": model.newest_version,
        "revision": model.revision,
    }


def _to_model(row: sa.Row[Any]) -> Model:
    return Model(
        id=row.id,
        name=row.name,
        description=row.description,
        created_at=row.created_at,
        tags=row.tags,
        aliases=row.aliases,
        # No move was the first revision, so that it stands for one that nobody kept.
        alias_revisions={name: row.alias_revisions.get(name, 1) for name in row.aliases},
        newest_version=row.newest_version,
        revision=row.revision,
    )


def _to_version(row: sa.Row[Any]) -> ModelVersion:
    return ModelVersion(
        model_id=row.model_id,
        number=row.number,
        state=VersionState(row.state),
        reason=row.reason,
        content=NewVersion(
            manifest=_to_manifest(row.files),
            tags=row.tags,
            # JSON writes 1e22 without a point, and it would come back as an integer.
            metrics={name: float(value) for name, value in row.metrics.items()},
            lineage=(
                None
                if row.job_id is None
                else Lineage(row.job_id, row.output_name, row.source_digest)
            ),
        ),
        created_at=row.created_at,
    )


def _from_manifest(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {
            "path": file.path,
            "digest": file.artifact.digest,
            "size_bytes": file.artifact.size_bytes,
        }
        for file in manifest.files
    ]


def _to_manifest(files: list[dict[str, Any]]) -> Manifest:
    return Manifest(
        tuple(
            FileEntry(file["path"], Artifact(Digest(file["digest"]), file["size_bytes"]))
            for file in files
        )
    )
