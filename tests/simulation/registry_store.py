"""The registry's rows in a `Database`: the ports of the use case that registers outputs."""

from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final

from services.chassis.errors import NotFound
from services.chassis.events.envelope import NewEvent
from services.chassis.tenancy import TenantId
from services.model_registry.adapters.postgres.unit_of_work import CONSUMER
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.domain.model import Model, ModelChanged
from services.model_registry.domain.version import ModelVersion
from services.model_registry.use_cases.ports import Once, Page, SystemTransaction
from tests.simulation.database import Client, Table, Transaction

MODELS: Final[Table[tuple[TenantId, str], Model]] = Table("model")
VERSIONS: Final[Table[tuple[TenantId, str, int], ModelVersion]] = Table("model_version")
ARTIFACTS: Final[Table[tuple[TenantId, Digest], Artifact]] = Table("artifact")

_NOT_SIMULATED: Final = "the simulation registers outputs, and nothing else"


class MemoryModels:
    """The tenant's models; implements `ports.Models`."""

    def __init__(self, tx: Transaction, tenant: TenantId) -> None:
        self._tx = tx
        self._tenant = tenant

    async def add(self, model: Model) -> bool:
        """Insert the row unless the name is taken; waits for a twin that is inserting it."""
        place = (self._tenant, model.name)
        if await self._tx.server.ask(lambda: self._tx.server.read(MODELS, place)) is not None:
            return False
        if await self._tx.server.lock(MODELS, place) is not None:
            return False
        self._tx.server.write(MODELS, place, model)
        return True

    async def get(self, name: str) -> Model:
        """Read the row. Raises NotFound."""
        place = (self._tenant, name)
        return self._found(
            await self._tx.server.ask(lambda: self._tx.server.read(MODELS, place)), name
        )

    async def lock(self, name: str) -> Model:
        """Read the row and keep it until the commit. Raises NotFound."""
        return self._found(await self._tx.server.lock(MODELS, (self._tenant, name)), name)

    async def save(self, model: Model) -> None:
        """Update what can change."""
        await self._tx.server.lock(MODELS, (self._tenant, model.name))
        self._tx.server.write(MODELS, (self._tenant, model.name), model)

    async def after(self, name: str, *, size: int) -> Page[Model]:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)

    def _found(self, model: Model | None, name: str) -> Model:
        if model is None:
            raise NotFound("model", name)
        return model


class MemoryVersions:
    """The versions of the tenant's models; implements `ports.Versions`."""

    def __init__(self, tx: Transaction, tenant: TenantId) -> None:
        self._tx = tx
        self._tenant = tenant

    async def add(self, version: ModelVersion) -> None:
        """Insert the row."""
        place = (self._tenant, version.model_id, version.number)
        taken = await self._tx.server.lock(VERSIONS, place)
        assert taken is None, "versions are numbered under their model's lock"
        self._tx.server.write(VERSIONS, place, version)

    async def get(self, model: Model, number: int) -> ModelVersion:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)

    async def has_output(self, *, job_id: str, output_name: str) -> bool:
        """Look for the row that the unique constraint allows once."""
        versions = await self._tx.server.ask(lambda: self._tx.server.all(VERSIONS))
        return any(
            lineage is not None and (lineage.job_id, lineage.output_name) == (job_id, output_name)
            for lineage in (version.content.lineage for version in versions)
        )

    async def before(self, model: Model, number: int | None, *, size: int) -> Page[ModelVersion]:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)


class MemoryArtifacts:
    """What the tenant has stored; implements `ports.Artifacts`."""

    def __init__(self, tx: Transaction, tenant: TenantId) -> None:
        self._tx = tx
        self._tenant = tenant

    async def add(self, artifact: Artifact) -> None:
        """Insert the row unless it is there."""
        if await self._tx.server.lock(ARTIFACTS, (self._tenant, artifact.digest)) is None:
            self._tx.server.write(ARTIFACTS, (self._tenant, artifact.digest), artifact)

    async def get(self, digest: Digest) -> Artifact:
        """Read the row. Raises NotFound."""
        found = await self.stored([digest])
        if digest not in found:
            raise NotFound("artifact", digest)
        return found[digest]

    async def stored(self, digests: Collection[Digest]) -> Mapping[Digest, Artifact]:
        """Read the rows that are there."""
        server = self._tx.server
        found = await server.ask(
            lambda: [server.read(ARTIFACTS, (self._tenant, each)) for each in sorted(digests)]
        )
        return {artifact.digest: artifact for artifact in found if artifact is not None}


class MemoryRegistryTransaction:
    """One tenant's open transaction; implements `ports.Transaction`."""

    def __init__(
        self, tx: Transaction, event_of: Callable[[TenantId, ModelChanged], NewEvent]
    ) -> None:
        assert tx.tenant is not None, "it is a tenant's"
        self.models = MemoryModels(tx, tx.tenant)
        self.versions = MemoryVersions(tx, tx.tenant)
        self.artifacts = MemoryArtifacts(tx, tx.tenant)
        self._tx = tx
        self._tenant = tx.tenant
        self._event_of = event_of

    def emit(self, fact: ModelChanged) -> None:
        """Add the fact's outbox row to the commit."""
        self._tx.emit(self._event_of(self._tenant, fact))

    async def claim_event(self, event_id: str) -> None:
        """Add the event's inbox row. Raises DuplicateEvent."""
        await self._tx.claim_event(CONSUMER, event_id)

    async def earlier_answer(self, once: Once | None) -> str | None:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)

    async def answer(self, once: Once | None, answer: str) -> None:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)


class MemoryRegistryUnitOfWork:
    """Opens transactions on the registry's database; implements `ports.UnitOfWork`."""

    def __init__(
        self,
        client: Client,
        event_of: Callable[[TenantId, ModelChanged], NewEvent],
        transaction: type[MemoryRegistryTransaction] = MemoryRegistryTransaction,
    ) -> None:
        self._client = client
        self._event_of = event_of
        self._transaction = transaction

    @asynccontextmanager
    async def __call__(self, tenant: TenantId) -> AsyncIterator[MemoryRegistryTransaction]:
        """Open one for a tenant."""
        async with self._client.begin(tenant) as tx:
            yield self._transaction(tx, self._event_of)

    @asynccontextmanager
    async def reading(self, tenant: TenantId) -> AsyncIterator[MemoryRegistryTransaction]:
        """Open one to look things up by key."""
        async with self(tenant) as tx:
            yield tx

    @asynccontextmanager
    async def system(self, *, because: str) -> AsyncIterator[SystemTransaction]:
        """Refuse."""
        raise AssertionError(_NOT_SIMULATED)
        yield
