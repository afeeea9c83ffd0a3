"""Pages on the wire: sizes and opaque tokens.

Owns: the bounds of a page, and the form of a token: the last item's key. Callers get no promise
about that form, so it can change.
"""

import base64
import binascii
from typing import Final

from modelyard.common.v1.paging_pb2 import PageRequest, PageResponse

from services.chassis.errors import InvalidArgument

PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 500


def size_of(page: PageRequest) -> int:
    """Return how many items are asked for. Raises InvalidArgument."""
    if not 0 <= page.page_size <= PAGE_SIZE_MAX:
        raise InvalidArgument("page.page_size", f"must be 0 to {PAGE_SIZE_MAX}")
    return page.page_size or PAGE_SIZE_DEFAULT


def key_of(page: PageRequest) -> str:
    """Return the key that the page follows, empty for the first page. Raises InvalidArgument."""
    try:
        key = base64.b64decode(page.page_token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise _foreign_token() from error
    if "\0" in key:
        raise _foreign_token()
    return key


def number_of(page: PageRequest) -> int | None:
    """Return the number that the page follows, None for the first page. Raises InvalidArgument."""
    key = key_of(page)
    if not key:
        return None
    if not key.isdecimal() or len(key) > 18:
        raise _foreign_token()
    return int(key)


def page_to_pb(last_key: str | int | None) -> PageResponse:
    """Return the page's end; None when no item follows."""
    if last_key is None:
        return PageResponse()
    token = base64.b64encode(str(last_key).encode(), altchars=b"-_")
    return PageResponse(next_page_token=token.decode())


def _foreign_token() -> InvalidArgument:
    return InvalidArgument("page.page_token", "was not given out by this list")
