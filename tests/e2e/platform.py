"""One running stack, as its users and its operator meet it.

Owns: asking it through the public API and the command line, and doing to its processes what an
operator or bad luck would. Leaves to `tests.support.platform` its start and its end, and to `bench`
the jobs of a test. Always holds: whoever is killed here is gone when the call returns.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
from modelyard.client import Client

from deploy.local import processes, services, stack
from deploy.local.ports import port_of
from deploy.local.state import State
from tests.support import schedulers
from tests.support.eventually import until
from tests.support.platform import Platform as RunningPlatform

LOCALHOST: Final = "127.0.0.1"
CPU_MILLICORES: Final = services.cpu_millicores()
"""All that the one node has."""
ANOTHER_SCHEDULER: Final = "another_scheduler"
COMMAND: Final = str(Path(sys.prefix) / "bin" / "modelyard")
_COMMAND_S_MAX: Final = 120.0
_END_S_MAX: Final = 60.0
"""More than all stages of a shutdown may take."""


@dataclass(frozen=True, slots=True)
class Platform:
    """The stack of a test run, and what its users and its operator do."""

    running: RunningPlatform

    @property
    def state(self) -> State:
        """The stack's folder."""
        return self.running.state

    # As a user

    def client(self, api_key: str | None = None, **options: Any) -> Client:
        """Return the SDK's client."""
        return Client(self.running.url, api_key or self.running.api_key, **options)

    def http(self, api_key: str | None = None, *, source: str = LOCALHOST) -> httpx.Client:
        """Return a bare client, which repeats nothing; an empty key stands for none at all."""
        key = self.running.api_key if api_key is None else api_key
        return httpx.Client(
            base_url=self.running.url,
            headers={"Authorization": f"Bearer {key}"} if key else {},
            transport=httpx.HTTPTransport(local_address=source),
            timeout=30,
        )

    def cli(
        self, *arguments: str, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [COMMAND, *arguments],
            env=self.cli_environment() | environment,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S_MAX,
        )

    def cli_environment(self) -> dict[str, str]:
        """Return what the command line finds the platform by."""
        return os.environ | {
            "MODELYARD_URL": self.running.url,
            "MODELYARD_API_KEY": self.running.api_key,
            "MODELYARD_OTLP_ENDPOINT": self.running.otlp_endpoint,
            "MODELYARD_JAEGER_URL": self.running.jaeger_url,
            "MODELYARD_OPERATIONS": "",
        }

    # As its operator

    def create_tenant(self, name: str) -> str:
        """Make a tenant; return its first key."""
        return self.operate("create-tenant", name)

    def operate(self, *arguments: str) -> str:
        """Run a command of the gateway's beside it; return what it prints."""
        return processes.run_tool(
            [sys.executable, "-m", "services.api_gateway", *arguments],
            needed_for="which operates the gateway",
            within_s=_COMMAND_S_MAX,
            environment=self.environment_of("api_gateway"),
        ).strip()

    def environment_of(self, part: str) -> dict[str, str]:
        """Return the environment that a running part was started with."""
        return processes.environment_of(self.pid_of(part))

    def pid_of(self, part: str) -> int:
        """Return the process that is a part."""
        record = processes.running(self.state, part)
        assert record is not None, f"{part} does not run"
        return record.pid

    def address_of(self, part: str) -> str:
        """Return where a part listens."""
        return self.state.read().processes[part].address

    def end(self, part: str, how: signal.Signals = signal.SIGKILL) -> None:
        """Send a part a signal and return when its process is gone."""
        with self.ending(part, how):
            pass

    @contextmanager
    def ending(self, part: str, how: signal.Signals = signal.SIGTERM) -> Iterator[None]:
        """Run the block while a part ends, and return when its process is gone."""
        record = processes.running(self.state, part)
        assert record is not None, f"{part} does not run"
        os.kill(record.pid, how)
        yield
        until(
            lambda: not processes.is_alive(record),
            what=f"{part} ends after {how.name}",
            within_s=_END_S_MAX,
        )

    def is_ready(self, service: str) -> bool:
        """Return whether a service says that it takes work."""
        return services.is_healthy(self.address_of(service))

    def start_again(self) -> None:
        """Start whatever does not run; all of it is found where it was.

        Returns once each service answers through the gateway, whose breakers may have opened.
        """
        again = stack.up(self.state, self.running.wish)
        assert f"http://{again.gateway}" == self.running.url
        with self.client(tries_max=30) as client:
            client.models()
            for job in client.jobs(limit=1):
                next(client.logs(job.id), None)

    @contextmanager
    def another_gateway(self, **settings: str) -> Iterator[str]:
        """Run a second gateway with settings of its own, counting alone; give its address."""
        environment = self.environment_of("api_gateway")
        del environment["MODELYARD_REDIS__URL"]
        environment["MODELYARD_GRPC__PORT"] = "0"
        address = f"{LOCALHOST}:{port_of(self.state, 'another_gateway.http')}"
        environment["MODELYARD_HTTP__PORT"] = address.rsplit(":", 1)[1]
        processes.launch(
            self.state,
            processes.Program(
                part="another_gateway",
                command=[sys.executable, "-m", "services.api_gateway"],
                address=address,
                environment=environment | _named(settings),
                folder=self.state.folder("another_gateway"),
            ),
        )
        try:
            until(lambda: services.is_healthy(address), what="the second gateway is ready")
            yield f"http://{address}"
        finally:
            processes.stop(self.state, "another_gateway")

    @contextmanager
    def scheduler_with(self, **settings: str) -> Iterator[None]:
        """Let the scheduler run with other settings for the length of the block."""
        environment = self.environment_of("scheduler") | _named(settings)
        processes.stop(self.state, schedulers.FIRST)
        schedulers.start(self.state, schedulers.FIRST, environment)
        try:
            yield
        finally:
            self.start_again()

    def another_scheduler(self, node_id: str, **settings: str) -> dict[str, str]:
        """Return the environment of a second scheduler, with a node of its own."""
        folder = self.state.folder(ANOTHER_SCHEDULER)
        own = {
            "GRPC__PORT": "0",
            "OPERATIONS__PORT": str(port_of(self.state, f"{ANOTHER_SCHEDULER}.operations")),
            "RUNNER__NODE_ID": node_id,
            "RUNNER__NODE_CACHE_ROOT": str(folder / "node-cache"),
            "RUNTIME__CONTAINERS_ROOT": str(folder / "containers"),
        }
        return self.environment_of("scheduler") | _named(own) | _named(settings)

    def start_another_scheduler(self, node_id: str, **settings: str) -> None:
        """Start a second scheduler, with a node of its own, or start it again."""
        environment = self.another_scheduler(node_id, **settings)
        schedulers.start(self.state, ANOTHER_SCHEDULER, environment)

    def stop_another_scheduler(self) -> None:
        """Stop it, if it runs."""
        processes.stop(self.state, ANOTHER_SCHEDULER)

    @contextmanager
    def second_scheduler(self) -> Iterator[Mapping[str, str]]:
        """Run a replica of the scheduler, a runner of the same node; give its environment."""
        with schedulers.second_scheduler(self.state) as environment:
            yield environment

    def down(self) -> None:
        """Stop everything, as `make down` does."""
        stack.down(self.state)


def _named(settings: dict[str, str]) -> dict[str, str]:
    return {f"MODELYARD_{name}": value for name, value in settings.items()}


SERVICES: Final = services.NAMES
