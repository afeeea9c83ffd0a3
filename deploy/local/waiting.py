"""Bounded waiting.

Always holds: no wait of the local stack is longer than the bound that its caller named.
"""

import time
from collections.abc import Callable
from typing import Final

from deploy.local.errors import StackError

_POLL_INTERVAL_S: Final = 0.05


def wait_until(check: Callable[[], bool], *, within_s: float, otherwise: str) -> None:
    """Return once `check` holds; raise `StackError(otherwise)` when it doesn't within the bound."""
    ends_at = time.monotonic() + within_s
    while not check():
        if time.monotonic() >= ends_at:
            raise StackError(f"{otherwise} (waited {within_s:g} s).")
        time.sleep(_POLL_INTERVAL_S)
