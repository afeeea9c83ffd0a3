"""Whatever moves has a step at which a service can die while it does (ADR-0031).

The crash matrix reads its steps from the code. Here is checked that no transition slips through: a
use case that publishes a fact or moves a state does so in a unit of work that is a step.
"""

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.e2e.crash.steps import (
    COMMANDS,
    PORTS,
    ROOT,
    SERVICES,
    called_in,
    committers_in,
    committers_of,
    functions_in,
    named,
    steps_of,
    use_case_files,
)

DOORS: Final = ("move", "_moved")
"""A state machine's one door (style: a state machine is a table and one door)."""


def doors_of(service: str) -> set[str]:
    """Return the domain's functions that move a state, by their last names."""
    bodies: dict[str, ast.AST] = {}
    for file in sorted((ROOT / "services" / service / "domain").rglob("*.py")):
        bodies |= {f"{file}:{name}": body for name, body in functions_in(file).items()}
    return {last(name) for name in closed_over(bodies, set(DOORS))} - set(DOORS)


def closed_over(bodies: Mapping[str, ast.AST], reached: set[str]) -> set[str]:
    """Return the functions that call one of the reached, directly or by one another's names."""
    found: set[str] = set()
    while more := {
        name for name, body in bodies.items() if name not in found and called_in(body) & reached
    }:
        found |= more
        reached = reached | {last(name) for name in more if last(name).startswith("_")}
    return found


def last(name: str) -> str:
    return name.rsplit(".", 1)[-1].rsplit(":", 1)[-1]


def movers_of(service: str) -> Iterator[tuple[Path, str]]:
    """Yield the functions of use cases that move a state or publish a fact."""
    doors = doors_of(service) | {"emit"}
    for file in use_case_files(service):
        for name, body in functions_in(file).items():
            if asked_of_values_in(body) & doors and file.name != "ports.py":
                yield file, name


def asked_of_values_in(body: ast.AST) -> set[str]:
    """Return the methods that are called on what the use case was not made with."""
    return {
        node.func.attr
        for node in ast.walk(body)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and not ast.unparse(node.func).startswith("self.")
    }


def called_in_steps_of(service: str) -> set[str]:
    """Return the names of all that use cases call inside a step's transaction.

    By last names: a function that bears the name of one that is called there counts, too.
    """
    bodies = {
        f"{file}:{name}": body
        for file in use_case_files(service)
        for name, body in functions_in(file).items()
    }
    commits = {
        f"{file}:{name}"
        for file in use_case_files(service)
        for name in functions_in(file)
        if named(name) in committers_in(file)
    }
    called: set[str] = set()
    while (
        more := {
            each
            for name, body in bodies.items()
            if name in commits or last(name) in called
            for each in called_in(body)
        }
        - called
    ):
        called |= more
    return called


@pytest.mark.parametrize("service", SERVICES)
def test_every_transition_is_in_a_step(service: str) -> None:
    called = called_in_steps_of(service)
    outside = [
        f"{file.relative_to(ROOT)}: {name}"
        for file, name in movers_of(service)
        if named(name) not in committers_in(file) and last(name) not in called
    ]
    assert outside == []


def test_scheduler_moves_jobs_attempts_and_deployments() -> None:
    """The search finds what it is to find: else the test above would hold of nothing."""
    doors = doors_of("scheduler")
    assert {"admitted", "running", "succeeded", "failed", "cancelled", "retried"} <= doors
    assert {"started", "exited", "lost", "closed", "asked_to_delete", "deleted", "placed"} <= doors
    movers = {name for _, name in movers_of("scheduler")}
    assert {"RecordAttempt.started", "RunSchedulingCycle._admit", "CancelJob.__call__"} <= movers


@pytest.mark.parametrize("service", SERVICES)
def test_every_step_has_a_name_of_its_own(service: str) -> None:
    steps = steps_of(service)
    assert len(set(steps)) == len(steps) > 20
    assert len(set(committers_of(service))) == len(committers_of(service))


def test_every_command_commits() -> None:
    steps = {step for service in SERVICES for step in steps_of(service)}
    assert {f"{who}.before_commit" for who in COMMANDS} <= steps


def test_every_port_that_acts_has_steps() -> None:
    for port in PORTS:
        assert port.acts, f"{port.protocol} only looks"
        steps = steps_of(port.service)
        assert all(f"{port.service}.{port.protocol}.{act}.before" in steps for act in port.acts)
