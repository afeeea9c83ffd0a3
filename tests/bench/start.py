"""`start`: how long a job takes from its submission to its first instruction.

One job a second through the public API; halfway between two jobs the same program is started
without the platform. Both print the wall clock as their first act, so both times end at the same
point: `/bin/date`, which is loaded and has read the clock 0.7 ms after its `exec`. They begin as
their caller asks: just before the job's request is sent, or the engine's `create`.

    start.docker_overhead_p50_ms, _p99_ms    the jobs' percentile less the engine's own
    start.process_p50_ms                     the job's whole time on the process runtime

Percentile by percentile, not pair by pair: two starts half a second apart know nothing of each
other, and the engine's spread, which is wide, would count twice. The table shows the pairs, too.

The store is asked afterwards: every job has succeeded, at its first attempt, and printed once.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from modelyard.client import Client, Job, JobSpec, Resources

from deploy.local import services, stack
from deploy.local.runtimes import Kind, Wish
from deploy.local.state import State
from tests.bench.engine_floor import Engine, EngineFloor
from tests.bench.figures import median, percentile, print_figures, print_table
from tests.support.eventually import until

CLOCK: Final = ("/bin/date", "+%s%N")
"""Prints nanoseconds since 1970: what runs, on the platform and without it."""
IMAGE: Final = "modelyard/base"
COUNT: Final = 100
"""Jobs on each runtime; `make bench T=start JOBS=…` for another count."""
INTERVAL_S: Final = 1.0
WARM_UP_COUNT: Final = 3
"""Not counted: they open connections and load what is loaded at first use."""
_END_S_MAX: Final = 60.0

Floor = Callable[[], float]
"""Starts the same program without the platform; returns how many ms that took."""


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job, and when it was asked for."""

    job_id: str
    sent_ns: int
    answered_ns: int


@dataclass(frozen=True, slots=True)
class Start:
    """One job's way, in ms since just before its request was sent."""

    answered: float
    queued: float
    started: float
    """As the container runtime says."""
    first_instruction: float


@dataclass(frozen=True, slots=True)
class Measured:
    """Jobs and floors in turn: the first floor follows the first job, and so on."""

    starts: Sequence[Start]
    floors: Sequence[float]

    @property
    def jobs(self) -> list[float]:
        """The jobs' whole times."""
        return [start.first_instruction for start in self.starts]

    def differences(self) -> list[float]:
        """Return what a job took longer than the floor after it, pair by pair."""
        return [job - floor for job, floor in zip(self.jobs, self.floors, strict=True)]


def main() -> None:
    """Measure on both runtimes, each on a stack of its own."""
    count = int(os.environ.get("JOBS", COUNT))
    with platform(Kind.PROCESS) as (client, _):
        process = measure(client, spawned, count=count)
    _print("process runtime", process, floor="posix_spawn alone")
    with platform(Kind.DOCKER) as (client, state), Engine(state.read().engine) as engine:
        docker = measure(client, _engine_floor(client, engine, state), count=count)
    _print("docker runtime", docker, floor="the engine alone")
    print_figures(
        "start",
        {
            "docker_overhead_p50_ms": median(docker.jobs) - median(docker.floors),
            "docker_overhead_p99_ms": percentile(docker.jobs, 99) - percentile(docker.floors, 99),
            "process_p50_ms": median(process.jobs),
        },
    )


def measure(client: Client, floor: Floor, *, count: int) -> Measured:
    """Start so many jobs, one a second, and a floor after each."""
    client.readiness()  # opens the connection, as a client that submits once a second has it open
    jobs: list[Submitted] = []
    floors: list[float] = []
    begins_at = time.monotonic()
    for number in range(WARM_UP_COUNT + count):
        sleep_until(begins_at + number * INTERVAL_S)
        jobs.append(_submit(client))
        sleep_until(begins_at + (number + 0.5) * INTERVAL_S)
        floors.append(floor())
    starts = [_start_of(client, job) for job in jobs]
    return Measured(starts[WARM_UP_COUNT:], floors[WARM_UP_COUNT:])


def spec_of(command: Sequence[str]) -> JobSpec:
    """Describe a small job."""
    return JobSpec(
        name="bench-start",
        image=IMAGE,
        command=list(command),
        resources=Resources(cpu_millicores=1000, memory_bytes=64 << 20),
    )


def spawned() -> float:
    """Start the program as a bare process."""
    read, write = os.pipe()
    with open(read, encoding="ascii") as output:
        sent_ns = time.time_ns()
        pid = os.posix_spawn(CLOCK[0], CLOCK, {}, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
        os.close(write)
        first_ns = int(output.read())
    os.waitpid(pid, 0)
    return _ms(first_ns - sent_ns)


@contextmanager
def platform(kind: Kind) -> Iterator[tuple[Client, State]]:
    """Run a stack of the bench's own."""
    with own_state() as state:
        gateway = stack.up(state, Wish(kind)).gateway
        key = services.credentials_file(state).read_text().strip()
        with Client(f"http://{gateway}", key) as client:
            yield client, state


@contextmanager
def own_state() -> Iterator[State]:
    """Give a state folder of the bench's own; whatever was started in it ends with the block."""
    state = State(Path(tempfile.gettempdir()) / f"modelyard-bench-{secrets.token_hex(4)}")
    try:
        yield state
    finally:
        stack.clean(state)


def _engine_floor(client: Client, engine: Engine, state: State) -> Floor:
    """Return the engine's own start of what the platform makes of a job."""
    job = client.submit_job(spec_of(("/bin/sleep", "5")))
    container = until(lambda: engine.container_of(job.id), what="its container runs")
    ended(client, job.id)
    return EngineFloor(engine, container, CLOCK, state.folder("floor")).started_ms


def _print(title: str, measured: Measured, *, floor: str) -> None:
    starts = measured.starts
    print_table(
        f"{title}: {len(starts)} jobs, {1 / INTERVAL_S:g} a second, since the request",
        [
            ("queued (as committed)", [start.queued for start in starts]),
            ("answered", [start.answered for start in starts]),
            ("started (as the runtime says)", [start.started for start in starts]),
            ("first instruction", measured.jobs),
            (f"floor: {floor}", measured.floors),
            ("difference, pair by pair", measured.differences()),
        ],
        unit="ms",
    )


def ended(client: Client, job_id: str) -> Job:
    """Return a job that has succeeded at its first attempt."""

    def terminal() -> Job | None:
        job = client.job(job_id)
        return job if job.is_terminal else None

    job = until(terminal, what=f"{job_id} ends", within_s=_END_S_MAX)
    assert (job.state, job.attempt_number) == ("SUCCEEDED", 1), job
    return job


def _submit(client: Client) -> Submitted:
    spec = spec_of(CLOCK)
    sent_ns = time.time_ns()
    job = client.submit_job(spec)
    return Submitted(job.id, sent_ns, time.time_ns())


def _start_of(client: Client, submitted: Submitted) -> Start:
    job = ended(client, submitted.job_id)
    (line,) = client.follow_logs(job.id)
    assert job.started_at is not None, "what has succeeded has started"
    return Start(
        answered=_ms(submitted.answered_ns - submitted.sent_ns),
        queued=_ms(_ns(job.created_at) - submitted.sent_ns),
        started=_ms(_ns(job.started_at) - submitted.sent_ns),
        first_instruction=_ms(int(line.text) - submitted.sent_ns),
    )


def _ns(instant: datetime) -> int:
    return int(instant.timestamp() * 1e6) * 1_000


def _ms(nanoseconds: int) -> float:
    return nanoseconds / 1e6


def sleep_until(instant: float) -> None:
    """Sleep until an instant of the monotonic clock, unless it is past."""
    if (left_s := instant - time.monotonic()) > 0:
        time.sleep(left_s)
