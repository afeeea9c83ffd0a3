"""What befalls the services meanwhile: they are killed, frozen and made to leave, by a seed.

A second scheduler shares the first one's database and node, so that leaders change: whoever is
frozen for longer than a lease finds that the other one has it.

Owns: which process is struck when, and that all of them run when the block is left.
"""

import contextlib
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from random import Random
from typing import Final

from deploy.local import processes
from deploy.local.ports import LOOPBACK, port_of
from tests.e2e.platform import SERVICES, Platform
from tests.support.eventually import until

HEIR: Final = "another_scheduler"
_FROZEN_S_MAX: Final = 14.0
"""Longer than the longest lease."""
_READY_S_MAX: Final = 60.0


@dataclass(slots=True)
class Trouble:
    """Strikes one process after another."""

    platform: Platform
    chance: Random
    pause_s: float
    strikes: Counter[str] = field(default_factory=Counter)
    """How often each process was struck in which way."""

    @property
    def kill_count(self) -> int:
        """Return how many were killed."""
        return sum(count for name, count in self.strikes.items() if name.endswith(" killed"))

    def strike_on(self, over: threading.Event) -> None:
        """Strike until told."""
        while not over.wait(self.chance.uniform(0.5, 1.5) * self.pause_s):
            part = self.chance.choice((*SERVICES, HEIR))
            if self.chance.random() < 0.3:
                self._freeze(part, over)
            else:
                self._end(
                    part, self.chance.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
                )

    def _freeze(self, part: str, over: threading.Event) -> None:
        pid = self.platform.pid_of(part)
        os.kill(pid, signal.SIGSTOP)
        try:
            over.wait(self.chance.uniform(1.0, _FROZEN_S_MAX))
        finally:
            os.kill(pid, signal.SIGCONT)
        self.strikes[f"{part} frozen"] += 1

    def _end(self, part: str, how: signal.Signals) -> None:
        program = program_of(self.platform, part)
        self.platform.end(part, how)
        processes.launch(self.platform.state, program)
        until(lambda: self.platform.is_ready(part), what=f"{part} is ready", within_s=_READY_S_MAX)
        self.strikes[f"{part} {'killed' if how is signal.SIGKILL else 'left'}"] += 1


def program_of(platform: Platform, part: str) -> processes.Program:
    """Return how a service that runs was started."""
    service = "scheduler" if part == HEIR else part
    return processes.Program(
        part=part,
        command=[sys.executable, "-m", f"services.{service}"],
        address=platform.address_of(part),
        environment=platform.environment_of(part),
        folder=platform.state.folder(part),
    )


@contextlib.contextmanager
def heir_beside(platform: Platform) -> Iterator[None]:
    """Run a second scheduler on the first one's node while the block runs."""
    ports = {name: port_of(platform.state, f"{HEIR}.{name}") for name in ("grpc", "operations")}
    processes.launch(
        platform.state,
        processes.Program(
            part=HEIR,
            command=[sys.executable, "-m", "services.scheduler"],
            address=f"{LOOPBACK}:{ports['operations']}",
            environment=platform.environment_of("scheduler")
            | {f"MODELYARD_{name.upper()}__PORT": str(port) for name, port in ports.items()},
            folder=platform.state.folder(HEIR),
        ),
    )
    try:
        until(lambda: platform.is_ready(HEIR), what=f"{HEIR} is ready", within_s=_READY_S_MAX)
        yield
    finally:
        processes.stop(platform.state, HEIR)


@contextlib.contextmanager
def trouble_for(platform: Platform, chance: Random, *, pause_s: float) -> Iterator[Trouble]:
    """Strike while the block runs; afterwards all services run."""
    trouble, over = Trouble(platform, chance, pause_s), threading.Event()
    with heir_beside(platform), ThreadPoolExecutor(max_workers=1) as pool:
        striking = pool.submit(trouble.strike_on, over)
        try:
            yield trouble
        finally:
            over.set()
            striking.result()
    platform.start_again()
