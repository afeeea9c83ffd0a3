"""Pages and their tokens."""

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.use_cases.paging import PAGE_SIZE_DEFAULT, Page, PageRequest

IDS = [f"job_{n:026d}" for n in range(5)]


def test_a_page_goes_on_after_the_last_one_shown() -> None:
    first = Page.of(IDS[:3], 2, str)
    assert list(first.items) == IDS[:2]
    assert PageRequest.of(2, first.next_token) == PageRequest(2, after=IDS[1])


def test_the_last_page_has_no_token() -> None:
    assert Page.of(IDS[:2], 2, str).next_token == ""
    assert Page.of([], 2, str).next_token == ""


def test_nothing_asked_is_the_first_page_of_the_default_size() -> None:
    assert PageRequest.of(0, "") == PageRequest(PAGE_SIZE_DEFAULT, after=None)


@pytest.mark.parametrize("size", [-1, 201])
def test_a_size_out_of_bounds_is_refused(size: int) -> None:
    with pytest.raises(InvalidArgument, match=r"page\.page_size"):
        PageRequest.of(size, "")


@pytest.mark.parametrize("token", ["x", "////", "am9i", "é", "A" * 1_000, "%%%"])
def test_a_token_that_is_not_ours_is_refused(token: str) -> None:
    with pytest.raises(InvalidArgument, match=r"page\.page_token"):
        PageRequest.of(1, token)
