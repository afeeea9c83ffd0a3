"""Remember when keys are used, and write it now and then, together.

Authentication only notes a use, in memory: no request waits for it. Lost with a process that is
killed, at most a minute's worth; nothing but the list of keys goes by it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Final

from services.api_gateway.use_cases.ports import KeyUseStore

KEYS_PER_WRITE_MAX: Final = 500
WRITTEN_AGAIN_AFTER: Final = timedelta(minutes=1)
"""A key's row is written no more often, however many gateways saw it used."""


@dataclass(slots=True)
class KeyUses:
    """Each key's last use since it was written; beyond `keys_max` keys further ones are counted."""

    keys_max: int = 10_000
    missed_count: int = 0
    _noted: dict[str, datetime] = field(default_factory=dict)

    def note(self, key_id: str, *, at: datetime) -> None:
        """Note that a key was used."""
        if key_id in self._noted or len(self._noted) < self.keys_max:
            self._noted[key_id] = at
        else:
            self.missed_count += 1

    def take_missed(self) -> int:
        """Return how many uses were not noted since it was asked last."""
        missed, self.missed_count = self.missed_count, 0
        return missed

    def some(self) -> Mapping[str, datetime]:
        """Return what is to be written next, at most `KEYS_PER_WRITE_MAX` keys."""
        return dict(islice(self._noted.items(), KEYS_PER_WRITE_MAX))

    def forget(self, written: Mapping[str, datetime]) -> None:
        """Forget what was written, but for keys that were used again meanwhile."""
        for key_id, at in written.items():
            if self._noted.get(key_id) == at:
                del self._noted[key_id]


@dataclass(frozen=True, slots=True)
class WriteKeyUses:
    """Write all that was noted, batch by batch; what fails stays noted."""

    uses: KeyUses
    store: KeyUseStore

    async def __call__(self) -> int:
        """Return how many keys' uses were handed over; raises Unavailable."""
        total = 0
        while len(batch := self.uses.some()) > 0:
            await self.store.write_uses(batch, again_after=WRITTEN_AGAIN_AFTER)
            self.uses.forget(batch)
            total += len(batch)
            if len(batch) < KEYS_PER_WRITE_MAX:
                break
        return total
