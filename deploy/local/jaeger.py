"""Jaeger for one stack: a given endpoint, an installed program, or one built from its module.

Owns: finding, building and starting the trace backend. The module holds only a placeholder for the
web page; its API answers, and wherever a full Jaeger is at hand a setting points to it.

Always holds: every listener is on loopback; the build happens once a checkout, pinned by go.sum.
"""

import hashlib
import os
import shutil
import subprocess
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import (
    Program,
    launch,
    require_alive,
    running,
    stack_environment,
    stop,
)
from deploy.local.state import CHECKOUT, State
from deploy.local.waiting import wait_until

PART: Final = "jaeger"
VERSION: Final = "1.76.0"

_MODULE: Final = CHECKOUT / "deploy" / "local" / "jaeger"
_PACKAGE: Final = "github.com/jaegertracing/jaeger/cmd/all-in-one"
_BUILD_MAX_S: Final = 900.0
_START_MAX_S: Final = 20.0
_PROGRESS_EVERY: Final = 100


@dataclass(frozen=True, slots=True)
class TraceBackend:
    """Where spans go in (OTLP over gRPC) and where traces are asked for (HTTP)."""

    otlp_endpoint: str
    query_url: str


def given() -> TraceBackend | None:
    """Return the backend that the environment names, if it names one: then none is started."""
    otlp, query = (os.environ.get(f"MODELYARD_TRACE_{name}") for name in ("OTLP", "QUERY"))
    if bool(otlp) != bool(query):
        raise StackError("Set both MODELYARD_TRACE_OTLP and MODELYARD_TRACE_QUERY, or neither.")
    return TraceBackend(otlp, query) if otlp and query else None


def start(state: State) -> TraceBackend:
    """Start or adopt the backend and return its addresses."""
    if (backend := given()) is not None:
        return backend
    if (record := running(state, PART)) is None:
        ports = {name: port_of(state, f"{PART}-{name}") for name in _LISTENERS}
        record = launch(
            state,
            Program(
                part=PART,
                command=[
                    str(find_program(state)),
                    *(f"--{flag}={LOOPBACK}:{ports[name]}" for name, flag in _LISTENERS.items()),
                    "--memory.max-traces=50000",
                ],
                address=f"{LOOPBACK}:{ports['query']}",
                environment=stack_environment(state) | {"SPAN_STORAGE_TYPE": "memory"},
                folder=state.folder(PART),
                stop_grace_s=1.0,  # its orderly end takes 6-15 s and keeps nothing
            ),
        )

    def ready() -> bool:
        require_alive(record, part=PART)
        return is_healthy(record.address)

    wait_until(ready, within_s=_START_MAX_S, otherwise=f"Jaeger is not ready, see {record.log}")
    return backend_of(state)


_LISTENERS: Final = {
    "otlp": "collector.otlp.grpc.host-port",
    "otlp-http": "collector.otlp.http.host-port",
    "query": "query.http-server.host-port",
    "query-grpc": "query.grpc-server.host-port",
    "collector-grpc": "collector.grpc-server.host-port",
    "collector-http": "collector.http-server.host-port",
    "admin": "admin.http.host-port",
}


def backend_of(state: State) -> TraceBackend:
    """Return the addresses of the running backend."""
    if (backend := given()) is not None:
        return backend
    ports = state.read().ports
    return TraceBackend(
        otlp_endpoint=f"http://{LOOPBACK}:{ports[f'{PART}-otlp']}",
        query_url=f"http://{LOOPBACK}:{ports[f'{PART}-query']}",
    )


def halt(state: State) -> bool:
    """Stop the backend; the traces in its memory are gone then."""
    return stop(state, PART)


def is_healthy(address: str) -> bool:
    """Return whether the query API answers."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/services", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def find_program(state: State) -> Path:
    """Return the program: installed, built earlier, or built now by the Go toolchain."""
    if found := shutil.which("jaeger-all-in-one"):
        return Path(found)
    digest = hashlib.sha256(
        b"".join((_MODULE / name).read_bytes() for name in ("go.mod", "go.sum"))
    ).hexdigest()[:12]
    with state.tool(PART) as folder:
        program = folder / f"jaeger-{VERSION}-{digest}"
        if not program.exists():
            _build(program)
    return program


def _build(program: Path) -> None:
    if shutil.which("go") is None:
        raise StackError(
            "The trace backend is missing: install Go (it is built once), or put "
            "`jaeger-all-in-one` on PATH, or set MODELYARD_TRACE_OTLP and MODELYARD_TRACE_QUERY "
            "to a running Jaeger."
        )
    print(f"Building Jaeger {VERSION} with the Go toolchain (2-4 min, once).", flush=True)
    fresh = program.with_suffix(".new")
    command = [
        "go",
        "build",
        "-v",
        "-mod=readonly",
        "-trimpath",
        "-ldflags=-s -w",
        "-o",
        str(fresh),
    ]
    build = subprocess.Popen(
        [*command, _PACKAGE],
        cwd=_MODULE,
        env=os.environ | {"CGO_ENABLED": "0"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    limit = threading.Timer(_BUILD_MAX_S, build.kill)
    limit.start()
    last_lines: list[str] = []
    try:
        assert build.stderr is not None
        for count, line in enumerate(build.stderr, start=1):
            last_lines = [*last_lines[-3:], line.strip()]
            if count % _PROGRESS_EVERY == 0:
                print(f"  {count} packages, now {line.strip()}", flush=True)
        build.wait()
    finally:
        limit.cancel()
        build.kill()
        build.communicate()
    if build.returncode != 0:
        raise StackError(f"Building Jaeger failed ({build.returncode}): {' | '.join(last_lines)}")
    fresh.rename(program)
