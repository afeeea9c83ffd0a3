"""What a process says when it lacks a setting."""

import pytest
from pydantic import BaseModel, Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import load, problems_of


class Group(BaseModel):
    """Settings that belong together."""

    port: int
    url: SecretStr
    host: str = "here"


class Settings(BaseSettings):
    """All of them."""

    model_config = SettingsConfigDict(env_prefix="THING_", env_nested_delimiter="__")

    group: Group
    bound: int = 1
    names: frozenset[str] = frozenset()
    scope: str = Field(default="a", pattern=r"^[a-z]{1,3}$")


def test_settings_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_GROUP__PORT", "1")
    monkeypatch.setenv("THING_GROUP__URL", "u")
    assert load(Settings).group.port == 1


def test_what_is_missing_is_named_as_the_variable_that_gives_it() -> None:
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    assert ended.value.code == (
        "settings: THING_GROUP__PORT is missing; THING_GROUP__URL is missing"
    )


def test_what_is_wrong_is_named_and_its_value_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_GROUP__PORT", "hunter2")
    monkeypatch.setenv("THING_BOUND", "hunter2")
    with pytest.raises(SystemExit) as ended:
        load(Settings)
    text = str(ended.value.code)
    assert "THING_GROUP__PORT: " in text
    assert "THING_GROUP__URL is missing" in text
    assert "THING_BOUND: " in text
    assert "hunter2" not in text
    assert "THING_BOUND: must be a whole number, such as 3" in text


def test_what_is_no_json_is_named_beside_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_NAMES", "hunter2")
    with pytest.raises(SystemExit, match=r"^settings: THING_NAMES: must be JSON") as ended:
        load(Settings)
    assert "hunter2" not in str(ended.value.code)


def test_of_another_environment_only_that_one_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THING_BOUND", "x")
    told = {"THING_GROUP__PORT": "1", "THING_GROUP__URL": "u"}
    assert problems_of(Settings, told) == []
    assert problems_of(Settings, told | {"THING_GROUP__PORT": "x"}) == [
        ("THING_GROUP__PORT", ": must be a whole number, such as 3")
    ]


def test_what_has_no_words_of_ours_is_told_in_pydantics() -> None:
    told = {"THING_GROUP__PORT": "1", "THING_GROUP__URL": "u", "THING_SCOPE": "A"}
    [(variable, said)] = problems_of(Settings, told)
    assert variable == "THING_SCOPE"
    assert "{1,3}" in said
