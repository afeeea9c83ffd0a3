"""What the use cases need from outside.

Owns: the protocols. A repository exists only inside a unit of work for one tenant, so that nothing
here takes a tenant twice; what another tenant has is not found.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from services.chassis.tenancy import TenantId
from services.model_registry.domain.artifact import Artifact, Digest
from services.model_registry.domain.model import Model, ModelChanged
from services.model_registry.domain.version import ModelVersion

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Once:
    """A request that has one effect however often it is sent with the same key."""

    method: str
    key: str
    request_hash: bytes


@dataclass(frozen=True, slots=True)
class Page(Generic[Item]):
    """Some items in order, and whether others follow; it ends early when its items are large."""

    items: Sequence[Item]
    has_more: bool


class Models(Protocol):
    """The tenant's models."""

    async def add(self, model: Model) -> bool:
        """Store a new model; False when its name is taken, also by a twin committing now."""
        ...

    async def get(self, name: str) -> Model:
        """Return a model. Raises NotFound."""
        ...

    async def lock(self, name: str) -> Model:
        """Return a model that nobody else changes until the commit. Raises NotFound."""
        ...

    async def save(self, model: Model) -> None:
        """Store what changed of a locked model."""
        ...

    async def after(self, name: str, *, size: int) -> Page[Model]:
        """Return the models that follow a name, by name."""
        ...


class Versions(Protocol):
    """The versions of the tenant's models."""

    async def add(self, version: ModelVersion) -> None:
        """Store a new version, numbered under its model's lock."""
        ...

    async def get(self, model: Model, number: int) -> ModelVersion:
        """Return a version. Raises NotFound."""
        ...

    async def has_output(self, *, job_id: str, output_name: str) -> bool:
        """Tell whether this output of this job is a version already."""
        ...

    async def before(self, model: Model, number: int | None, *, size: int) -> Page[ModelVersion]:
        """Return the versions with smaller numbers (None: all), newest first."""
        ...


class Artifacts(Protocol):
    """What the tenant has stored; the bytes themselves are `Blobs`' business."""

    async def add(self, artifact: Artifact) -> None:
        """Remember that the tenant stored it; nothing happens when it did so before.

        Who deletes these bytes has done so, or waits for the commit and then sees the row.
        """
        ...

    async def get(self, digest: Digest) -> Artifact:
        """Return an artifact. Raises NotFound, also for one that only others stored."""
        ...

    async def stored(self, digests: Collection[Digest]) -> Mapping[Digest, Artifact]:
        """Return those that the tenant has stored."""
        ...


class Transaction(Protocol):
    """One tenant's open transaction."""

    @property
    def models(self) -> Models: ...  # noqa: D102
    @property
    def versions(self) -> Versions: ...  # noqa: D102
    @property
    def artifacts(self) -> Artifacts: ...  # noqa: D102

    def emit(self, fact: ModelChanged) -> None:
        """Publish a fact with the commit."""
        ...

    async def claim_event(self, event_id: str) -> None:
        """Record that this event has its effect here. Raises DuplicateEvent if it had it before."""
        ...

    async def earlier_answer(self, once: Once | None) -> str | None:
        """Return what an equal earlier request was answered; None for the first, or without a key.

        Raises KeyReused, InProgress.
        """
        ...

    async def answer(self, once: Once | None, answer: str) -> None:
        """Keep the answer for equal later requests."""
        ...


class Leavings(Protocol):
    """What tenants have here, for the end of all of it; each call takes so many at most.

    In a fixed order.
    """

    async def delete_versions(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete versions; return how many."""
        ...

    async def delete_models(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete models without versions; return how many."""
        ...

    async def delete_answers(self, tenants: Sequence[TenantId], *, limit: int) -> int:
        """Delete answers to repeatable requests; return how many."""
        ...

    async def digests(
        self, tenants: Sequence[TenantId], *, offset: int, limit: int
    ) -> Sequence[Digest]:
        """Return the digest of each artifact of theirs, but for the first `offset`."""
        ...

    async def delete_artifacts(self, tenants: Sequence[TenantId], digest: Digest) -> bool:
        """Delete their artifacts of a digest; tell whether somebody else has one.

        Until the commit nobody else stores or deletes these bytes.
        """
        ...


class SystemTransaction(Protocol):
    """An open transaction that is no tenant's."""

    @property
    def leavings(self) -> Leavings: ...  # noqa: D102


class UnitOfWork(Protocol):
    """Opens transactions; a clean exit commits, any other rolls back."""

    def __call__(self, tenant: TenantId) -> AbstractAsyncContextManager[Transaction]:
        """Open one for a tenant."""
        ...

    def reading(self, tenant: TenantId) -> AbstractAsyncContextManager[Transaction]:
        """Open one to look things up by key: cheaper, and each look-up sees its own moment."""
        ...

    def system(self, *, because: str) -> AbstractAsyncContextManager[SystemTransaction]:
        """Open one that is no tenant's."""
        ...


class ReceivedBlob(Protocol):
    """Bytes that have arrived whole."""

    @property
    def artifact(self) -> Artifact: ...  # noqa: D102

    async def keep(self) -> None:
        """Store them; again: no change while they are stored. Raises Unavailable."""
        ...


class Blobs(Protocol):
    """Bytes by digest, of all tenants."""

    def received(
        self,
        chunks: AsyncIterator[bytes],
        *,
        digest: Digest | None,
        size_bytes: int | None,
    ) -> AbstractAsyncContextManager[ReceivedBlob]:
        """Give all of a stream, to be kept while the block lasts, or nothing.

        Raises InvalidArgument when it isn't what digest and size say, PayloadTooLarge, Unavailable.
        """
        ...

    async def delete(self, digest: Digest) -> None:
        """Delete stored bytes; again: no change. Raises Unavailable."""
        ...

    def read(self, artifact: Artifact) -> AsyncGenerator[bytes, None]:
        """Stream stored bytes; close the generator when leaving early."""
        ...
