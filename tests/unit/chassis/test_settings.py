"""What a process says when it lacks a setting."""

import pytest
from pydantic import BaseModel, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.chassis.settings import load


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
