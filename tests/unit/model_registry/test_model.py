"""A model, its aliases and its versions' numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from services.chassis.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    VersionMismatch,
)
from services.model_registry.domain.model import ALIASES_MAX, Alias, Change, Model, ModelChanged
from services.model_registry.domain.version import ModelVersion, NewVersion, VersionState
from tests.unit.model_registry.builders import NOW, a_manifest, a_model, with_version


def test_created_model_is_fact_number_one() -> None:
    model, fact = Model.create("mdl_1", name="digits", description="d", tags={"k": "v"}, at=NOW)
    assert (model.newest_version, model.revision, model.tags) == (0, 1, {"k": "v"})
    assert fact == ModelChanged(Change.CREATED, model, NOW)


def test_model_is_refused_when_its_name_is_malformed() -> None:
    with pytest.raises(InvalidArgument):
        Model.create("mdl_1", name="a/b", at=NOW)


def test_version_is_ready_when_there_is_no_problem() -> None:
    model, version, fact = a_model().add_version(NewVersion(a_manifest()), problem=None, at=NOW)
    assert (version.number, version.state) == (1, VersionState.READY)
    assert (model.newest_version, model.revision) == (1, 2)
    assert (fact.change, fact.version, fact.model) == (Change.VERSION_READY, version, model)


def test_version_is_failed_and_says_why_when_there_is_a_problem() -> None:
    _, version, fact = a_model().add_version(NewVersion(a_manifest()), problem="gone", at=NOW)
    assert (version.state, version.reason) == (VersionState.FAILED, "gone")
    assert fact.change is Change.VERSION_FAILED


def test_alias_moves_and_each_move_is_a_fact() -> None:
    model, first = with_version(a_model())
    model, second = with_version(model)
    model, fact = model.move_alias("champion", to=first, at=NOW)
    assert fact is not None
    assert fact.alias == Alias("champion", 1)
    model, _ = model.move_alias("champion", to=second, at=NOW)
    assert model.resolve("champion") == 2
    assert (model.aliases_of(1), model.aliases_of(2)) == ([], ["champion"])
    assert model.revision == 5


def test_alias_move_is_no_fact_when_it_is_there_already() -> None:
    model, version = with_version(a_model())
    model, _ = model.move_alias("champion", to=version, at=NOW)
    assert model.move_alias("champion", to=version, at=NOW) == (model, None)


def test_alias_is_refused_when_the_version_is_not_ready() -> None:
    model, failed = with_version(a_model(), problem="gone")
    with pytest.raises(FailedPrecondition):
        model.move_alias("champion", to=failed, at=NOW)


def test_alias_is_refused_when_its_name_is_reserved() -> None:
    model, version = with_version(a_model())
    with pytest.raises(InvalidArgument):
        model.move_alias("latest", to=version, at=NOW)


def test_alias_is_refused_when_there_are_too_many() -> None:
    model, version = with_version(a_model())
    for number in range(ALIASES_MAX):
        model, _ = model.move_alias(f"alias-{number}", to=version, at=NOW)
    with pytest.raises(FailedPrecondition):
        model.move_alias("one-more", to=version, at=NOW)
    assert model.move_alias("alias-0", to=version, at=NOW) == (model, None)


def test_alias_that_is_not_at_the_revision_that_is_meant_is_refused_first() -> None:
    model, failed = with_version(a_model(), problem="gone")
    with pytest.raises(VersionMismatch) as refused:
        model.move_alias("champion", to=failed, at=NOW, if_revision=2)
    assert "alias digits@champion is not there" in refused.value.message


def test_dropped_alias_points_nowhere() -> None:
    model, version = with_version(a_model())
    model, _ = model.move_alias("champion", to=version, at=NOW)
    model, fact = model.drop_alias("champion", at=NOW)
    assert fact is not None
    assert fact.alias == Alias("champion", 0)
    with pytest.raises(NotFound):
        model.resolve("champion")
    assert model.drop_alias("champion", at=NOW) == (model, None)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.text(max_size=3), max_size=3))
def test_retag_changes_nothing_but_tags(tags: dict[str, str]) -> None:
    model = a_model()
    try:
        retagged = model.retag(tags)
    except InvalidArgument:
        return
    assert retagged.tags == tags
    assert retagged.revision == model.revision


class ModelHistory(RuleBasedStateMachine):
    """Whatever happens, in any order: numbers and revisions have no gap, aliases point well."""

    @initialize()
    def create(self) -> None:
        self.model = a_model()
        self.versions: list[ModelVersion] = []
        self.facts: list[ModelChanged] = []

    @rule(is_stored=st.booleans())
    def add_version(self, is_stored: bool) -> None:
        self.model, version, fact = self.model.add_version(
            NewVersion(a_manifest()), problem=None if is_stored else "gone", at=NOW
        )
        self.versions.append(version)
        self.facts.append(fact)

    @rule(alias=st.sampled_from(["champion", "challenger"]), data=st.data())
    def move_alias(self, alias: str, data: st.DataObject) -> None:
        if not self.versions:
            return
        target = data.draw(st.sampled_from(self.versions))
        try:
            self.model, fact = self.model.move_alias(alias, to=target, at=NOW)
        except FailedPrecondition:
            assert target.state is VersionState.FAILED
            return
        self.facts.extend([fact] if fact else [])

    @rule(alias=st.sampled_from(["champion", "challenger"]))
    def drop_alias(self, alias: str) -> None:
        self.model, fact = self.model.drop_alias(alias, at=NOW)
        self.facts.extend([fact] if fact else [])

    @invariant()
    def numbers_have_no_gap(self) -> None:
        numbers = [version.number for version in self.versions]
        assert numbers == list(range(1, self.model.newest_version + 1))
        revisions = [fact.model.revision for fact in self.facts]
        assert revisions == list(range(2, self.model.revision + 1))

    @invariant()
    def revisions_of_aliases_are_those_of_their_last_moves(self) -> None:
        revisions: dict[str, int] = {}
        for fact in self.facts:
            if fact.alias is not None:
                revisions[fact.alias.name] = fact.model.revision if fact.alias.version else 0
        assert self.model.alias_revisions == {
            name: revision for name, revision in revisions.items() if revision
        }

    @invariant()
    def aliases_point_at_ready_versions(self) -> None:
        for number in self.model.aliases.values():
            assert self.versions[number - 1].state is VersionState.READY


TestModelHistory = ModelHistory.TestCase
