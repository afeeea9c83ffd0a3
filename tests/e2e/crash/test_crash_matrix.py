"""Services are killed at every step of their code while jobs run: nothing is lost or done twice.

In `make soak` at all steps; otherwise at some, for a while: which ones is a fresh seed's, and the
steps that a service passes on its way are checked against the list in each run.
`MODELYARD_CRASH_STEPS` is a pattern: at each step in whose name it is found, and at no other.
"""

import asyncio
import os
import random
import re
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from tests.e2e.crash.keeper import dying, struck
from tests.e2e.crash.steps import SERVICES, steps_of
from tests.e2e.crash.table import PROPERTY, Matrix, told
from tests.e2e.crash.verdict import judged
from tests.e2e.crash.work import Work
from tests.e2e.platform import Platform
from tests.e2e.soak import IS_SOAK

ALL: Final = [step for service in SERVICES for step in steps_of(service)]
NAMED: Final = os.environ.get("MODELYARD_CRASH_STEPS", "")
CHOICE: Final = [step for step in ALL if re.search(NAMED, step)]
IS_EACH_HIT: Final = IS_SOAK or bool(NAMED)
SHARE: Final = 1.0 if IS_EACH_HIT else 0.5
DYING_S_MAX: Final = float(os.environ.get("MODELYARD_CRASH_S", "2400" if IS_SOAK else "120"))
ANOTHER_NODE: Final = "away" if IS_SOAK else None
"""Of a second scheduler, which is lost each time that this one dies: seldom within two minutes."""
KILLS_MIN: Final = 10
"""Of all services together, on however slow a machine."""


@pytest.mark.timeout(DYING_S_MAX + 900)
def test_nothing_is_lost_or_done_twice_when_services_die_at_any_step(
    own_platform: Platform, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    seed = int(os.environ.get("MODELYARD_CRASH_SEED", secrets.randbelow(1 << 32)))
    wanted = sorted(random.Random(seed).sample(CHOICE, round(SHARE * len(CHOICE))))
    assert wanted, f"MODELYARD_CRASH_STEPS={NAMED} names no step"
    (tmp_path / "starts").mkdir()
    (tmp_path / "services").mkdir()
    work = Work(own_platform, tmp_path / "starts")

    began_at_s = time.monotonic()
    with (
        own_platform.client(tries_max=100) as client,
        dying(own_platform, tmp_path / "services", wanted, another_node=ANOTHER_NODE) as keepers,
        work.going_on(),
    ):
        recoveries = struck(keepers, within_s=DYING_S_MAX, is_well=lambda: work.probe(client))
    seconds = time.monotonic() - began_at_s
    kills = [kill for keeper in keepers for kill in keeper.kills]
    passed = {step for keeper in keepers for step in keeper.passed}
    with own_platform.client(tries_max=30) as client:
        work.settle(client)
        verdict = asyncio.run(judged(own_platform, work, client))

    matrix = Matrix(
        seed=seed,
        rounds=dict(work.rounds),
        given_up=dict(work.given_up),
        seconds=seconds,
        kills=[kill.step for kill in kills],
        wanted=wanted,
        step_count=len(ALL),
        not_reached=sorted(set(CHOICE) - passed - {kill.step for kill in kills}),
        accepted=len(work.accepted),
        lost=len(verdict.lost),
        doubled=len(verdict.doubled),
        stuck=len(verdict.stuck),
        recovery_p50_s=median(recoveries) if recoveries else 0.0,
        recovery_p99_s=sorted(recoveries)[int(0.99 * len(recoveries))] if recoveries else 0.0,
    )
    record_property(PROPERTY, told(matrix))
    assert verdict.all == []
    assert work.failed == []
    assert [end for keeper in keepers for end in keeper.strange] == []
    assert sorted(passed - set(ALL)) == [], "steps that the list lacks"
    if IS_EACH_HIT:
        assert matrix.unreached == []
        return
    assert len(kills) >= KILLS_MIN
    assert {kill.step.split(".")[0] for kill in kills} == set(SERVICES)
