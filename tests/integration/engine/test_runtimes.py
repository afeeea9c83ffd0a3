"""Which runtime a stack gets, and what it leaves on an engine that others use too."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from deploy.local import images, own_engine, runtimes
from deploy.local.engine import Engine
from deploy.local.errors import StackError
from deploy.local.runtimes import Kind, Wish
from deploy.local.state import State
from tests.support.docker_engine import DockerEngine


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    fresh = State(tmp_path / "state")
    yield fresh
    runtimes.release(fresh)


@pytest.fixture
def no_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let no engine answer, and none be started."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    monkeypatch.setattr(own_engine, "missing", lambda: ["docker.io"])
    monkeypatch.setattr(own_engine, "install", lambda: None)


def test_docker_is_chosen_when_an_engine_answers(
    state: State, docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", docker_engine.url)

    runtime = runtimes.choose(state, Wish())

    assert runtime.settings["RUNTIME__KIND"] == Kind.DOCKER
    assert runtime.settings["RUNTIME__URL"] == docker_engine.url
    assert runtime.logs_root == docker_engine.root_dir / "containers"
    assert docker_engine.url in runtime.summary


@pytest.mark.usefixtures("no_engine")
def test_processes_are_chosen_when_no_engine_can_be_had_and_the_summary_says_why(
    state: State,
) -> None:
    runtime = runtimes.choose(state, Wish())

    assert "RUNTIME__KIND" not in runtime.settings
    assert "install docker.io" in runtime.summary


@pytest.mark.usefixtures("no_engine")
def test_docker_that_was_asked_for_is_refused_when_no_engine_can_be_had(state: State) -> None:
    with pytest.raises(StackError, match=r"install docker\.io"):
        runtimes.choose(state, Wish(Kind.DOCKER))

    assert state.read().runtime == ""


def test_a_stack_keeps_its_runtime_until_it_goes_down(
    state: State, docker_engine: DockerEngine
) -> None:
    wish = Wish(Kind.DOCKER, docker_engine.own.engine)
    first = runtimes.choose(state, wish)

    assert runtimes.choose(state, Wish()).settings == first.settings
    with pytest.raises(StackError, match="make down"):
        runtimes.choose(state, Wish(Kind.PROCESS))

    runtimes.release(state)
    assert "RUNTIME__URL" not in runtimes.choose(state, Wish(Kind.PROCESS)).settings


def test_own_images_are_allowed_beside_the_platforms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_IMAGES", "mine=registry.example/mine:3 plain:1")

    assert Wish.of_environment().images == {
        "mine": "registry.example/mine:3",
        "plain:1": "plain:1",
    }


@pytest.mark.parametrize("entry", ["=mine:3", "mine="])
def test_an_own_image_with_half_of_its_name_is_refused(
    monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    monkeypatch.setenv("MODELYARD_IMAGES", f"plain:1 {entry}")

    with pytest.raises(StackError, match=f"MODELYARD_IMAGES: '{entry}' is neither"):
        Wish.of_environment()


def test_an_own_image_that_the_engine_does_not_hold_is_told_of(
    state: State, docker_engine: DockerEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    own = {"mine": "nobody.invalid/mine:3", "held": images.reference(images.BASE)}

    runtime = runtimes.choose(state, Wish(Kind.DOCKER, docker_engine.own.engine, own))

    told = capsys.readouterr().out
    assert "holds no image nobody.invalid/mine:3" in told
    assert "modelyard/base" not in told
    assert "nobody.invalid/mine:3" in runtime.settings["RUNTIME__IMAGES"]


def test_an_own_image_in_the_place_of_one_of_the_platforms_is_told_of(
    state: State, docker_engine: DockerEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    held = images.reference(images.BASE)
    own = {"modelyard/train-sklearn": held, "mine": held}

    runtime = runtimes.choose(state, Wish(Kind.DOCKER, docker_engine.own.engine, own))

    told = capsys.readouterr().out
    assert f"modelyard/train-sklearn is {held} here, instead of the platform's own" in told
    assert told.count("instead of") == 1
    allowed = json.loads(runtime.settings["RUNTIME__IMAGES"])
    assert (allowed["modelyard/train-sklearn"], allowed["mine"]) == (held, held)
    assert allowed["modelyard/serve-sklearn"] == "modelyard/serve-sklearn:latest"


def test_own_images_are_remembered_until_others_are_told(
    state: State, docker_engine: DockerEngine, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = docker_engine.own.engine

    def allowed(own: dict[str, str] | None) -> dict[str, str]:
        settings = runtimes.choose(state, Wish(Kind.DOCKER, engine, own)).settings
        return dict(json.loads(settings["RUNTIME__IMAGES"]))

    held = images.reference(images.BASE)
    assert allowed({"mine": held})["mine"] == held
    runtimes.release(state)
    capsys.readouterr()

    assert allowed(None)["mine"] == held
    assert f"MODELYARD_IMAGES is as it was last told: mine={held}." in capsys.readouterr().out
    assert "mine" not in allowed({})
    assert "mine" not in allowed(None)


def test_own_images_are_told_to_be_of_no_use_to_processes(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    runtimes.choose(state, Wish(Kind.PROCESS, images={"mine": "mine:3"}))

    assert "MODELYARD_IMAGES is of no use to plain processes" in capsys.readouterr().out


def test_a_misspelt_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_RUNTIME", "dokcer")

    with pytest.raises(StackError, match="auto, docker or process"):
        Wish.of_environment()


def test_release_removes_the_stacks_own_containers_and_networks_only(
    state: State, docker_engine: DockerEngine
) -> None:
    settings = runtimes.choose(state, Wish(Kind.DOCKER, docker_engine.own.engine)).settings
    transport = httpx.HTTPTransport(uds=docker_engine.url.removeprefix("unix://"))
    with httpx.Client(transport=transport, base_url="http://engine", timeout=20) as api:
        for scope in (settings["RUNTIME__SCOPE"], "modelyard-another"):
            _make(api, scope)

        assert runtimes.release(state) == 1

        left = api.get("/containers/json", params={"all": "true"}).json()
        assert [container["Labels"]["modelyard.scope"] for container in left] == [
            "modelyard-another"
        ]
    assert docker_engine.own.engine.remove_all("modelyard.scope=modelyard-another") == 1


def test_an_engine_whose_output_is_elsewhere_is_not_used(
    docker_engine: DockerEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Engine, "root_dir", lambda _: tmp_path / "of-another-machine")

    with pytest.raises(StackError, match="can't be read"):
        docker_engine.own.engine.require_usable()


def _make(api: httpx.Client, scope: str) -> None:
    labels = {"modelyard.scope": scope}
    network = {"Name": f"{scope}-network", "Internal": True, "Labels": labels}
    api.post("/networks/create", json=network).raise_for_status()
    container = {
        "Image": images.reference(images.BASE),
        "Cmd": ["sleep", "600"],
        "Labels": labels,
        "HostConfig": {"NetworkMode": network["Name"]},
    }
    made = api.post("/containers/create", json=container).raise_for_status().json()["Id"]
    api.post(f"/containers/{made}/start").raise_for_status()
