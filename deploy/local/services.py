"""The four services as processes of one stack.

Owns: which environment variables each one gets (the table below is the whole of it), their order of
start, and the operator's first key. Leaves to each service what it does with its settings.

Always holds: a service sees its own database, folder and key only; a running service whose settings
are no longer the wanted ones is restarted.
"""

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.local import identity, postgres
from deploy.local.errors import StackError
from deploy.local.jaeger import TraceBackend
from deploy.local.own_settings import refuse_wrong
from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import (
    CALLERS,
    STATE_MARK,
    Program,
    base_environment,
    environment_of,
    launch,
    require_alive,
    run_tool,
    running,
    stop,
)
from deploy.local.runtimes import Runtime
from deploy.local.state import ProcessRecord, State, write_private
from deploy.local.waiting import wait_until

NAMES: Final = ("model_registry", "scheduler", "log_collector", "api_gateway")
"""In the order of their start: what is called comes before who calls."""

NODE_ID: Final = "local"
"""The one node of the stack."""
_MIGRATE_MAX_S: Final = 120.0
_READY_MAX_S: Final = 90.0
_CORES_MIN: Final = 4
_MAY_BE_CHANGED: Final = frozenset(
    {"TELEMETRY__LOG_LEVEL", "RUNNER__CPU_MILLICORES", "RUNNER__MEMORY_BYTES"}
)
"""Of what the stack tells a service. The rest holds the parts together."""
_NEVER_TOLD: Final = frozenset({"STATE_ROOT", "RUNTIME__KIND", "RUNTIME__URL"})
"""The stack's own, also where it leaves them out."""
_STOP_GRACE_S: Final = 45.0
"""Longer than a service's own bounds on its stages of shutdown."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the services share: addresses of the parts, and folders."""

    state: State
    kafka: str
    redis: str
    traces: TraceBackend
    runtime: Runtime
    more: Mapping[str, Mapping[str, str]]
    """Settings by service that the operator wishes for, beside the stack's own."""

    def port(self, name: str) -> int:
        """Return a service's port; the one it listens on, when it runs."""
        record = self.state.read()
        service = name.rsplit(".", 1)[0]
        if name in record.ports and running(self.state, service):
            return record.ports[name]
        return port_of(self.state, name)


def environment_table(around: Surroundings) -> Mapping[str, Mapping[str, str]]:
    """Return each service's settings, without their prefix `MODELYARD_`.

    Raises StackError where the operator wishes for another value of what is the stack's own.
    """
    state = around.state
    ports = {name: str(around.port(name)) for service in NAMES for name in _port_names(service)}
    grpc = {name: f"{LOOPBACK}:{ports[f'{name}.grpc']}" for name in NAMES}
    own: Mapping[str, Mapping[str, str]] = {
        "model_registry": {
            "ARTIFACTS__ROOT": str(state.folder("model_registry", "artifacts")),
        },
        "scheduler": {
            "REGISTRY__ADDRESS": grpc["model_registry"],
            **around.runtime.settings,
            "RUNNER__NODE_CACHE_ROOT": str(state.folder("scheduler", "node-cache")),
            "RUNNER__NODE_ID": NODE_ID,
            "RUNNER__CPU_MILLICORES": str(cpu_millicores()),
            "RUNNER__MEMORY_BYTES": str(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        },
        "log_collector": {
            "COLLECT__CONTAINERS_ROOT": str(around.runtime.logs_root),
            "STORE__ROOT": str(state.folder("log_collector", "segments")),
        },
        "api_gateway": {
            "HTTP__HOST": LOOPBACK,
            "HTTP__PORT": ports["api_gateway.http"],
            "SCHEDULER__ADDRESS": grpc["scheduler"],
            "REGISTRY__ADDRESS": grpc["model_registry"],
            "LOGS__ADDRESS": grpc["log_collector"],
            "REDIS__URL": around.redis,
        },
    }

    def shared(service: str) -> Mapping[str, str]:
        inside = (
            {}
            if service == "api_gateway"
            else {
                "GATEWAY__ADDRESS": grpc["api_gateway"],
                "OPERATIONS__HOST": LOOPBACK,
                "OPERATIONS__PORT": ports[f"{service}.operations"],
            }
        )
        return {
            **inside,
            "GRPC__HOST": LOOPBACK,
            "GRPC__PORT": ports[f"{service}.grpc"],
            "POSTGRES__URL": postgres.service_url(state, service),
            "KAFKA__BOOTSTRAP_SERVERS": around.kafka,
            "IDENTITY__PRIVATE_KEY_FILE": str(identity.ensure_key(state, service)),
            "IDENTITY__TRUSTED_KEYS_FOLDER": str(identity.trusted_keys_folder(state)),
            "TELEMETRY__OTLP_ENDPOINT": around.traces.otlp_endpoint,
            "TELEMETRY__LOG_LEVEL": "INFO",
        }

    table = {service: {**shared(service), **own[service]} for service in NAMES}
    for service, wished in around.more.items():
        stacks = (table[service].keys() | _NEVER_TOLD) - _MAY_BE_CHANGED
        if taken := sorted(wished.keys() & stacks):
            named = ", ".join(f"MODELYARD_{name}" for name in taken)
            raise StackError(f"{named} of {service} is the local stack's own: leave it out.")
        table[service] |= wished
    return table


def cpu_millicores() -> int:
    """Return what the one node books: a small machine, too, runs a few containers at a time."""
    return 1000 * max(_CORES_MIN, os.cpu_count() or 1)


def start(around: Surroundings) -> str:
    """Start or adopt all services, their databases first; return the gateway's address.

    Raises StackError for settings that a service could not read, before any is stopped.
    """
    state = around.state
    table = environment_table(around)
    refuse_wrong(state, around.more, table)
    wanted = {
        service: base_environment()
        | {"PYTHONUNBUFFERED": "1", STATE_MARK: str(state.root)}
        | {f"MODELYARD_{name}": value for name, value in settings.items()}
        for service, settings in table.items()
    }
    stale = [name for name in NAMES if not runs_with(state, name, wanted[name])]
    if stale:
        print(f"Starting {', '.join(stale)}, databases first (10-30 s).", flush=True)
    for service in reversed(stale):
        stop(state, service)
    with ThreadPoolExecutor(max_workers=len(NAMES)) as pool:
        list(pool.map(lambda service: _migrate(state, service, wanted[service]), stale))
    if "api_gateway" in stale:  # one that runs was started after its first key was made
        _ensure_first_key(state, wanted["api_gateway"])
    for service in stale:
        _launch(state, service, wanted[service])
    for service in NAMES:
        _wait_ready(state, service)
    gateway = state.read().processes["api_gateway"].address
    _write_cli_settings(around, gateway)
    return gateway


def halt(state: State) -> list[str]:
    """Stop the services, callers before the called; return the names of those that ran."""
    return [service for service in reversed(NAMES) if stop(state, service)]


def is_healthy(address: str) -> bool:
    """Return whether a service says that it can serve."""
    try:
        with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def _port_names(service: str) -> list[str]:
    return [f"{service}.grpc", _health_port_name(service)]


def _health_port_name(service: str) -> str:
    return f"{service}.http" if service == "api_gateway" else f"{service}.operations"


def _command(service: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", f"services.{service}", *arguments]


def runs_with(state: State, service: str, wanted: Mapping[str, str]) -> bool:
    """Tell whether a service runs with these settings, whatever shell began it."""
    record = running(state, service)
    return record is not None and _settings(environment_of(record.pid)) == _settings(wanted)


def _settings(environment: Mapping[str, str]) -> Mapping[str, str]:
    return {name: value for name, value in environment.items() if name not in CALLERS}


def _migrate(state: State, service: str, environment: Mapping[str, str]) -> None:
    run_tool(
        _command(service, "migrate"),
        needed_for=f"which brings the database of {service} up to date",
        within_s=_MIGRATE_MAX_S,
        environment=environment,
        folder=state.folder(service),
    )


def _ensure_first_key(state: State, environment: Mapping[str, str]) -> None:
    """Make the tenant `default`; its key is printed at the first time only, and kept here."""
    key = run_tool(
        _command("api_gateway", "init"),
        needed_for="which makes the first tenant",
        within_s=_MIGRATE_MAX_S,
        environment=environment,
        folder=state.folder("api_gateway"),
    ).strip()
    if key:
        write_private(credentials_file(state), f"{key.splitlines()[-1]}\n".encode())


def credentials_file(state: State) -> Path:
    """Return the file with the first key of the tenant `default`."""
    return state.root / "credentials"


def _launch(state: State, service: str, environment: Mapping[str, str]) -> ProcessRecord:
    health_port = state.read().ports[_health_port_name(service)]
    return launch(
        state,
        Program(
            part=service,
            command=_command(service),
            address=f"{LOOPBACK}:{health_port}",
            environment=environment,
            folder=state.folder(service),
            stop_grace_s=_STOP_GRACE_S,
        ),
    )


def _wait_ready(state: State, service: str) -> None:
    record = state.read().processes[service]

    def ready() -> bool:
        require_alive(record, part=service)
        return is_healthy(record.address)

    wait_until(ready, within_s=_READY_MAX_S, otherwise=f"{service} is not ready, see {record.log}")


def _write_cli_settings(around: Surroundings, gateway: str) -> None:
    """Write what the `modelyard` command reads, so that it works from the checkout as it is."""
    file = credentials_file(around.state)
    records = around.state.read().processes
    operations = {name: records[name].address for name in NAMES if name != "api_gateway"}
    settings = {
        "MODELYARD_URL": f"http://{gateway}",
        "MODELYARD_API_KEY": file.read_text().strip() if file.exists() else "",
        "MODELYARD_OTLP_ENDPOINT": around.traces.otlp_endpoint,
        "MODELYARD_JAEGER_URL": around.traces.query_url,
        "MODELYARD_OPERATIONS": ",".join(
            f"{name}=http://{address}" for name, address in operations.items()
        ),
    }
    lines = "".join(f"{name}={value}\n" for name, value in settings.items())
    write_private(around.state.root / "cli.env", lines.encode())
