"""All parts together: up, down and how they are.

Owns: the order of parts and what "everything is down" means. Each part's module knows the rest.

Always holds: `up` adopts what runs and starts what doesn't; `down` ends exactly what was started
here, then whatever runs on behalf of it, and leaves neither process nor port.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from deploy.local import environments, jaeger, kafka, postgres, redis, services
from deploy.local.errors import StackError
from deploy.local.jaeger import TraceBackend
from deploy.local.processes import STACK_MARK, STATE_MARK, end_marked, is_alive, running, stop
from deploy.local.state import State

INFRASTRUCTURE: Final = (postgres.PART, redis.PART, jaeger.PART, kafka.PART)
MODEL_ENVIRONMENT: Final = "sklearn"
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


def up(state: State) -> str:
    """Start or adopt everything; return the gateway's address."""
    with state.command():
        model_environment = environments.ensure(state, MODEL_ENVIRONMENT)
        infra = _infra_up(state)
        return services.start(
            services.Surroundings(
                state=state,
                kafka=infra.kafka,
                redis=infra.redis,
                traces=infra.traces,
                model_environment=model_environment,
            )
        )


def down(state: State, *, tenant_grace_s: float = _TENANT_GRACE_S) -> list[str]:
    """Stop everything in reverse order; return the names of the parts that ran."""
    if not state.root.exists():
        return []
    with state.command():
        stopped = services.halt(state)
        # Tenants' work outlives its services by design; here nothing would look after it any more.
        if end_marked(STATE_MARK, state, grace_s=tenant_grace_s):
            stopped.append("containers")
        stopped += [part for part in reversed(list(state.read().processes)) if stop(state, part)]
        end_marked(STACK_MARK, state, grace_s=_TENANT_GRACE_S)
        return stopped


def status(state: State) -> Sequence[PartStatus]:
    """Look at every part, asking each one itself."""
    return [_status_of(state, part) for part in (*INFRASTRUCTURE, *services.NAMES)]


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
    down(state)
    if any(running(state, part) for part in state.read().processes):
        raise StackError("Parts still run: run `make down` again.")
    state.clean()
