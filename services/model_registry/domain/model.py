"""Models: a name, its aliases, and the numbers of its versions.

Owns: what happens to a model, and the fact that each published change leaves. Every change that is
published takes the next revision, so that readers can tell a gap or a repetition.
Always holds: revisions and version numbers are 1..n, each given once; an alias points at a version
that was READY when it was moved there, and its revision is the model's at that move. So no revision
of an alias comes again, be it removed and set anew (ADR-0028).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Final

from services.chassis.errors import FailedPrecondition, NotFound, check_version
from services.model_registry.domain.naming import (
    checked_alias,
    checked_description,
    checked_model_name,
    checked_tags,
)
from services.model_registry.domain.version import ModelVersion, NewVersion, VersionState

ALIASES_MAX: Final = 100


class Change(StrEnum):
    """What happened to a model; the event's type is `modelyard.model.<change>.v1`."""

    CREATED = "created"
    VERSION_READY = "version-ready"
    VERSION_FAILED = "version-failed"
    ALIAS_MOVED = "alias-moved"


@dataclass(frozen=True, slots=True)
class Alias:
    """Where an alias points; version 0: nowhere any more."""

    name: str
    version: int


@dataclass(frozen=True, slots=True)
class ModelChanged:
    """A published fact: what changed, and the model as it is since."""

    change: Change
    model: "Model"
    at: datetime
    version: ModelVersion | None = None
    alias: Alias | None = None


@dataclass(frozen=True, slots=True)
class Model:
    """A named line of versions in one tenant."""

    id: str
    name: str
    description: str
    created_at: datetime
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)
    alias_revisions: Mapping[str, int] = field(default_factory=dict)
    newest_version: int = 0
    revision: int = 1

    @classmethod
    def create(
        cls,
        model_id: str,
        *,
        name: str,
        description: str = "",
        tags: Mapping[str, str] | None = None,
        at: datetime,
    ) -> tuple["Model", ModelChanged]:
        """Return a model without versions. Raises InvalidArgument."""
        model = cls(
            id=model_id,
            name=checked_model_name(name),
            description=checked_description(description),
            created_at=at,
            tags=checked_tags(tags or {}),
        )
        return model, ModelChanged(Change.CREATED, model, at)

    def add_version(
        self, content: NewVersion, *, problem: str | None, at: datetime
    ) -> tuple["Model", ModelVersion, ModelChanged]:
        """Give the next number to a version: READY, or FAILED when there is a problem with it."""
        number = self.newest_version + 1
        preparing = ModelVersion(
            model_id=self.id,
            number=number,
            state=VersionState.PREPARING,
            reason="",
            content=content,
            created_at=at,
        )
        if problem is None:
            version, change = preparing.move(VersionState.READY), Change.VERSION_READY
        else:
            version = preparing.move(VersionState.FAILED, reason=problem)
            change = Change.VERSION_FAILED
        model = replace(self, newest_version=number, revision=self.revision + 1)
        return model, version, ModelChanged(change, model, at, version=version)

    def move_alias(
        self, alias: str, *, to: ModelVersion, at: datetime, if_revision: int | None = None
    ) -> tuple["Model", ModelChanged | None]:
        """Point an alias at a version; no fact when it points there already.

        Raises InvalidArgument, FailedPrecondition when the version isn't READY or aliases are many,
        VersionMismatch when the alias isn't at the revision that the move is for.
        """
        assert to.model_id == self.id, f"version of {to.model_id} given to {self.id}"
        if self.aliases.get(checked_alias(alias)) == to.number:
            return self, None
        self._check_revision(alias, if_revision)
        if to.state is not VersionState.READY:
            raise FailedPrecondition(
                f"version {to.number} is {to.state}", detail={"state": to.state}
            )
        if alias not in self.aliases and len(self.aliases) >= ALIASES_MAX:
            raise FailedPrecondition(f"{self.name} has {ALIASES_MAX} aliases already")
        return self._with_aliases({**self.aliases, alias: to.number}, Alias(alias, to.number), at)

    def drop_alias(
        self, alias: str, *, at: datetime, if_revision: int | None = None
    ) -> tuple["Model", ModelChanged | None]:
        """Remove an alias; no fact when there is none of that name. Raises VersionMismatch."""
        if alias not in self.aliases:
            return self, None
        self._check_revision(alias, if_revision)
        others = {name: number for name, number in self.aliases.items() if name != alias}
        return self._with_aliases(others, Alias(alias, 0), at)

    def resolve(self, alias: str) -> int:
        """Return the number that an alias stands for. Raises NotFound."""
        try:
            return self.aliases[alias]
        except KeyError:
            raise NotFound("alias", f"{self.name}@{alias}") from None

    def aliases_of(self, number: int) -> list[str]:
        """Return the aliases that point at a version, sorted."""
        return sorted(alias for alias, target in self.aliases.items() if target == number)

    def retag(self, tags: Mapping[str, str]) -> "Model":
        """Return it with other tags, which no fact tells of: nobody acts on labels.

        Raises InvalidArgument, PayloadTooLarge.
        """
        return replace(self, tags=checked_tags(tags))

    def _check_revision(self, alias: str, if_revision: int | None) -> None:
        check_version(
            "alias",
            f"{self.name}@{alias}",
            current=self.alias_revisions.get(alias),
            if_version=if_revision,
            counted_as="revision",
        )

    def _with_aliases(
        self, aliases: Mapping[str, int], moved: Alias, at: datetime
    ) -> tuple["Model", ModelChanged]:
        revision = self.revision + 1
        revisions = {**self.alias_revisions, moved.name: revision}
        model = replace(
            self,
            aliases=aliases,
            alias_revisions={name: revisions[name] for name in aliases},
            revision=revision,
        )
        return model, ModelChanged(Change.ALIAS_MOVED, model, at, alias=moved)
