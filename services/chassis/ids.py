"""Time-ordered identifiers.

Owns: the form of every id, `<prefix>_<26 characters>`: a ULID (48 bits of milliseconds, 80 bits of
chance, Crockford base 32, lower case), so that ids sort by creation and say what they name.
Source: https://github.com/ulid/spec
"""

import secrets
from collections.abc import Callable
from typing import Final, Protocol

from services.chassis.clock import Clock

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"
_CHANCE_BITS: Final = 80
_CHARACTERS: Final = 26


class Ids(Protocol):
    """Makes new identifiers."""

    def new(self, prefix: str) -> str:
        """Return a fresh id such as `job_01kfh1v0x3…`, greater than earlier ones by time."""
        ...


class TimeOrderedIds:
    """ULIDs from a clock and a source of chance (`chance(bits)`, the system's by default)."""

    def __init__(self, clock: Clock, chance: Callable[[int], int] = secrets.randbits) -> None:
        self._clock = clock
        self._chance = chance

    def new(self, prefix: str) -> str:
        """Return a fresh id with this prefix."""
        milliseconds = int(self._clock.now().timestamp() * 1000)
        number = (milliseconds << _CHANCE_BITS) | self._chance(_CHANCE_BITS)
        characters = [_ALPHABET[(number >> (5 * place)) & 31] for place in range(_CHARACTERS)]
        return f"{prefix}_{''.join(reversed(characters))}"
