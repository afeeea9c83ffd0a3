"""The page `docs/state-machines.md`, from the tables that the code moves by.

`python -m tests.unit.scheduler.state_machines_page` writes it anew.
"""

from collections.abc import Mapping, Set
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import services.scheduler
from services.scheduler.domain.attempts import attempt
from services.scheduler.domain.deployments import deployment, replica
from services.scheduler.domain.jobs import job

PAGE: Final = Path(services.scheduler.__file__).parents[2] / "docs" / "state-machines.md"

State = TypeVar("State", bound=StrEnum)

_INTRODUCTION: Final = """# State machines

Generated from the tables in `services/scheduler/domain`; a test fails when this page is stale.
A state without a way out is terminal. Only the tables decide: nobody assigns a state.
"""


def render() -> str:
    """Return the whole page."""
    sections = (
        _section("Job", "jobs/job.py", job.TRANSITIONS),
        _section("Array of jobs", "jobs/job.py", job.ARRAY_TRANSITIONS),
        _section("Attempt", "attempts/attempt.py", attempt.TRANSITIONS),
        _section("Deployment", "deployments/deployment.py", deployment.TRANSITIONS),
        _section("Replica", "deployments/replica.py", replica.TRANSITIONS),
    )
    return "\n".join([_INTRODUCTION, *sections])


def _section(title: str, file: str, table: Mapping[State, Set[State]]) -> str:
    moves = [f"    {state} --> {to}" for state, targets in table.items() for to in sorted(targets)]
    diagram = "\n".join(["```mermaid", "stateDiagram-v2", *moves, "```"])
    return f"## {title}\n\n`services/scheduler/domain/{file}`\n\n{diagram}\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
