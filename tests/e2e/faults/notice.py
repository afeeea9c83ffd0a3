"""How soon users and operators are told that the container runtime is away."""

import time
from dataclasses import dataclass
from typing import Any, Final

import httpx
from modelyard.client import Client

_BREAKER: Final = "container-engine"
_ADVISORY: Final = "container-runtime"
_ANSWER_S_MAX: Final = 30.0


@dataclass(slots=True)
class Notice:
    """What the node and the scheduler's readiness say of the runtime, from the first look on."""

    client: Client
    scheduler: str
    """Where it answers operators."""
    down_after_s: float | None = None
    """Until both said that it is down; None for never."""
    breaker_open_after_s: float | None = None
    """Until calls to the runtime were refused at once."""
    is_up_again: bool = False
    _began_at_s: float | None = None

    def look(self) -> None:
        """Take in what is said while the runtime is away."""
        if self.down_after_s is not None and self.breaker_open_after_s is not None:
            return
        if self._began_at_s is None:  # it may have taken its time to end
            self._began_at_s = time.monotonic()
        told, after_s = self._readiness(), time.monotonic() - self._began_at_s
        if self.breaker_open_after_s is None and told["breakers"][_BREAKER] != "closed":
            self.breaker_open_after_s = after_s
        if self.down_after_s is None and told["advisories"][_ADVISORY] != "ok" and self._are_down():
            self.down_after_s = after_s

    def look_again(self) -> bool:
        """Take in what is said when the runtime is back; return whether all is well."""
        told = self._readiness()
        is_well = (told["advisories"][_ADVISORY], told["breakers"][_BREAKER]) == ("ok", "closed")
        self.is_up_again = is_well and not self._are_down()
        return self.is_up_again

    def _are_down(self) -> bool:
        return all(node.runtime_down_since is not None for node in self.client.nodes())

    def _readiness(self) -> Any:
        url = f"http://{self.scheduler}/readyz"
        return httpx.get(url, params={"verbose": "true"}, timeout=_ANSWER_S_MAX).json()
