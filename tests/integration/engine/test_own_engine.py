"""The checkout's own engine: what it keeps while it is broken, and what it leaves: nothing."""

import json
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local import fence, images, redis
from deploy.local.errors import StackError
from deploy.local.own_engine import OwnEngine
from deploy.local.state import State
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import until

BRIDGE = f"myd-{secrets.token_hex(4)}"
"""All engines' bridges are this machine's: each test process has its own name."""
NETWORK = {
    "Name": "own-engine-test",
    "Internal": True,
    "Options": {"com.docker.network.bridge.name": BRIDGE},
}


@pytest.fixture
def api(docker_engine: DockerEngine) -> Iterator[httpx.Client]:
    """Give the engine's API, and an engine that is left as it was."""
    transport = httpx.HTTPTransport(uds=docker_engine.url.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=20) as client:
        yield client
    docker_engine.start()
    docker_engine.own.engine.remove_all()


def _run(api: httpx.Client, *command: str) -> str:
    """Start a container of the base image on a network of its own; return its id."""
    network = api.post("/networks/create", json=NETWORK).raise_for_status().json()["Id"]
    spec = {
        "Image": images.reference(images.BASE),
        "Cmd": command,
        "HostConfig": {"NetworkMode": network},
    }
    container = str(api.post("/containers/create", json=spec).raise_for_status().json()["Id"])
    api.post(f"/containers/{container}/start").raise_for_status()
    return container


def _state(api: httpx.Client, container: str) -> str:
    return str(
        api.get(f"/containers/{container}/json").raise_for_status().json()["State"]["Status"]
    )


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_containers_run_on_when_the_engine_is_gone(
    docker_engine: DockerEngine, api: httpx.Client, how: signal.Signals
) -> None:
    container = _run(api, "sleep", "600")
    with docker_engine.stopped(how):
        assert not docker_engine.own.engine.answers()

    assert _state(api, container) == "running"


def test_engine_does_not_answer_while_it_is_frozen(docker_engine: DockerEngine) -> None:
    with docker_engine.frozen():
        assert not docker_engine.own.engine.answers()


@pytest.mark.parametrize("was", ["running", "killed"])
def test_stop_leaves_no_process_mount_bridge_or_rule(
    docker_engine: DockerEngine, api: httpx.Client, was: str
) -> None:
    own = docker_engine.own
    _run(api, "sleep", "600")
    left = _traces(own)
    assert all(left.values()), left
    if was == "killed":
        record = own.record
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        until(lambda: own.record is None, what="the engine is gone")

    assert own.stop()

    assert not any(_traces(own).values()), _traces(own)
    assert not own.stop()


@pytest.mark.usefixtures("docker_engine")
def test_an_engine_that_does_not_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "dockerd"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    own = OwnEngine.of(tmp_path, "broken")

    with pytest.raises(StackError, match="the Docker engine ended while starting"):
        own.use(State(tmp_path / "stack"))

    assert not any(_traces(own).values()), _traces(own)
    assert own.state.read().processes == {}
    assert not own._run_folder.exists()
    assert not list(own._notes.iterdir())


def test_start_puts_up_the_fence_once(docker_engine: DockerEngine) -> None:
    fence.put_up(docker_engine.own.state.key)

    assert len(_traces(docker_engine.own)["rules"]) == len(("INPUT", "FORWARD", "OUTPUT"))


def test_images_are_built_once(docker_engine: DockerEngine) -> None:
    assert not images.ensure(docker_engine.own.state, docker_engine.own.engine)


def test_engine_stops_with_the_last_stack_that_is_up(
    docker_engine: DockerEngine, tmp_path: Path
) -> None:
    own, first, second = docker_engine.own, State(tmp_path / "first"), State(tmp_path / "second")
    redis.start(second)
    own.use(first)
    own.use(second)

    own.release(first, label="modelyard.scope=first")
    assert own.record is not None

    redis.halt(second)
    own.release(second, label="modelyard.scope=second")
    assert own.record is None
    docker_engine.start()


def _traces(own: OwnEngine) -> dict[str, list[str]]:
    """Return what can be seen of an engine and its containers on this machine."""
    names = (str(own.data), str(own.engine.url).removeprefix("unix://").rpartition("/")[0])
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=True).stdout
    links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
    return {
        "processes": [command for command in _commands() if any(name in command for name in names)],
        "mounts": [
            line
            for line in Path("/proc/mounts").read_text().splitlines()
            if any(name in line for name in names)
        ],
        "bridges": [link["ifname"] for link in links if link["ifname"] == BRIDGE],
        "rules": [line for line in rules.splitlines() if f"modelyard:{own.state.key}" in line],
    }


def _commands() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_text().replace("\0", " ")
        except OSError:  # ended since it was listed
            continue
