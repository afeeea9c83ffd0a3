"""`queue`: how fast a long line is admitted, whether in order, and what standing in it costs.

The scheduler of a stack of the bench's own, on a PostgreSQL with fsync, finds a line in its
database. Nodes join all at once, and it admits until they are full; nothing that it admits runs. In
a long line 105,000 jobs of four tenants wait before and 100,000 after; in a short one 1,500 before
and 500 after, three times.

    queue.admissions_per_s_100k   from the first cycle's begin to the last one's, in the long line
    queue.admissions_per_s_1k     the same in the short one: the median of the rounds
    queue.inversions              admissions before somebody who had been before them, by priority,
                                  share or place; of all rounds
    queue.cycle_p99_ms            by the scheduler's own histogram, while it admits in the long line
    queue.rss_mib                 what the scheduler takes with the long line beyond what it takes
                                  with none
    queue.explain_p99_ms          from request to answer, one after another, 100,000 being in line;
                                  once all others have read what was told of the admissions
    queue.eta_error_p50           how far off estimated starts are, over the wait (`queue_replay`)
    queue.gang_512_s              from the begin of the cycle that finds 512 nodes for a job of 512
                                  tasks until its attempts are seen: the median of the rounds

The store is asked after each round: jobs, attempts and what is booked on nodes are what the events
tell, and `queue_order` has its own idea of the order.
"""

import asyncio
import itertools
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from modelyard.scheduler.v1 import job_explanation_pb2, job_pb2
from modelyard.scheduler.v1 import job_service_pb2 as pb

from deploy.local.ports import LOOPBACK
from deploy.local.processes import environment_of, stop
from deploy.local.runtimes import Kind
from deploy.local.state import CHECKOUT, State
from services.api_gateway.adapters.scheduler_client import GrpcJobs
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, tenant_id
from services.scheduler.domain.identities import JobId, NodeId
from tests.bench.figures import median, percentile, print_figures, print_table, say
from tests.bench.queue_line import Admitted, Line, open_line
from tests.bench.queue_metrics import Scrape, lag_at, percentile_of, scrape
from tests.bench.queue_order import Standing, Verdict, verdict_on
from tests.bench.queue_replay import CLUSTERS, read_trace, waits_of
from tests.bench.scheduler_calls import open_jobs
from tests.bench.start import platform
from tests.support.eventually import eventually
from tests.support.schedulers import FIRST, start

QUEUED: Final = 100_000
"""Left in the long line; `make bench T=queue QUEUED=…` for another count."""
ADMITTED: Final = 5_000
"""Admitted from it, or a few more; `ADMITTED=…` for another count."""
SHORT_QUEUED: Final = 1_000
"""In the short line on average: half of what is admitted more before, and half of it less after."""
SHORT_ADMITTED: Final = 1_000
SHORT_ROUNDS: Final = 3
EXPLAINED: Final = 200
TOGETHER: Final = 4
GANG_TASKS: Final = 512
GANG_ROUNDS: Final = 3
LIMIT_RATIO: Final = 2.0
"""How many times as long as it does a job of the trace may run."""
TRACE: Final = CHECKOUT.parent / "shared/data/gpu-traces/philly-sample/philly_sample_15vc.csv.gz"
"""Not in the repository, and beside it where there is one; `TRACE=…` for another place."""
SETTINGS: Final = {"MODELYARD_TELEMETRY__SAMPLE_RATIO": "0.1"}
_OTHERS: Final = ("model_registry", "log_collector")
_IDLE_CYCLES: Final = 3
"""After so many a new process has met all that it meets while nothing can be admitted."""
_QUIET_CYCLES: Final = 2
_POLL_INTERVAL_S: Final = 0.5
_LAG_TOLD_WITHIN_S: Final = 6.0
"""A consumer tells its lag each five seconds."""
_ROUND_S_MAX: Final = 240.0
_MIB: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Yard:
    """The stack, and how its scheduler is started and asked."""

    state: State
    scheduler: Mapping[str, str]
    gateway: Mapping[str, str]
    others: Sequence[Mapping[str, str]]
    """The environments of those who hear of what it does."""

    @property
    def operations(self) -> str:
        """Return where the scheduler tells of itself."""
        return _operations(self.scheduler)

    async def lag(self) -> float:
        """Return how many records those who hear of what it does had yet to read lately."""
        told = [
            await asyncio.to_thread(lag_at, _operations(each))
            for each in [self.scheduler, *self.others]
        ]
        return sum(told)


@dataclass(frozen=True, slots=True)
class Explained:
    """How long explanations took, one after another and some at a time, and what they said."""

    alone_ms: Sequence[float]
    together_ms: Sequence[float]
    holds: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Round:
    """What came of a line."""

    before: Scrape
    """As it stood in line, and nothing could be admitted."""
    after: Scrape
    admitted: Sequence[Admitted]
    verdict: Verdict
    explained: Explained | None

    @property
    def rate(self) -> float:
        """Return the admissions a second of all cycles but the last, whose end is not told."""
        return _rate(self.admitted)

    def cycles_ms(self) -> list[float]:
        """Return how long each cycle was, to the next one's begin."""
        begins = sorted({each.at for each in self.admitted})
        return [(end - begin).total_seconds() * 1e3 for begin, end in itertools.pairwise(begins)]


def main() -> None:
    """Measure on a stack of the bench's own; the trace needs none."""
    errors = _replayed(Path(os.environ.get("TRACE", TRACE)))
    queued = int(os.environ.get("QUEUED", QUEUED))
    room = int(os.environ.get("ADMITTED", ADMITTED))
    short_room = min(SHORT_ADMITTED, room)
    short_queued = min(SHORT_QUEUED, queued) - short_room // 2
    with platform(Kind.PROCESS) as (_, state):
        running = state.read().processes
        scheduler = environment_of(running[FIRST].pid) | SETTINGS
        others = [environment_of(running[name].pid) for name in _OTHERS]
        yard = Yard(state, scheduler, environment_of(running["api_gateway"].pid), others)
        asyncio.run(_close_own_node(yard))
        stop(state, FIRST)
        gangs_s = [_gang(yard) for _ in range(GANG_ROUNDS)]
        short = [_round(yard, queued=short_queued, room=short_room) for _ in range(SHORT_ROUNDS)]
        idle = _idle(yard)
        long = _round(yard, queued=queued, room=room, is_explained=True)
    _print(long, short, idle, errors, gangs_s, queued=queued)


def _operations(environment: Mapping[str, str]) -> str:
    return f"{LOOPBACK}:{environment['MODELYARD_OPERATIONS__PORT']}"


async def _close_own_node(yard: Yard) -> None:
    """Let the stack's own node take nothing: what is admitted there would run."""
    node_id = NodeId(yard.scheduler["MODELYARD_RUNNER__NODE_ID"])
    async with open_line(yard.scheduler) as line:
        await eventually(partial(line.has_node, node_id), what="the stack's own node joins")
        await line.cordon(node_id)


def _idle(yard: Yard) -> Scrape:
    """Return what a scheduler with no line says."""
    asyncio.run(_prepare(yard, count=0))
    start(yard.state, FIRST, yard.scheduler)
    idle = asyncio.run(_after_cycles(yard, _IDLE_CYCLES))
    stop(yard.state, FIRST)
    return idle


def _gang(yard: Yard) -> float:
    """Return how long a cycle takes to admit one job of many tasks, each on a node of its own."""

    async def prepare() -> JobId:
        async with open_line(yard.scheduler) as line:
            await line.empty()
            return await line.fill_with_gang(tasks=GANG_TASKS)

    async def admitted(job_id: JobId) -> float:
        async with open_line(yard.scheduler) as line:
            await _after_cycles(yard, _IDLE_CYCLES)
            await line.add_nodes_for_tasks(GANG_TASKS)
            look = partial(line.seen_whole, job_id, tasks=GANG_TASKS)
            return await eventually(look, what="all tasks are admitted")

    job_id = asyncio.run(prepare())
    start(yard.state, FIRST, yard.scheduler)
    took_s = asyncio.run(admitted(job_id))
    stop(yard.state, FIRST)
    return took_s


def _round(yard: Yard, *, queued: int, room: int, is_explained: bool = False) -> Round:
    """Let room for so many be taken by a line in which so many are left."""
    standing = asyncio.run(_prepare(yard, count=queued + room))
    start(yard.state, FIRST, yard.scheduler)
    measured = asyncio.run(_measure(yard, standing, room=room, is_explained=is_explained))
    stop(yard.state, FIRST)
    return measured


async def _prepare(yard: Yard, *, count: int) -> Sequence[Standing]:
    async with open_line(yard.scheduler) as line:
        await line.empty()
        return await line.fill(count)


async def _measure(
    yard: Yard, standing: Sequence[Standing], *, room: int, is_explained: bool
) -> Round:
    async with open_line(yard.scheduler) as line:
        before = await _after_cycles(yard, _IDLE_CYCLES)
        capacities = await line.add_nodes(room=room)
        async with line.heartbeats():
            after = await _until_full(yard, line)
            explained = None
            if is_explained:
                await _until_told(yard, line)
                explained = await _explained(yard, await line.queued())
        admitted = await line.admitted()
        await line.check(admitted, queued=len(standing) - len(admitted))
    verdict = verdict_on([each.admission for each in admitted], standing, capacities)
    return Round(before, after, admitted, verdict, explained)


async def _after_cycles(yard: Yard, count: int) -> Scrape:
    """Return what the scheduler says after so many more cycles."""
    begin = scrape(yard.operations).cycle_count

    async def have_been() -> Scrape | None:
        now = scrape(yard.operations)
        return now if now.cycle_count >= begin + count else None

    return await eventually(have_been, what=f"{count} scheduling cycles")


async def _until_full(yard: Yard, line: Line) -> Scrape:
    """Return what the scheduler says once cycles have come to admit nobody."""
    last, cycles = 0, 0.0
    async with asyncio.timeout(_ROUND_S_MAX):
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            now, count = scrape(yard.operations), await line.attempt_count()
            if count > last:
                last, cycles = count, now.cycle_count
            elif count and now.cycle_count > cycles + _QUIET_CYCLES:
                return now


async def _until_told(yard: Yard, line: Line) -> None:
    """Wait until all others have read what was told of the admissions."""

    async def is_published() -> bool:
        return not await line.unpublished_count()

    async def is_read() -> bool:
        return not await yard.lag()

    await eventually(is_published, within_s=_ROUND_S_MAX, what="the admissions are published")
    await asyncio.sleep(_LAG_TOLD_WITHIN_S)  # what is told now may be from before
    await eventually(is_read, within_s=_ROUND_S_MAX, what="everybody has read of the admissions")


async def _explained(yard: Yard, queued: Sequence[Standing]) -> Explained:
    """Have jobs from all over the line explained."""
    chosen = [queued[place * len(queued) // EXPLAINED] for place in range(EXPLAINED)]
    async with open_jobs(yard.gateway) as jobs:
        await _explain(jobs, iter(chosen[:TOGETHER]))  # opens the connection
        alone = await _explain(jobs, iter(chosen))
        async with asyncio.TaskGroup() as tasks:
            shared = iter(chosen)
            callers = [tasks.create_task(_explain(jobs, shared)) for _ in range(TOGETHER)]
    together = [each for caller in callers for each in caller.result()]
    return Explained(
        [took_ms for took_ms, _ in alone],
        [took_ms for took_ms, _ in together],
        Counter(hold for _, hold in [*alone, *together]),
    )


async def _explain(jobs: GrpcJobs, chosen: Iterator[Standing]) -> Sequence[tuple[float, str]]:
    """Ask for one after another; return how many ms each answer took, and what holds the job."""
    answers = []
    for job in chosen:
        with acting_as(Principal(tenant_id(job.tenant), "key:bench", frozenset({"jobs:read"}))):
            sent_at = time.perf_counter()
            answer = await jobs.explain(pb.ExplainJobRequest(job_id=job.id))
            took_ms = (time.perf_counter() - sent_at) * 1e3
        explanation = answer.explanation
        assert explanation.job_id == job.id, "each is told of its own job"
        assert explanation.state == job_pb2.JOB_STATE_QUEUED, "the line stands still"
        hold = job_explanation_pb2.JobHold.Name(explanation.hold).removeprefix("JOB_HOLD_")
        answers.append((took_ms, hold))
    return answers


def _replayed(trace: Path) -> Sequence[float] | None:
    """Return by what part of the wait each estimate was off that the product would have told.

    None without a trace.
    """
    if not trace.exists():
        say(f"no estimates were replayed: there is no trace at {trace.name} (TRACE=…)")
        return None
    arrivals = read_trace(trace)
    errors = {}
    rows = []
    for ratio, with_history in itertools.product((1.0, LIMIT_RATIO), (False, True)):
        waits = [
            wait
            for cluster, node_count in CLUSTERS.items()
            for wait in waits_of(
                arrivals[cluster],
                node_count=node_count,
                limit_ratio=ratio,
                with_history=with_history,
            )
        ]
        name = f"limits of {ratio:g} times" + (" and history" if with_history else "")
        found = [wait.error for wait in waits if wait.told_s is not None]
        say(f"  {name}: {len(found)} of {len(waits)} waits were told")
        errors[ratio, with_history] = found
        rows.append((name, found))
    print_table("estimated starts, off by so many times the wait", rows, unit="")
    return errors[LIMIT_RATIO, True]


def _rate(admitted: Sequence[Admitted]) -> float:
    begin, end = admitted[0].at, admitted[-1].at
    assert begin < end, "a rate needs two cycles: admit more"
    return sum(each.at < end for each in admitted) / (end - begin).total_seconds()


def _print(
    long: Round,
    short: Sequence[Round],
    idle: Scrape,
    errors: Sequence[float] | None,
    gangs_s: Sequence[float],
    *,
    queued: int,
) -> None:
    assert long.explained is not None, "the long line is explained"
    _print_times(long, short, long.explained, queued=queued)
    _print_rates(long, short)
    line_bytes = long.before.memory_bytes - idle.memory_bytes
    memory = ", ".join(
        f"{each.memory_bytes / _MIB:.0f} {when}"
        for each, when in (
            (idle, "without a line"),
            (long.before, "with the long one"),
            (long.after, "after its admissions"),
        )
    )
    each_bytes = line_bytes / (queued + len(long.admitted))
    say(f"  MiB of the scheduler: {memory}; {each_bytes:.0f} bytes a queued job")
    verdicts = [each.verdict for each in (long, *short)]
    passed_over = sum(len(each.inversions) for each in verdicts)
    unfair = sum(len(each.unfair) for each in verdicts)
    say(f"  out of order: {passed_over}, and {unfair} between tenants of one priority")
    figures = {
        "admissions_per_s_100k": long.rate,
        "admissions_per_s_1k": median([each.rate for each in short]),
        "inversions": passed_over + unfair,
        "cycle_p99_ms": percentile_of(long.after.since(long.before), 99) * 1e3,
        "rss_mib": line_bytes / _MIB,
        "explain_p99_ms": percentile(long.explained.alone_ms, 99),
        "gang_512_s": median(gangs_s),
    }
    if errors is not None:
        figures["eta_error_p50"] = median(errors)
    print_figures("queue", figures)


def _print_times(long: Round, short: Sequence[Round], explained: Explained, *, queued: int) -> None:
    cycles = [
        ("long line", long.cycles_ms()),
        ("short line", [each for one in short for each in one.cycles_ms()]),
    ]
    print_table("a scheduling cycle, to the next one's begin", cycles, unit="ms")
    asked = [
        ("one after another", explained.alone_ms),
        (f"{TOGETHER} at a time", explained.together_ms),
    ]
    title = f"{EXPLAINED} explanations, {queued} jobs in line: request to answer"
    print_table(title, asked, unit="ms")
    holds = ", ".join(f"{hold} {count}" for hold, count in sorted(explained.holds.items()))
    say(f"  what holds them: {holds}")


def _print_rates(long: Round, short: Sequence[Round]) -> None:
    """Print all rates; of the long line also that of as many as are admitted from the short one."""
    first = long.admitted[: len(short[0].admitted)]
    say(
        f"\n  admitted a second: {long.rate:.0f} of {len(long.admitted)} in the long line, "
        f"{_rate(first):.0f} of its first {len(first)}; "
        f"{', '.join(f'{each.rate:.0f}' for each in short)} of {len(short[0].admitted)} "
        "in the short one"
    )
