"""One fault under load, and what can be said of it afterwards."""

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import Final

from modelyard.client import ApiError, Client, ConnectionFailed

from tests.e2e.faults.gaps import Gaps, watched_gaps
from tests.e2e.faults.load import Load, Refusals, opened_load
from tests.e2e.faults.notice import Notice
from tests.e2e.faults.outcome import Interval, Outcome, outcomes_of
from tests.e2e.faults.starts import Starts
from tests.e2e.faults.strike import ENGINE, Fault, How, outage
from tests.e2e.faults.table import Row
from tests.e2e.platform import SERVICES, Platform
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import is_within

PROBE_COUNT: Final = 3
USUAL_FACTOR: Final = 3.0
"""A fresh job that takes no longer than so many times what it took before: all is as usual."""
USUAL_S_MIN: Final = 5.0
"""Or than this, whatever else the machine has to do."""
PROBE_S_MAX: Final = 20.0
_TOLD_MAX: Final = 3
NORMAL_AFTER_S_MAX: Final = 120.0
UP_AGAIN_S_MAX: Final = 30.0
"""Until it is said that the container runtime is back, once a job has run on it."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A running platform, the engine that it uses, if any, and who counts the starts on it."""

    platform: Platform
    engine: DockerEngine | None
    starts: Starts


@dataclass(frozen=True, slots=True)
class Trial:
    """All that was seen."""

    fault: Fault
    outage_s: float
    outcomes: Sequence[Outcome]
    refusals: Refusals
    given_up: Counter[str]
    gaps: Gaps
    normal_after_s: float | None
    notice: Notice | None
    """What was said of the container runtime, where that is what went away."""
    ended_services: Sequence[str]
    """Services that ended though it was another part that went away."""

    @property
    def harm(self) -> str:
        """Tell of jobs of which something is lost, done twice or never done: nothing, if none."""
        harmed = [str(outcome) for outcome in self.outcomes if outcome.is_harmed]
        if not harmed:
            return ""
        first = "\n".join(harmed[:_TOLD_MAX])
        return f"{len(harmed)} of {len(self.outcomes)} jobs, such as\n{first}"

    @property
    def other_refusals(self) -> Counter[str]:
        """What no caller should meet: no code, no time to wait, or no answer at all."""
        found = self.refusals.malformed + self.given_up
        # Without a gateway there is nobody to refuse anything.
        return found if self.fault.part == "api_gateway" else found + self.refusals.unreachable

    def row(self, runtime: str) -> Row:
        """Return the line of the table."""
        gap_s, gap_of = self.gaps.worst
        return Row(
            runtime=runtime,
            fault=str(self.fault),
            outage_s=self.outage_s,
            accepted=len(self.outcomes),
            finished=sum(outcome.is_finished for outcome in self.outcomes),
            lost=sum(outcome.is_lost for outcome in self.outcomes),
            started_twice=sum(outcome.start_count > 1 for outcome in self.outcomes),
            stuck=sum(outcome.is_stuck for outcome in self.outcomes),
            marked=sum(outcome.is_marked for outcome in self.outcomes),
            refused=self.refusals.told_to_wait.total(),
            timed_out=self.refusals.timed_out.total(),
            other_refusals=self.other_refusals.total(),
            loop_gap_s=gap_s,
            loop_gap_of=gap_of,
            normal_after_s=self.normal_after_s,
            noticed_after_s=self.notice.down_after_s if self.notice else None,
            breaker_open_after_s=self.notice.breaker_open_after_s if self.notice else None,
        )


def tried(stage: Stage, fault: Fault, *, outage_s: float, jobs_per_second: float) -> Trial:
    """Submit jobs, let the fault happen meanwhile, and wait for quiet."""
    platform = stage.platform
    before = _services(platform)
    frozen = fault.part if fault.how is How.FREEZE else ""
    with (
        opened_load(platform, stage.starts) as (load, refusals),
        platform.client(tries_max=1, timeout_s=PROBE_S_MAX) as prober,
        platform.http() as http,
        watched_gaps(platform, but=frozen) as gaps,
    ):
        with contextlib.ExitStack() as under_load:
            under_load.enter_context(load.going_on(per_second=jobs_per_second))
            before_s = median(_probe_s(load, load.client) for _ in range(PROBE_COUNT))
            usual_s = max(USUAL_S_MIN, USUAL_FACTOR * before_s)
            notice = (
                Notice(prober, platform.address_of("scheduler")) if fault.part == ENGINE else None
            )
            look = notice.look if notice else None
            away = fault.away(platform, stage.engine)
            began_at = datetime.now(UTC)
            with outage(away, seconds=outage_s, look=look) as over_at_s:
                over_at = datetime.now(UTC)
                load.submit(load.client)
                # The rest of the way, the line that has formed gets shorter on any machine.
                under_load.close()
                is_normal = _is_done_within(load, prober, usual_s)
                normal_after_s = time.monotonic() - over_at_s if is_normal else None
        if notice:
            is_within(notice.look_again, within_s=UP_AGAIN_S_MAX)
        is_engine_stopped = fault.part == ENGINE and fault.how is How.STOP
        stopped = Interval(began_at, over_at) if is_engine_stopped else None
        outcomes = outcomes_of(load, http, stopped=stopped)
    after = _services(platform)
    return Trial(
        fault=fault,
        outage_s=outage_s,
        outcomes=outcomes,
        refusals=refusals,
        given_up=load.given_up,
        gaps=gaps,
        normal_after_s=normal_after_s,
        notice=notice,
        ended_services=[
            name for name in SERVICES if name != fault.part and before[name] != after[name]
        ],
    )


def _is_done_within(load: Load, prober: Client, job_s_max: float) -> bool:
    """Submit one job after the other until one takes no longer than that, within a bound."""

    def is_done() -> bool:
        try:
            return _probe_s(load, prober) <= job_s_max
        except (ApiError, ConnectionFailed):
            return False

    return is_within(is_done, within_s=NORMAL_AFTER_S_MAX)


def _probe_s(load: Load, client: Client) -> float:
    """Return how long a fresh job takes; `PROBE_S_MAX` if it takes longer."""
    began_at_s = time.monotonic()
    job = load.submit(client)
    is_within(lambda: client.job(job.id).is_terminal, within_s=PROBE_S_MAX)
    return time.monotonic() - began_at_s


def _services(platform: Platform) -> dict[str, int]:
    return {name: platform.pid_of(name) for name in SERVICES}
