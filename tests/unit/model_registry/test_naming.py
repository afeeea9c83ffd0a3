"""Names, aliases and tags."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument, PayloadTooLarge
from services.model_registry.domain.naming import (
    checked_alias,
    checked_description,
    checked_model_name,
    checked_tags,
)


@pytest.mark.parametrize("name", ["a", "digits-v2", "a.b_c", "A" * 128, "..a"])
def test_model_name_is_accepted(name: str) -> None:
    assert checked_model_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "A" * 129, "a/b", "a:b", "a b", "é", "a\n", ".", "..", "a\0", "a@b"]
)
def test_model_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked_model_name(name)
    assert refused.value.detail["field"] == "name"


@given(st.text())
def test_model_name_that_is_accepted_is_its_own_url_segment(name: str) -> None:
    try:
        checked_model_name(name)
    except InvalidArgument:
        return
    assert re.fullmatch(r"[A-Za-z0-9._-]+", name)
    assert name not in {".", ".."}


@pytest.mark.parametrize(
    "alias", ["champion", "v", "v1a", "latest-2", "a_b", "1a", "1-2", "é", "a" * 255]
)
def test_alias_is_accepted(alias: str) -> None:
    assert checked_alias(alias) == alias


@pytest.mark.parametrize(
    "alias",
    [
        "",
        "latest",
        "Latest",
        "LATEST",
        "v1",
        "V12",
        "3",
        "007",
        "a b",
        "a/b",
        "a@b",
        "a\n",
        "a" * 256,
    ],
)
def test_alias_is_refused(alias: str) -> None:
    with pytest.raises(InvalidArgument):
        checked_alias(alias)


def test_tags_are_copied() -> None:
    given_tags = {"team": "vision", "note": ""}
    tags = checked_tags(given_tags)
    given_tags["team"] = "speech"
    assert tags == {"team": "vision", "note": ""}


@pytest.mark.parametrize(
    "tags",
    [
        {"": "value"},
        {"k" * 251: "value"},
        {"key": "v" * 100_001},
        {"key": "a\0b"},
        {"a\0b": "value"},
        {str(number): "" for number in range(101)},
    ],
)
def test_tags_are_refused(tags: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument):
        checked_tags(tags)


def test_tags_are_refused_when_their_bytes_are_too_many() -> None:
    with pytest.raises(PayloadTooLarge):
        checked_tags({"one": "é" * 50_000, "two": "é" * 50_000})


def test_description_is_bounded() -> None:
    assert checked_description("d" * 5_000)
    with pytest.raises(InvalidArgument):
        checked_description("d" * 5_001)
    with pytest.raises(InvalidArgument):
        checked_description("a\0b")
