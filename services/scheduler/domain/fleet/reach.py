"""What the fleet's nodes could hold if they were empty.

Owns: the words of the refusal for what no node could ever hold, and of the wait for what none takes
now.
"""

from dataclasses import dataclass

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.resources import Resources, amount_in_words


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
        most_of = self.largest.amounts()
        for name, amount in asked.amounts().items():
            if amount > most_of[name]:
                raise InvalidArgument(
                    f"{field}.{name}",
                    f"no node has more than {amount_in_words(name, most_of[name])};"
                    f" {amount_in_words(name, amount)} was asked for",
                )
        there_is = ", ".join(
            f"{name} {amount_in_words(name, most)}" for name, most in most_of.items()
        )
        raise InvalidArgument(
            field, f"no single node has all of it together; the most of each is {there_is}"
        )


@dataclass(frozen=True, slots=True)
class FleetDoors:
    """How many nodes there are; and of those large enough for something, which take it now.

    A node that is closed counts once: as cordoned before all, as silent before its runtime, and as
    held only where nothing else closes it.
    """

    node_count: int
    open_count: int = 0
    cordoned_count: int = 0
    silent_count: int = 0
    runtime_down_count: int = 0
    held_count: int = 0
    """Those that take one tenant's work at a time, and have another's."""

    @property
    def why_waiting(self) -> str:
        """Say why no node takes it; nothing when one does, as soon as it has room."""
        if self.open_count:
            return ""
        if not self.node_count:
            return "there is no node yet"
        closed = [
            f"{count} {how}"
            for count, how in (
                (self.cordoned_count, "cordoned"),
                (self.silent_count, "silent"),
                (self.runtime_down_count, "without its container runtime"),
                (self.held_count, f"{_holds(self.held_count)} another tenant's work"),
            )
            if count
        ]
        if not closed:
            return "no node is large enough"
        return f"no node that is large enough takes anything new: {', '.join(closed)}"


def _holds(count: int) -> str:
    return "holds" if count == 1 else "hold"
