"""`gateway`: what the gateway's CPU time for a read is, beside a bare proxy's.

`GET /v1/jobs/{id}` of one job that is over, on a few kept connections: through the gateway with
all that surrounds a call there (authentication, limits in Redis, breaker, metrics, one trace in
ten), and in turn through a bare FastAPI application that calls a bare gRPC server
(`gateway_floor`), which answers with the message that the scheduler gives.

    gateway.cpu_ratio_to_floor                     the gateway's median over the floor's
    gateway.cpu_p50_us, gateway.floor_cpu_p50_us   of one request, by the kernel's count

Both get the same load, so many requests a second. As fast as each can answer would be another load
for each: a process that never sleeps takes what has come in with fewer calls of the kernel, and
the floor never does, while the gateway shares the cores with a scheduler and its database. What
they take then is shown, too.

Every answer is looked at: status 200, and the very same bytes from both.
"""

import asyncio
import http.client
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from modelyard.client import Client
from modelyard.scheduler.v1 import job_service_pb2 as pb
from modelyard.scheduler.v1.job_service_pb2_grpc import JobServiceStub

from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import Program, base_environment, environment_of, launch, stop
from deploy.local.runtimes import Kind
from deploy.local.services import credentials_file, is_healthy
from deploy.local.state import CHECKOUT, ProcessRecord, State
from services.chassis.rpc.context import acting_as
from services.chassis.tenancy import Principal, tenant_id
from tests.bench.figures import median, print_figures, print_table, say
from tests.bench.scheduler_calls import open_scheduler
from tests.bench.start import CLOCK, ended, platform, sleep_until, spec_of
from tests.support.eventually import until

COUNT: Final = 2400
"""Requests of a round; `make bench T=gateway REQUESTS=…` for another count."""
RATE: Final = 300
"""Requests a second; less than half of a core's worth of the gateway's."""
ROUNDS: Final = 7
FAST_ROUNDS: Final = 3
"""As fast as can be."""
CONNECTIONS: Final = 8
WARM_UP_COUNT: Final = 800
SETTINGS: Final = {
    "MODELYARD_TELEMETRY__SAMPLE_RATIO": "0.1",
    # Counted as ever, but not reached.
    "MODELYARD_LIMITS__TENANT_REQUESTS_MAX": "1000000000",
    "MODELYARD_LIMITS__BURST": "1000000/second",
}
_GATEWAY: Final = "api_gateway"
_IDLE_S: Final = 3.0
_READY_MAX_S: Final = 90.0


@dataclass(frozen=True, slots=True)
class Target:
    """A process that answers the read."""

    record: ProcessRecord
    path: str
    headers: Mapping[str, str]

    def cpu_us(self) -> float:
        """Return the CPU time that the process has had: all threads, user and system."""
        stat = Path(f"/proc/{self.record.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(stat[11]) + int(stat[12])) * 1e6 / os.sysconf("SC_CLK_TCK")

    def read(
        self, count: int, *, interval_s: float = 0.0, begins_after_s: float = 0.0
    ) -> set[bytes]:
        """Read so many times on one connection; return the answers that differ.

        Each is asked for an interval after the one before, or at once where that took longer.
        """
        connection = http.client.HTTPConnection(self.record.address, timeout=30)
        answers = set()
        begins_at = time.monotonic() + begins_after_s
        for number in range(count):
            sleep_until(begins_at + number * interval_s)
            connection.request("GET", self.path, headers=dict(self.headers))
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, (answer.status, body)
            answers.add(body)
        connection.close()
        return answers

    def load(self, count: int, *, rate: float | None = None) -> set[bytes]:
        """Read so many times on a few connections: as fast as can be, or so often a second."""
        interval_s = 0.0 if rate is None else CONNECTIONS / rate

        def read(connection: int) -> set[bytes]:
            return self.read(
                count // CONNECTIONS,
                interval_s=interval_s,
                begins_after_s=interval_s * connection / CONNECTIONS,
            )

        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return set().union(*pool.map(read, range(CONNECTIONS)))


@dataclass(frozen=True, slots=True)
class Round:
    """One target's share of a round."""

    cpu_us: float
    """Of one request."""
    rate: float
    """Requests a second that were answered: of this machine at this moment, both ends on it."""


Pair = tuple[Round, Round]
"""The gateway's and the floor's."""


def main() -> None:
    """Measure on a stack of the bench's own."""
    count = int(os.environ.get("REQUESTS", COUNT)) // CONNECTIONS * CONNECTIONS
    with platform(Kind.PROCESS) as (client, state):
        job_id = client.submit_job(spec_of(CLOCK)).id
        ended(client, job_id)
        command = [sys.executable, "-m", "services.api_gateway"]
        gateway = _gateway(client, state, job_id, command)
        floor = _floor(state, gateway)
        expected = floor.load(WARM_UP_COUNT)
        assert len(expected) == 1
        assert gateway.load(WARM_UP_COUNT) == expected, "both give the same bytes"
        paced, fast = (
            [
                (
                    measure(gateway, expected, count=count, rate=rate),
                    measure(floor, expected, count=count, rate=rate),
                )
                for _ in range(rounds)
            ]
            for rate, rounds in ((RATE, ROUNDS), (None, FAST_ROUNDS))
        )
        idle = {"gateway": _idle_us(gateway), "floor": _idle_us(floor)}
        layers = _layers(client, state, job_id, count=count)
    _print(paced, fast, idle, layers, count=count)


def measure(target: Target, expected: set[bytes], *, count: int, rate: float | None) -> Round:
    """Load a target; every answer must be the expected one."""
    cpu_us, begins_at = target.cpu_us(), time.monotonic()
    assert target.load(count, rate=rate) == expected
    took_s = time.monotonic() - begins_at
    return Round((target.cpu_us() - cpu_us) / count, count / took_s)


def _gateway(client: Client, state: State, job_id: str, command: Sequence[str]) -> Target:
    """Start the stack's gateway again, with the bench's settings."""
    before = state.read().processes[_GATEWAY]
    environment = environment_of(before.pid) | SETTINGS
    stop(state, _GATEWAY)
    program = Program(_GATEWAY, command, before.address, environment, CHECKOUT)
    record = launch(state, program)
    until(lambda: is_healthy(record.address), what="the gateway is ready", within_s=_READY_MAX_S)
    headers = {"Authorization": f"Bearer {credentials_file(state).read_text().strip()}"}
    return Target(record, f"/v1/jobs/{job_id}", headers)


def _floor(state: State, gateway: Target) -> Target:
    message = state.folder("floor") / "answer"
    message.write_bytes(asyncio.run(_answer(gateway)).SerializeToString())
    echo_port, port = (str(port_of(state, f"floor.{name}")) for name in ("echo", "app"))
    _launch(state, "floor_echo", echo_port, "echo", echo_port, str(message))
    record = _launch(state, "floor_app", port, "app", port, echo_port)
    floor = Target(record, gateway.path, gateway.headers)

    def answers() -> bool:
        try:
            return bool(floor.read(1))
        except (ConnectionError, AssertionError):
            return False

    until(answers, what="the floor answers", within_s=_READY_MAX_S)
    return floor


def _launch(state: State, part: str, port: str, *arguments: str) -> ProcessRecord:
    command = [sys.executable, "-m", "tests.bench.gateway_floor", *arguments]
    address = f"{LOOPBACK}:{port}"
    return launch(state, Program(part, command, address, base_environment(), CHECKOUT))


async def _answer(gateway: Target) -> pb.GetJobResponse:
    """Ask the scheduler itself, as the gateway does."""
    caller = Principal(tenant_id("default"), "key:bench", frozenset({"jobs:read"}))
    job_id = gateway.path.rpartition("/")[2]
    async with open_scheduler(environment_of(gateway.record.pid)) as channel:
        with acting_as(caller):
            return await JobServiceStub(channel).GetJob(pb.GetJobRequest(job_id=job_id), timeout=5)


def _idle_us(target: Target) -> float:
    """Return the CPU time that a target takes each second without a request."""
    cpu_us = target.cpu_us()
    time.sleep(_IDLE_S)
    return (target.cpu_us() - cpu_us) / _IDLE_S


def _layers(client: Client, state: State, job_id: str, *, count: int) -> Mapping[str, int]:
    """Load a gateway with a sampler in it, apart from what is measured."""
    output = state.folder("layers") / "counts.json"
    command = [sys.executable, "-m", "tests.bench.gateway_layers", str(output)]
    gateway = _gateway(client, state, job_id, command)
    gateway.load(WARM_UP_COUNT)
    os.kill(gateway.record.pid, signal.SIGUSR1)
    gateway.load(count, rate=RATE)
    os.kill(gateway.record.pid, signal.SIGUSR1)
    until(output.exists, what="the samples are written")
    counts: Mapping[str, int] = json.loads(output.read_text())
    return counts


def _print(
    paced: Sequence[Pair],
    fast: Sequence[Pair],
    idle_us: Mapping[str, float],
    layers: Mapping[str, int],
    *,
    count: int,
) -> None:
    gateway, floor = _print_pairs(f"{RATE} a second", paced, count=count)
    _print_pairs("as fast as can be", fast, count=count)
    idle = ", ".join(f"{name} {value / 1000:.1f}" for name, value in idle_us.items())
    say(f"  without a request, ms of CPU a second (counted above, too): {idle}")
    _print_layers(layers, gateway)
    print_figures(
        "gateway",
        {
            "cpu_ratio_to_floor": gateway / floor,
            "cpu_p50_us": gateway,
            "floor_cpu_p50_us": floor,
        },
    )


def _print_pairs(load: str, pairs: Sequence[Pair], *, count: int) -> tuple[float, float]:
    """Return both medians."""
    gateway = [through.cpu_us for through, _ in pairs]
    floor = [bare.cpu_us for _, bare in pairs]
    print_table(
        f"CPU time of a read, {load}: {len(pairs)} rounds of {count}, {CONNECTIONS} connections",
        [("gateway", gateway), ("floor: bare FastAPI and gRPC", floor)],
        unit="µs",
    )
    rates = [median([pair[side].rate for pair in pairs]) for side in (0, 1)]
    say(
        f"  ratio {median(gateway) / median(floor):.2f}; "
        f"requests a second: gateway {rates[0]:.0f}, floor {rates[1]:.0f}"
    )
    return median(gateway), median(floor)


def _print_layers(counts: Mapping[str, int], cpu_us: float) -> None:
    total = sum(counts.values())
    say(f"\nwhere the gateway's go, by {total} samples of its stack\n  {'':24} {'µs':>6}  share")
    for name, share in sorted(counts.items(), key=lambda entry: -entry[1]):
        say(f"  {name:24} {share / total * cpu_us:6.0f}  {share / total:5.1%}")
