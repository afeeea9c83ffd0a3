"""What the fleet's nodes could hold if they were empty.

Owns: the words of the refusal for what no node could ever hold.
"""

from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class FleetReach:
    """Whether something asked for would fit on an empty node, and the most there is."""

    is_enough: bool
    """Some node could hold it, or none has registered yet."""
    largest: Resources
    """Amount by amount the most that any node has: no single one need have it all."""

    def check(self, asked: Resources, *, field: str) -> None:
        """Raise InvalidArgument naming the first amount below `field` that no node has."""
        if self.is_enough:
            return
        amounts = (
            ("cpu_millicores", asked.cpu_millicores, self.largest.cpu_millicores),
            ("memory_bytes", asked.memory_bytes, self.largest.memory_bytes),
            ("gpu_count", asked.gpu_count, self.largest.gpu_count),
        )
        for name, amount, most in amounts:
            if amount > most:
                raise InvalidArgument(f"{field}.{name}", f"no node has more than {most}")
        there_is = ", ".join(f"{name} {most}" for name, _, most in amounts)
        raise InvalidArgument(
            field, f"no single node has all of it together; the most of each is {there_is}"
        )
