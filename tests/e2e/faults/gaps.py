"""How long each service's event loop stood still, as its own metric says."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import httpx

from tests.e2e.platform import SERVICES, Platform

_GAP: Final = re.compile(r"^modelyard_event_loop_gap_max_seconds (\S+)$", re.MULTILINE)
_INTERVAL_S: Final = 0.5
_ANSWER_S_MAX: Final = 30.0
"""More than any gap that a row may have."""


@dataclass(slots=True)
class Gaps:
    """The longest gap of each service since the watch began."""

    longest_s: dict[str, float] = field(default_factory=dict)
    silent: Sequence[str] = ()
    """Services that told nothing at the watch's end: their gaps are not known."""
    _old: dict[str, float] = field(default_factory=dict)

    def see(self, shown_s: Mapping[str, float | None]) -> None:
        """Take in what services show, which for a while is a gap from before the watch."""
        self.silent = [service for service, gap_s in shown_s.items() if gap_s is None]
        for service, gap_s in shown_s.items():
            if gap_s is not None and gap_s != self._old.setdefault(service, gap_s):
                self.longest_s[service] = max(gap_s, self.longest_s.get(service, 0.0))

    @property
    def worst(self) -> tuple[float, str]:
        """Return the longest gap and whose it is."""
        return max(((gap_s, service) for service, gap_s in self.longest_s.items()), default=(0, ""))


@contextmanager
def watched_gaps(platform: Platform, *, but: str) -> Iterator[Gaps]:
    """Watch all services' loops while the block runs, but for the one that is frozen itself."""
    addresses = {name: platform.address_of(name) for name in SERVICES if name != but}
    gaps, over = Gaps(), threading.Event()

    def watch() -> None:
        with httpx.Client(timeout=_ANSWER_S_MAX) as http:
            is_last = False
            while not is_last:
                is_last = over.wait(_INTERVAL_S)
                shown = {name: _shown_s(http, address) for name, address in addresses.items()}
                gaps.see(shown)

    with ThreadPoolExecutor(max_workers=1) as pool:
        watching = pool.submit(watch)
        try:
            yield gaps
        finally:
            over.set()
            watching.result()


def _shown_s(http: httpx.Client, address: str) -> float | None:
    try:
        found = _GAP.search(http.get(f"http://{address}/metrics").text)
    except httpx.TransportError:
        return None  # a loop that stands still tells so afterwards
    return float(found[1]) if found else None
