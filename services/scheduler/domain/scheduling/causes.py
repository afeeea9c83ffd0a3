"""All that can hold a job or a replica, what it means, and what helps.

Owns: the table by which explanations are told, and from which `docs/how-to/why-a-job-waits.md` is
made. What holds somebody now `explanation` tells.
"""

from enum import Enum, StrEnum, unique
from typing import Final

_END: Final = "the end of what runs, or more nodes"
_PLAN: Final = "the end of what the tenant runs, or a larger plan"


class Hold(StrEnum):
    """What keeps a job, or a replica, from its start; by one word, for programs."""

    NONE = "NONE"
    """Nothing."""
    TENANT = "TENANT"
    """Nothing of its tenant is admitted."""
    PAUSED = "PAUSED"
    """Its queue is paused."""
    DEPENDENCY = "DEPENDENCY"
    """It waits for other jobs' ends."""
    BACK_OFF = "BACK_OFF"
    """It failed, and pauses before it is tried again."""
    PLAN = "PLAN"
    """Its tenant's plan lets it take no more."""
    NODES = "NODES"
    """No node takes it."""
    RESOURCES = "RESOURCES"
    """No node has room for it."""
    ORDER = "ORDER"
    """Others come first."""


@unique
class Cause(Enum):
    """What holds somebody: the word for it, what it means, and what would help."""

    NOT_IN_LINE = (
        Hold.NONE,
        "it does not stand in line: it has been placed, has ended, or is not wanted any more",
        "",
    )
    ITS_TURN = (Hold.NONE, "it is its turn", "")
    SUSPENDED = (Hold.TENANT, "the tenant is suspended; the message says why", "its resumption")
    NOT_HEARD_OF = (
        Hold.TENANT,
        "the scheduler does not know yet whether the tenant is suspended",
        "a moment's patience",
    )
    PAUSED = (
        Hold.PAUSED,
        "its queue is paused; the message says since when, and why",
        "its queue's resumption",
    )
    DEPENDENCY = (
        Hold.DEPENDENCY,
        "it waits for other jobs that have not ended; the message names one",
        "the end of what it waits for",
    )
    BACK_OFF = (
        Hold.BACK_OFF,
        "it failed, and pauses before it is tried again; the message says until when",
        "nothing but time",
    )
    PLAN_USED_UP = (
        Hold.PLAN,
        "what runs of the tenant takes what its plan lets it take; the message says by how much it "
        "is short",
        _PLAN,
    )
    PLAN_TAKEN = (
        Hold.PLAN,
        "the tenant's own before it take what its plan lets it take",
        _PLAN,
    )
    NODES_CLOSED = (
        Hold.NODES,
        "no node that is large enough takes anything new: there is none, or they are silent, "
        "cordoned, without their container runtime, or with another tenant's work where that is "
        "not mixed; the message counts those that are closed",
        "a node that takes work: uncordoned, back, new, or empty of others' work",
    )
    NO_ROOM = (
        Hold.RESOURCES,
        "no node has room for it; the message says what the best one lacks, or for how many of "
        "its tasks there is room",
        _END,
    )
    NO_ROOM_EVER = (
        Hold.RESOURCES,
        "no node has room for it, and nothing that ends by itself makes any: replicas hold it",
        "fewer replicas, or more nodes",
    )
    NO_ROOM_EVER_FOR_TASKS = (
        Hold.RESOURCES,
        "no node has room for its tasks, and nothing that ends by itself makes enough",
        "fewer tasks or replicas, or more nodes",
    )
    TAKEN_BEFORE = (Hold.ORDER, "those before it take the room that there is", _END)
    KEPT = (
        Hold.ORDER,
        "there is room, and it is kept for one before it that can't start yet",
        "a run time limit that ends before that one's turn, or that one's start",
    )
    KEPT_FOR_REPLICA = (
        Hold.ORDER,
        "there is room, and it is kept for a replica before it that can't start yet",
        "that one's start",
    )
    BEFORE = (Hold.ORDER, "those before it in line are looked at first", "their start")

    def __init__(self, hold: Hold, meaning: str, helped_by: str) -> None:
        self.hold = hold
        self.meaning = meaning
        self.helped_by = helped_by
        """Empty where nothing holds it."""
