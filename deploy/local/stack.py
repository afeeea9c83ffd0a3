"""All parts together: up, down and how they are.

Owns: the order of parts and what "everything is down" means. Each part's module knows the rest.

Always holds: `up` adopts what runs and starts what doesn't; `down` ends exactly what was started
here, then whatever runs on behalf of it, and leaves neither process nor port.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from deploy.local import (
    environments,
    jaeger,
    kafka,
    own_engine,
    pause,
    postgres,
    redis,
    runtimes,
    services,
)
from deploy.local.engine import Engine
from deploy.local.errors import StackError
from deploy.local.jaeger import TraceBackend
from deploy.local.own_engine import OwnEngine
from deploy.local.processes import STACK_MARK, STATE_MARK, end_marked, is_alive, running, stop
from deploy.local.runtimes import MODEL_ENVIRONMENT, Runtime, Wish
from deploy.local.state import State

INFRASTRUCTURE: Final = (postgres.PART, redis.PART, jaeger.PART, kafka.PART)
_TENANT_GRACE_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Infrastructure:
    """Addresses of the parts that services stand on."""

    postgres: postgres.PostgresServer
    kafka: str
    redis: str
    traces: TraceBackend


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of `status`; `pid` is None for what doesn't run, or runs elsewhere."""

    part: str
    pid: int | None
    address: str
    health: str
    log: str

    @property
    def is_up(self) -> bool:
        """Return whether the part runs and answers."""
        return self.health == "healthy"


def prepare(state: State) -> None:
    """Fetch and build everything that the first start would, so that later ones take seconds."""
    postgres.find_installation()
    redis.find_server()
    kafka.find_java(state)
    kafka.fetch_jars(state)
    if jaeger.given() is None:
        jaeger.find_program(state)
    environments.ensure(state, MODEL_ENVIRONMENT)


def infra_up(state: State) -> Infrastructure:
    """Start or adopt PostgreSQL, Redis, Kafka and Jaeger side by side."""
    with state.command():
        return _infra_up(state)


def _infra_up(state: State) -> Infrastructure:
    if missing := [part for part in INFRASTRUCTURE if running(state, part) is None]:
        print(f"Starting {', '.join(missing)} (10-20 s beside what is fetched).", flush=True)
    with ThreadPoolExecutor(max_workers=len(INFRASTRUCTURE)) as pool:
        database = pool.submit(_start_postgres, state)
        broker = pool.submit(_start_kafka, state)
        cache = pool.submit(redis.start, state)
        traces = pool.submit(jaeger.start, state)
    return Infrastructure(database.result(), broker.result(), cache.result(), traces.result())


def _start_postgres(state: State) -> postgres.PostgresServer:
    server = postgres.start(state)
    postgres.provision(state, server)
    return server


def _start_kafka(state: State) -> str:
    address = kafka.start(state)
    kafka.ensure_topics(address, kafka.declared_topics())
    return address


@dataclass(frozen=True, slots=True)
class Running:
    """A stack that is up."""

    gateway: str
    """Address of the public API."""
    runtime: Runtime


def up(state: State, wish: Wish) -> Running:
    """Start or adopt everything."""
    with state.command():
        infra = _infra_up(state)
        runtime = runtimes.choose(state, wish)
        gateway = services.start(
            services.Surroundings(
                state=state,
                kafka=infra.kafka,
                redis=infra.redis,
                traces=infra.traces,
                runtime=runtime,
                more=wish.settings,
            )
        )
        pause.reopen(state)
        return Running(gateway, runtime)


def down(
    state: State, *, tenant_grace_s: float = _TENANT_GRACE_S, keeps_data: bool = True
) -> list[str]:
    """Stop everything in reverse order; return the names of the parts that ran.

    What runs goes back in line before, unless its job goes with the data.
    """
    if not state.root.exists():
        return []
    with state.command():
        if keeps_data:
            pause.drain(state)
        stopped = services.halt(state)
        # Tenants' work outlives its services by design; here nothing would look after it any more.
        if end_marked(STATE_MARK, state, grace_s=tenant_grace_s):
            stopped.append("containers")
        stopped += [part for part in reversed(list(state.read().processes)) if stop(state, part)]
        end_marked(STACK_MARK, state, grace_s=_TENANT_GRACE_S)
        if runtimes.release(state) and "containers" not in stopped:
            stopped.append("containers")
        return stopped


def status(state: State) -> Sequence[PartStatus]:
    """Look at every part, asking each one itself."""
    parts = [_status_of(state, part) for part in (*INFRASTRUCTURE, *services.NAMES)]
    return [_engine_status(state), *parts] if state.read().engine else parts


def _engine_status(state: State) -> PartStatus:
    url = state.read().engine
    health = "healthy" if Engine(url).answers() else "unhealthy"
    own = OwnEngine.of(state.tools)
    if url != own.engine.url:
        return PartStatus(own_engine.PART, None, url, health, "(of this machine)")
    record = own.record
    if record is None:
        return PartStatus(own_engine.PART, None, url, "died", str(own.log))
    return PartStatus(own_engine.PART, record.pid, url, health, record.log)


def _status_of(state: State, part: str) -> PartStatus:
    backend = jaeger.given() if part == jaeger.PART else None
    if backend is not None:
        health = "healthy" if jaeger.is_healthy(backend.query_url.split("//")[-1]) else "unhealthy"
        return PartStatus(part, None, backend.query_url, health, "(given by the environment)")
    record = state.read().processes.get(part)
    if record is None:
        return PartStatus(part, None, "-", "stopped", "-")
    if not is_alive(record):
        return PartStatus(part, None, record.address, "died", record.log)
    health = "healthy" if _check(state, part)(record.address) else "unhealthy"
    return PartStatus(part, record.pid, record.address, health, record.log)


def _check(state: State, part: str) -> Callable[[str], bool]:
    match part:
        case postgres.PART:
            return lambda address: postgres.is_healthy(state, address)
        case redis.PART:
            return lambda address: redis.is_healthy(state, address)
        case kafka.PART:
            return kafka.is_healthy
        case jaeger.PART:
            return jaeger.is_healthy
        case _:
            return services.is_healthy


def clean(state: State) -> None:
    """Stop everything and remove the stack's data, but not what was fetched or built."""
    down(state, keeps_data=False)
    if any(running(state, part) for part in state.read().processes):
        raise StackError("Parts still run: run `make down` again.")
    state.clean()
