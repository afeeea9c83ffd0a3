"""Every part is stopped and frozen while jobs are submitted: none is lost, none starts twice.

On both runtimes. In `make soak` outages last longer.
"""

from collections.abc import Callable
from typing import Final

import pytest

from deploy.local.runtimes import Kind
from tests.e2e.faults.strike import ENGINE, PARTS, Fault, faults_of
from tests.e2e.faults.table import PROPERTY, told
from tests.e2e.faults.trial import Stage, tried
from tests.e2e.soak import IS_SOAK

OUTAGE_S: Final = 40.0 if IS_SOAK else 8.0
ENGINE_OUTAGE_S: Final = 40.0 if IS_SOAK else 15.0
"""Until its breaker opens three calls must have been given up."""
JOBS_PER_SECOND: Final = 2.0 if IS_SOAK else 1.0
LOOP_GAP_S_MAX: Final = 4.0
"""Half of the shortest outage: a loop that waits for what is away stands still for all of it."""
NOTICED_AFTER_S_MAX: Final = 5.0
CASES: Final = [
    *((Kind.PROCESS, fault) for fault in faults_of(*PARTS)),
    *((Kind.DOCKER, fault) for fault in faults_of(ENGINE, *PARTS)),
]


@pytest.mark.timeout(600 + 5 * OUTAGE_S)
@pytest.mark.parametrize(
    ("runtime", "fault"), CASES, ids=[f"{runtime}-{fault}" for runtime, fault in CASES]
)
def test_no_job_is_lost_or_runs_twice_when_a_part_is_away(
    stage: Stage, record_property: Callable[[str, object], None], runtime: Kind, fault: Fault
) -> None:
    outage_s = ENGINE_OUTAGE_S if fault.part == ENGINE else OUTAGE_S
    trial = tried(stage, fault, outage_s=outage_s, jobs_per_second=JOBS_PER_SECOND)

    record_property(PROPERTY, told(trial.row(runtime)))
    assert trial.harm == ""
    assert dict(trial.other_refusals) == {}
    assert trial.normal_after_s is not None
    assert trial.gaps.silent == []
    assert trial.gaps.worst[0] < LOOP_GAP_S_MAX, "a loop stood still while a part was away"
    assert trial.ended_services == []
    if (notice := trial.notice) is not None:
        assert notice.down_after_s is not None, "nobody said that the engine was away"
        assert notice.down_after_s <= NOTICED_AFTER_S_MAX
        assert notice.breaker_open_after_s is not None, "calls to the engine went on"
        assert notice.is_up_again
