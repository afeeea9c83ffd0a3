"""Page tokens."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelyard.common.v1.paging_pb2 import PageRequest

from services.chassis.errors import InvalidArgument
from services.model_registry.entrypoints.grpc.paging import (
    key_of,
    number_of,
    page_to_pb,
    size_of,
)


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=128))
def test_token_gives_its_key_back(key: str) -> None:
    token = page_to_pb(key).next_page_token
    assert key_of(PageRequest(page_token=token)) == key


@given(st.integers(min_value=0, max_value=10**17))
def test_token_gives_its_number_back(number: int) -> None:
    token = page_to_pb(number).next_page_token
    assert number_of(PageRequest(page_token=token)) == number


def test_first_page_follows_nothing_and_the_last_says_so() -> None:
    assert key_of(PageRequest()) == ""
    assert number_of(PageRequest()) is None
    assert page_to_pb(None).next_page_token == ""


@given(st.text(min_size=1))
def test_foreign_token_is_refused_or_read_but_never_a_bug(token: str) -> None:
    page = PageRequest(page_token=token)
    for read in (key_of, number_of):
        with contextlib.suppress(InvalidArgument):
            read(page)


@pytest.mark.parametrize("size", [-1, 501])
def test_size_is_refused_when_it_is_out_of_bounds(size: int) -> None:
    with pytest.raises(InvalidArgument):
        size_of(PageRequest(page_size=size))


def test_size_defaults() -> None:
    assert (size_of(PageRequest()), size_of(PageRequest(page_size=500))) == (50, 500)
