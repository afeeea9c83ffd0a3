"""The steps at which a service can die, read from its code: no list of them is kept.

A step is one side of a change that others can see: of a commit, named by the use case whose it is;
of a call of a port that acts outside of the database; of the relay's and a consumer's own moves.
`armed` puts itself at the same places in a running service and finds the same names, so that a step
which this list lacks shows in each run.

Owns: what counts as a step, and its name, `<service>.<who>.<when>`.
"""

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[3]
SERVICES: Final = ("scheduler", "model_registry", "log_collector", "api_gateway")
COMMIT: Final = ("before_commit", "after_commit")
CALL: Final = ("before", "after")
RELAY: Final = ("Relay.before_send", "Relay.before_mark", "Relay.after_mark")
"""Read but not sent; acknowledged but not marked; marked."""
CONSUMER: Final = ("EventConsumer.before_position", "EventConsumer.after_position")
"""The effect is committed and the position has not moved; it has, in memory."""

COMMANDS: Final[Mapping[str, str]] = {"api_gateway.IssuePlatformKey": "platform-key"}
"""Who commits in no running service, and the command of the service's program that does it."""

_OPENS: Final = re.compile(r"self\.(unit_of_work(\.system)?|store\.(changing|write_uses))\(")
_LOOKS: Final = re.compile(
    r"(Check|Explain|Get|List|Read|Follow)[A-Z]|(CleanUpContainers|RemoveContainer|CollectStreams)\b"
)
"""Use cases that open a unit of work and write nothing in it; a run finds one that does."""


@dataclass(frozen=True, slots=True)
class Port:
    """A port that acts outside of the database, and what of it only looks."""

    service: str
    protocol: str
    file: str
    adapters: tuple[str, ...]
    looks: frozenset[str]

    @property
    def acts(self) -> tuple[str, ...]:
        """Return its methods that change something: all that are not known to look."""
        tree = ast.parse((ROOT / "services" / self.service / self.file).read_text())
        [found] = [
            node
            for node in tree.body
            if isinstance(node, ast.ClassDef) and node.name == self.protocol
        ]
        awaited = [node.name for node in found.body if isinstance(node, ast.AsyncFunctionDef)]
        return tuple(name for name in awaited if name not in self.looks)


def _port(service: str, protocol: str, *adapters: str, looks: str = "", folder: str = "") -> Port:
    file = f"use_cases/{folder}ports.py"
    paths = tuple(f"services.{service}.adapters.{adapter}" for adapter in adapters)
    return Port(service, protocol, file, paths, frozenset(looks.split()))


PORTS: Final = (
    _port(
        "scheduler",
        "ContainerRuntime",
        "runtime_process.runtime:ProcessRuntime",
        "runtime_docker.runtime:DockerRuntime",
        looks="ping follow inspect list wait_exit read_progress list_output list_checkpoint "
        "last_lines log_location",
        folder="attempts/",
    ),
    _port(
        "scheduler",
        "ArtifactStore",
        "registry_artifacts.artifacts:RegistryArtifacts",
        folder="attempts/",
    ),
    _port("model_registry", "ReceivedBlob", "blob_store:ReceivedBlob"),
    _port("model_registry", "Blobs", "blob_store:FileBlobStore"),
    _port("log_collector", "BlockWriter", "segments.store:SegmentWriter"),
    _port(
        "log_collector",
        "LogStore",
        "segments.store:SegmentStore",
        looks="scan publishable unpublished_attempts",
    ),
    _port("log_collector", "BlockPublisher", "kafka_blocks:KafkaBlockPublisher"),
    _port(
        "api_gateway",
        "JobsClient",
        "scheduler_client:GrpcJobs",
        looks="explain get get_stats list list_attempts",
    ),
    _port(
        "api_gateway",
        "DeploymentsClient",
        "scheduler_client:GrpcDeployments",
        looks="explain get list",
    ),
    _port("api_gateway", "NodesClient", "scheduler_client:GrpcNodes", looks="list"),
    _port("api_gateway", "QueuesClient", "scheduler_client:GrpcQueues", looks="list"),
    _port(
        "api_gateway",
        "ModelsClient",
        "registry_client:GrpcModels",
        looks="get list get_version list_versions",
    ),
    _port("api_gateway", "ArtifactsClient", "registry_client:GrpcArtifacts", looks="stat"),
)


@cache
def steps_of(service: str) -> tuple[str, ...]:
    """Return all steps of a service."""
    bootstrap = (ROOT / "services" / service / "bootstrap.py").read_text()
    found = [f"{name}.{when}" for name in committers_of(service) for when in COMMIT]
    found += [
        f"{port.protocol}.{name}.{when}"
        for port in PORTS
        if port.service == service
        for name in port.acts
        for when in CALL
    ]
    found += RELAY if "Relay(" in bootstrap else ()
    found += CONSUMER if "EventConsumer(" in bootstrap else ()
    return tuple(f"{service}.{step}" for step in found)


def committers_of(service: str) -> list[str]:
    """Return who commits: a use case, or one of several things that it does."""
    return [
        name
        for file in use_case_files(service)
        for name in committers_in(file)
        if not _LOOKS.match(name)
    ]


def use_case_files(service: str) -> list[Path]:
    """Return the modules of a service's use cases."""
    return sorted((ROOT / "services" / service / "use_cases").rglob("*.py"))


def committers_in(file: Path) -> list[str]:
    """Return the public functions of a module by which a unit of work is opened."""
    functions = functions_in(file)
    opening = {name for name, body in functions.items() if _OPENS.search(ast.unparse(body))}
    found = set(opening)
    while inner := {name for name in found if is_private(name)}:
        found -= inner
        found |= {
            name
            for name, body in functions.items()
            if name not in inner and called_in(body) & {_last(each) for each in inner}
        }
    return sorted(named(name) for name in found)


def functions_in(file: Path) -> Mapping[str, ast.AST]:
    """Return a module's functions and its classes' methods, by qualified name."""
    return dict(_functions(ast.parse(file.read_text()), ""))


def called_in(body: ast.AST) -> set[str]:
    """Return the last names of all that is called in a function."""
    return {
        ast.unparse(node.func).rsplit(".", 1)[-1]
        for node in ast.walk(body)
        if isinstance(node, ast.Call)
    }


def is_private(qualified_name: str) -> bool:
    """Return whether a function is its module's alone."""
    name = _last(qualified_name)
    return name.startswith("_") and not name.startswith("__")


def named(qualified_name: str) -> str:
    """Return how a function is called in a step's name: a use case's call bears its name."""
    return qualified_name.split(".<locals>", maxsplit=1)[0].removesuffix(".__call__")


def _functions(tree: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{prefix}{node.name}", node
        elif isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{node.name}.")


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]
