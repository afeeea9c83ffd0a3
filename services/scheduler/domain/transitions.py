"""The refusal that all state tables share."""

from services.chassis.errors import FailedPrecondition


class IllegalTransition(FailedPrecondition):
    """The thing's state table has no such move."""

    def __init__(self, kind: str, identity: str, *, state: str, to: str) -> None:
        super().__init__(
            f"{kind} {identity} is {state}; it can't become {to}",
            detail={"kind": kind, "id": identity, "state": state, "to": to},
        )
