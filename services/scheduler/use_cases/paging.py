"""Pages of lists that grow.

Owns: the bound on a page and its opaque token. A page goes on after the last id that was shown, so
that things which come or go meanwhile make no page skip or repeat another.
"""

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.chassis.errors import InvalidArgument

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 200

_ID: Final = re.compile(r"[a-z]+_[0-9a-z]{26}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Which page: how many at most, and after which id, or name where a list is by name."""

    size: int = PAGE_SIZE_DEFAULT
    after: str | None = None

    @classmethod
    def of(cls, page_size: int, page_token: str, *, places: re.Pattern[str] = _ID) -> "PageRequest":
        """Return what a caller asks for; 0 and "" stand for the default and the first page.

        `places` is what the list's ids, or names, are like. Raises InvalidArgument.
        """
        if not 0 <= page_size <= PAGE_SIZE_MAX:
            raise InvalidArgument("page.page_size", f"must be between 0 and {PAGE_SIZE_MAX}")
        after = _place_in(page_token, places) if page_token else None
        return cls(page_size or PAGE_SIZE_DEFAULT, after)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some of the list; an empty token after the last."""

    items: Sequence[T]
    next_token: str

    @classmethod
    def of(cls, found: Sequence[T], size: int, id_of: Callable[[T], str]) -> "Page[T]":
        """Return a page from one more than fits, which tells whether another follows."""
        items = found[:size]
        return cls(items, _token(id_of(items[-1])) if len(found) > size else "")


def _token(identity: str) -> str:
    return base64.urlsafe_b64encode(identity.encode()).decode().rstrip("=")


def _place_in(token: str, places: re.Pattern[str]) -> str:
    try:
        place = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        place = ""
    if not places.fullmatch(place):
        raise InvalidArgument("page.page_token", "is not one that this service gave")
    return place
