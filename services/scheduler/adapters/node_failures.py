"""What the node itself can't do at the moment: its disk is full, or its process table."""

from collections.abc import Iterator
from contextlib import contextmanager

from services.chassis.errors import Unavailable


@contextmanager
def node_failures() -> Iterator[None]:
    """Turn the operating system's refusals inside the block into Unavailable: they may pass."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the node ({error.strerror})") from error
