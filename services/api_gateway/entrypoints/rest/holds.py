"""What holds those that wait, as callers are told: jobs and replicas alike."""

from typing import Final, Literal, cast

from modelyard.scheduler.v1 import job_explanation_pb2 as pb

Hold = Literal[
    "NONE", "TENANT", "PAUSED", "DEPENDENCY", "BACK_OFF", "PLAN", "NODES", "RESOURCES", "ORDER"
]
_PREFIX: Final = "JOB_HOLD_"


def hold_of(hold: pb.JobHold.ValueType) -> Hold:
    """Return what holds somebody, by its name in JSON."""
    return cast("Hold", pb.JobHold.Name(hold).removeprefix(_PREFIX))
