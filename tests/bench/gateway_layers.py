"""The gateway with a sampler in it: where its CPU time goes, layer by layer.

    python -m tests.bench.gateway_layers FILE    counts samples from one SIGUSR1 to the next

A timer of the process's CPU time interrupts it at the kernel's ticks; the innermost frame that a
layer owns says whose that time was. Time in C is its caller's, and that of gRPC's own threads
whoever's turn it is, so shares are good to a few percent.
"""

import json
import runpy
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Final

INTERVAL_S: Final = 0.001
LAYERS: Final[Sequence[tuple[str, Sequence[str]]]] = (
    ("Redis limiter", ("/redis/", "/adapters/rate_limiter.py")),
    ("burst limiter", ("/adapters/burst_limiter.py",)),
    ("breaker", ("/pybreaker/", "/chassis/breaker.py")),
    ("tracing", ("/opentelemetry/", "/fastapi/telemetry/", "/telemetry/tracing.py")),
    ("metrics", ("/prometheus_client/",)),
    ("token, retry, call", ("/chassis/",)),
    ("authentication", ("/api_gateway/use_cases/", "/api_gateway/domain/")),
    ("admission, body limit", ("/rest/admission.py", "/rest/body_limit.py", "/rest/refusals.py")),
    ("database, Kafka", ("/sqlalchemy/", "/asyncpg/", "/confluent_kafka/")),
    ("gRPC", ("/grpc/",)),
    ("the answer", ("/rest/", "/adapters/", "/google/", "/pydantic/")),
    ("FastAPI, Starlette", ("/fastapi/", "/starlette/")),
    ("HTTP server", ("/uvicorn/",)),
)
OTHER: Final = "event loop, other"


def layer_of(files: Sequence[str]) -> str:
    """Return the layer of a stack, innermost file first."""
    for file in files:
        for name, marks in LAYERS:
            if any(mark in file for mark in marks):
                return name
    return OTHER


class _Sampler:
    def __init__(self, output: Path) -> None:
        self._output = output
        self._counts: Counter[str] = Counter()
        self._is_on = False

    def toggle(self, _number: int, _frame: FrameType | None) -> None:
        """Begin, or end and write."""
        self._is_on = not self._is_on
        interval_s = INTERVAL_S if self._is_on else 0.0
        signal.setitimer(signal.ITIMER_PROF, interval_s, interval_s)
        if not self._is_on:
            fresh = self._output.with_suffix(".part")
            fresh.write_text(json.dumps(self._counts))
            fresh.replace(self._output)

    def sample(self, _number: int, frame: FrameType | None) -> None:
        """Count the stack that was interrupted."""
        files = []
        while frame is not None:
            files.append(frame.f_code.co_filename)
            frame = frame.f_back
        self._counts[layer_of(files)] += 1


if __name__ == "__main__":
    sampler = _Sampler(Path(sys.argv.pop()))
    signal.signal(signal.SIGUSR1, sampler.toggle)
    signal.signal(signal.SIGPROF, sampler.sample)
    runpy.run_module("services.api_gateway", run_name="__main__")
