"""What holds those that wait, and what tells until when: jobs and replicas alike."""

from typing import Final, Literal, cast

from modelyard.scheduler.v1 import job_explanation_pb2 as pb

Hold = Literal[
    "NONE", "TENANT", "PAUSED", "DEPENDENCY", "BACK_OFF", "PLAN", "NODES", "RESOURCES", "ORDER"
]
EstimateBasis = Literal["LIMITS", "HISTORY"]
_PREFIX: Final = "JOB_HOLD_"
_BASIS_PREFIX: Final = "ESTIMATE_BASIS_"


def hold_of(hold: pb.JobHold.ValueType) -> Hold:
    """Return what holds somebody, by its name in JSON."""
    return cast("Hold", pb.JobHold.Name(hold).removeprefix(_PREFIX))


def basis_of(basis: pb.EstimateBasis.ValueType) -> EstimateBasis | None:
    """Return what tells when somebody starts; None: nobody can."""
    if basis == pb.ESTIMATE_BASIS_UNSPECIFIED:
        return None
    return cast("EstimateBasis", pb.EstimateBasis.Name(basis).removeprefix(_BASIS_PREFIX))
