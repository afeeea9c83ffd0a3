"""Amounts of a node's capacity.

Owns: the arithmetic of capacity. Always holds: amounts are never negative.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, Self

from services.chassis.amounts import size_in_words
from services.chassis.errors import InvalidArgument

MEMORY_BYTES_MIN: Final = 6 << 20
"""Docker's engine starts no container with less; so it is on every runtime."""
_CPU_MILLICORES_MAX: Final = 1_000_000
_MEMORY_BYTES_MAX: Final = 1 << 50
_GPU_COUNT_MAX: Final = 1_024


@dataclass(frozen=True, slots=True)
class Resources:
    """What an attempt takes from its node, or what a node has."""

    cpu_millicores: int = 0
    memory_bytes: int = 0
    gpu_count: int = 0

    def __post_init__(self) -> None:
        # One by one: thousands are made for a plan, and a tuple for each takes as long as the rest.
        is_right = self.cpu_millicores >= 0 and self.memory_bytes >= 0 and self.gpu_count >= 0
        assert is_right, f"negative amount in {self}"

    def __add__(self, other: Self) -> "Resources":
        return Resources(
            self.cpu_millicores + other.cpu_millicores,
            self.memory_bytes + other.memory_bytes,
            self.gpu_count + other.gpu_count,
        )

    def __sub__(self, other: Self) -> "Resources":
        return Resources(
            self.cpu_millicores - other.cpu_millicores,
            self.memory_bytes - other.memory_bytes,
            self.gpu_count - other.gpu_count,
        )

    def __mul__(self, count: int) -> "Resources":
        return Resources(
            self.cpu_millicores * count, self.memory_bytes * count, self.gpu_count * count
        )

    @classmethod
    def most(cls, found: Collection["Resources"]) -> "Resources":
        """Return the most of each amount that there is in one of them."""
        return cls(
            max((each.cpu_millicores for each in found), default=0),
            max((each.memory_bytes for each in found), default=0),
            max((each.gpu_count for each in found), default=0),
        )

    def amounts(self) -> dict[str, int]:
        """Return each amount by its name, for words about them."""
        return {
            "cpu_millicores": self.cpu_millicores,
            "memory_bytes": self.memory_bytes,
            "gpu_count": self.gpu_count,
        }

    def where_asked(self, asked: "Resources") -> "Resources":
        """Return it without amounts of which nothing is asked for."""
        return Resources(
            self.cpu_millicores if asked.cpu_millicores else 0,
            self.memory_bytes if asked.memory_bytes else 0,
            self.gpu_count if asked.gpu_count else 0,
        )

    def less(self, used: "Resources") -> "Resources":
        """Return what is left of it, nothing where more is used."""
        return Resources(
            max(0, self.cpu_millicores - used.cpu_millicores),
            max(0, self.memory_bytes - used.memory_bytes),
            max(0, self.gpu_count - used.gpu_count),
        )

    def count_in(self, free: Self, *, most: int) -> int:
        """Return how many times all of it fits in what is free, up to `most`."""
        count = most
        if self.cpu_millicores:
            count = min(count, free.cpu_millicores // self.cpu_millicores)
        if self.memory_bytes:
            count = min(count, free.memory_bytes // self.memory_bytes)
        if self.gpu_count:
            count = min(count, free.gpu_count // self.gpu_count)
        return count

    def fits_in(self, free: Self) -> bool:
        """Tell whether each amount is at most what is free."""
        return (
            self.cpu_millicores <= free.cpu_millicores
            and self.memory_bytes <= free.memory_bytes
            and self.gpu_count <= free.gpu_count
        )


DEFAULT_RESOURCES: Final = Resources(cpu_millicores=1_000, memory_bytes=1 << 30)
"""What a request without resources gets: one core, one GiB, no GPU."""


def requested_resources(
    *, cpu_millicores: int, memory_bytes: int, gpu_count: int, field: str
) -> Resources:
    """Return what a caller asks for, checked; raises InvalidArgument below `field`."""
    for name, amount, least, most in (
        ("cpu_millicores", cpu_millicores, 1, _CPU_MILLICORES_MAX),
        ("memory_bytes", memory_bytes, 0, _MEMORY_BYTES_MAX),
        ("gpu_count", gpu_count, 0, _GPU_COUNT_MAX),
    ):
        if not least <= amount <= most:
            bounds = f"{amount_in_words(name, least)} and {amount_in_words(name, most)}"
            asked = amount_in_words(name, amount)
            raise InvalidArgument(
                f"{field}.{name}", f"must be between {bounds}; {asked} was asked for"
            )
    check_memory(memory_bytes, field=f"{field}.memory_bytes")
    return Resources(cpu_millicores, memory_bytes, gpu_count)


def check_memory(memory_bytes: int, *, field: str) -> None:
    """Raise InvalidArgument naming `field` for less memory than any container starts with."""
    if memory_bytes < MEMORY_BYTES_MIN:
        raise InvalidArgument(
            field,
            f"must be at least {size_in_words(MEMORY_BYTES_MIN)}: no container starts with less",
        )


def amount_in_words(name: str, amount: int) -> str:
    """Return an amount by its name among `Resources.amounts`; its name says the others' units."""
    return size_in_words(amount) if name == "memory_bytes" else str(amount)
