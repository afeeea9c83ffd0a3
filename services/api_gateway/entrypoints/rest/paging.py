"""Pages of lists: `page_size` and `page_token` in, `next_page_token` out."""

from typing import Annotated

from fastapi import Query
from modelyard.common.v1 import paging_pb2 as pb

PageSize = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
PageToken = Annotated[
    str, Query(max_length=500, description="The previous page's next_page_token.")
]


def page_request(page_size: int, page_token: str) -> pb.PageRequest:
    """Return the request for one page."""
    return pb.PageRequest(page_size=page_size, page_token=page_token)
