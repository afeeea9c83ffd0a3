"""What can go wrong with a call."""

from collections.abc import Mapping
from typing import Any, Final

PASSING: Final = frozenset({429, 502, 503, 504})
"""Statuses of what may go well a moment later."""


class ApiError(Exception):
    """The platform refused or failed a request; `code` is stable, `problem` the whole document."""

    def __init__(self, status: int, problem: Mapping[str, Any]) -> None:
        self.status = status
        self.problem = problem
        self.code = str(problem.get("code", "UNKNOWN"))
        super().__init__(str(problem.get("detail") or problem.get("title") or f"HTTP {status}"))

    @property
    def is_passing(self) -> bool:
        """Return whether the same may go well a moment later."""
        return self.status in PASSING


class InvalidId(ValueError):
    """No thing of the platform can be called so; it was not asked."""


class ElementAlone(ValueError):
    """An array's element is not run again but with its array; nothing was submitted."""

    def __init__(self, job_id: str, *, array_id: str, index: int) -> None:
        self.array_id = array_id
        super().__init__(
            f"{job_id} is element {index} of array {array_id}, and not run again alone"
        )


class ConnectionFailed(Exception):
    """The platform could not be reached, or went away while it answered."""

    is_passing: Final = True
    """The same may go well a moment later."""
