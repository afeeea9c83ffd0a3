"""A user who submits small jobs at a steady rate and tries again as told, whatever happens.

Owns: what was submitted, what came of it, and every refusal on the way. The user is the SDK: its
idempotency keys, its retries.

Always holds: no more than `IN_FLIGHT_MAX` submissions are under way; none is forgotten.
"""

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import httpx
from modelyard.client import (
    ApiError,
    Client,
    ConnectionFailed,
    Job,
    JobRetries,
    JobSpec,
    JobTimeouts,
    Resources,
)
from typing_extensions import override

from services.chassis.errors import ErrorCode
from tests.e2e.faults.starts import PRELUDE, Starts
from tests.e2e.platform import Platform

IN_FLIGHT_MAX: Final = 32
LINE_COUNT: Final = 5
_TRIES_MAX: Final = 100
_PASSING: Final = frozenset({409, 429, 503})
_PROGRAM: Final = f"""{PRELUDE}
for number in range({LINE_COUNT}):
    print(os.environ["NONCE"], number, flush=True)
    time.sleep(float(os.environ["PAUSE_S"]))
"""
_LASTS_S: Final = 2.0
"""So that some jobs run whenever the fault begins."""


@dataclass(slots=True)
class Refusals(httpx.BaseTransport):
    """Counts what is refused on the way to the gateway."""

    inner: httpx.BaseTransport = field(default_factory=httpx.HTTPTransport)
    told_to_wait: Counter[str] = field(default_factory=Counter)
    """503, 429 and 409 with a code and `Retry-After`."""
    timed_out: Counter[str] = field(default_factory=Counter)
    """504 with its code."""
    malformed: Counter[str] = field(default_factory=Counter)
    """Any other refusal, and those without a stable code."""
    unreachable: Counter[str] = field(default_factory=Counter)
    """No answer at all."""

    @override
    def handle_request(self, request: httpx.Request) -> httpx.Response:
        try:
            answer = self.inner.handle_request(request)
        except httpx.TransportError as error:
            self.unreachable[type(error).__name__] += 1
            raise
        if answer.status_code >= 400:
            answer.read()
            self._count(answer)
        return answer

    @override
    def close(self) -> None:
        self.inner.close()

    def _count(self, answer: httpx.Response) -> None:
        code, wait = _code_of(answer), answer.headers.get("retry-after", "")
        name = f"{answer.status_code} {code or answer.text[:80]}"
        if answer.status_code in _PASSING and code and wait.isdigit():
            self.told_to_wait[name] += 1
        elif code == ErrorCode.DEADLINE_EXCEEDED:
            self.timed_out[name] += 1
        else:
            self.malformed[name] += 1


def _code_of(answer: httpx.Response) -> str:
    """Return the problem's code, or nothing if it is none of the stable ones."""
    try:
        code = answer.json()["code"]
    except (ValueError, KeyError, TypeError):
        return ""
    return code if code in set(ErrorCode) else ""


@dataclass(slots=True)
class Load:
    """The jobs of one row of the fault table."""

    client: Client
    starts: Starts
    accepted: dict[str, str] = field(default_factory=dict)
    """Each job's id and the nonce in each of its lines."""
    given_up: Counter[str] = field(default_factory=Counter)
    """Submissions that never got through, by their last failure."""
    put_off_count: int = 0
    """Times that all places for submissions were taken."""

    def submit(self, client: Client, *, lasts_s: float = 0.0) -> Job:
        """Submit a job; raises ApiError or ConnectionFailed."""
        nonce = secrets.token_hex(8)
        job = client.submit_job(self._spec(nonce, lasts_s), idempotency_key=nonce)
        self.accepted[job.id] = nonce
        return job

    def _submit_patiently(self) -> None:
        try:
            self.submit(self.client, lasts_s=_LASTS_S)
        except (ApiError, ConnectionFailed) as error:
            self.given_up[f"{type(error).__name__}: {error}"] += 1

    @contextmanager
    def going_on(self, *, per_second: float) -> Iterator[None]:
        """Submit at this rate while the block runs; all submissions are through when it is left."""
        over = threading.Event()
        places = threading.BoundedSemaphore(IN_FLIGHT_MAX)

        def free(_: Future[None]) -> None:
            places.release()

        def tick(pool: ThreadPoolExecutor) -> None:
            next_at_s = time.monotonic()
            while not over.wait(max(0.0, next_at_s - time.monotonic())):
                next_at_s += 1 / per_second
                if places.acquire(blocking=False):
                    pool.submit(self._submit_patiently).add_done_callback(free)
                else:
                    self.put_off_count += 1

        with ThreadPoolExecutor(max_workers=IN_FLIGHT_MAX + 1) as pool:
            ticking = pool.submit(tick, pool)
            try:
                yield
            finally:
                over.set()
                ticking.result()

    def expected_output(self, job_id: str) -> list[str]:
        """Return the lines that a job prints."""
        return [f"{self.accepted[job_id]} {number}" for number in range(LINE_COUNT)]

    def _spec(self, nonce: str, lasts_s: float) -> JobSpec:
        environment = {
            "NONCE": nonce,
            "PAUSE_S": f"{lasts_s / LINE_COUNT:g}",
            **self.starts.environment(),
        }
        return JobSpec(
            name="under fault",
            image="modelyard/base",
            command=["python", "-c", _PROGRAM],
            env=environment,
            resources=Resources(cpu_millicores=100, memory_bytes=128 << 20),
            timeouts=JobTimeouts(run=timedelta(minutes=5)),
            retries=JobRetries(count_max=0),  # what starts again has started twice
        )


@contextmanager
def opened_load(platform: Platform, starts: Starts) -> Iterator[tuple[Load, Refusals]]:
    """Give a load that submits nothing yet, and what it is refused."""
    refusals = Refusals(httpx.HTTPTransport(limits=httpx.Limits(max_connections=IN_FLIGHT_MAX + 2)))
    with platform.client(tries_max=_TRIES_MAX, transport=refusals) as client:
        yield Load(client, starts), refusals
