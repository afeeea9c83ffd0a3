"""What a container of the engine means to the port.

Pure, but for our notes in the container's folder. Leaves to `runtime.py` what only the engine can
tell: whether it saw a container end.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from signal import SIGRTMAX
from typing import Any, Final

from services.scheduler.adapters.runtime_docker.engine import Json
from services.scheduler.adapters.runtime_docker.folder import ContainerFolder
from services.scheduler.domain.attempts.runtime import (
    ContainerExit,
    ContainerPhase,
    ContainerStatus,
    EndCause,
)

TOMBSTONE_LABEL: Final = "modelyard.tombstone"


def status_of(container: Json, folder: ContainerFolder) -> ContainerStatus:
    """Return what an inspection tells, and the notes in the container's folder."""
    phase = phase_of(container)
    is_started = phase in {ContainerPhase.RUNNING, ContainerPhase.EXITED}
    return ContainerStatus(
        name=name_of(container),
        phase=phase,
        labels=_labels_of(container),
        created_at=_instant(container["Created"]),
        started_at=_instant(container["State"]["StartedAt"]) if is_started else None,
        host=_host_of(container) if phase is ContainerPhase.RUNNING else None,
        exit=_exit_of(container, folder) if phase is ContainerPhase.EXITED else None,
    )


def outline_of(container: Json) -> ContainerStatus:
    """Return what a listing tells; how it ended is not in it."""
    return ContainerStatus(
        name=container["Names"][0].removeprefix("/"),
        phase=_phase(container["State"], container["Labels"]),
        labels=container["Labels"],
        created_at=datetime.fromtimestamp(container["Created"], UTC),
    )


def phase_of(container: Json) -> ContainerPhase:
    """Return where a container is, by an inspection."""
    return _phase(container["State"]["Status"], _labels_of(container))


def name_of(container: Json) -> str:
    """Return a container's name, by an inspection."""
    return str(container["Name"]).removeprefix("/")


def is_on_network(container: Json) -> bool:
    """Return whether the engine has not taken a container off its network."""
    networks = container["NetworkSettings"]["Networks"].values()
    return any(network["EndpointID"] for network in networks)


def _exit_of(container: Json, folder: ContainerFolder) -> ContainerExit:
    state = container["State"]
    code, ended_at = int(state["ExitCode"]), _instant(state["FinishedAt"])
    asked, cause = folder.stop_request(), None
    is_out_of_memory = state["OOMKilled"] or folder.was_out_of_memory()
    if is_out_of_memory and code != 0:  # else a child was killed, and the program coped
        cause = EndCause.MEMORY_LIMIT
    elif asked is not None and asked.at <= ended_at:
        cause = EndCause.STOP
    return ContainerExit(
        code=code,
        signal=code - 128 if 128 < code <= 128 + SIGRTMAX else None,
        cause=cause,
        started_at=_instant(state["StartedAt"]),
        ended_at=ended_at,
    )


def _phase(state: str, labels: Mapping[str, Any]) -> ContainerPhase:
    """Return the phase of the engine's state; what is being removed has ended."""
    if TOMBSTONE_LABEL in labels:
        return ContainerPhase.TOMBSTONE
    match state:
        case "created":
            return ContainerPhase.CREATED
        case "running" | "paused" | "restarting":
            return ContainerPhase.RUNNING
    return ContainerPhase.EXITED


def _labels_of(container: Json) -> Mapping[str, str]:
    return container["Config"]["Labels"] or {}


def _host_of(container: Json) -> str | None:
    networks = container["NetworkSettings"]["Networks"].values()
    return next((network["IPAddress"] for network in networks), None)


def _instant(text: str) -> datetime:
    """Return the engine's time stamp, whose nanoseconds are cut."""
    return datetime.fromisoformat(text)
