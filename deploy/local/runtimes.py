"""Where a stack's containers run: on a Docker engine, or as plain processes of this machine.

Owns: the choice between them, which the operator may make (`MODELYARD_RUNTIME`), and what the
scheduler and the log collector are told of it. Leaves engines and images to their modules.

Always holds: a stack that is up keeps its runtime and its engine until it goes down; after that
nothing of it is left on the engine.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from deploy.local import environments, fence, images, own_engine
from deploy.local.engine import Engine, running_engines
from deploy.local.errors import StackError
from deploy.local.own_engine import OwnEngine
from deploy.local.state import State

MODEL_ENVIRONMENT: Final = "sklearn"

_RUNTIME_VARIABLE: Final = "MODELYARD_RUNTIME"
_IMAGES_VARIABLE: Final = "MODELYARD_IMAGES"
_AUTO: Final = "auto"
_NO_ENGINE: Final = "No Docker engine answers"


class Kind(StrEnum):
    """The container runtimes that a local stack knows."""

    DOCKER = "docker"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator asks for."""

    kind: Kind | None = None
    """None: Docker where it can be had."""
    engine: Engine | None = None
    """None: one that runs on this machine, else one of our own."""
    images: Mapping[str, str] | None = None
    """Own images, name → what the engine knows it by; allowed beside the platform's, or instead.

    None: those that were last told.
    """
    settings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By service, without their prefix: what it is told beside what the stack tells it."""

    @staticmethod
    def of_environment() -> "Wish":
        """Return what MODELYARD_RUNTIME and MODELYARD_IMAGES say."""
        asked = os.environ.get(_RUNTIME_VARIABLE) or _AUTO
        if asked not in {_AUTO, *Kind}:
            raise StackError(f"{_RUNTIME_VARIABLE}={asked}: say auto, docker or process.")
        told = os.environ.get(_IMAGES_VARIABLE)
        own = None if told is None else dict(map(_image, told.split()))
        return Wish(kind=None if asked == _AUTO else Kind(asked), images=own)


def _image(entry: str) -> tuple[str, str]:
    name, sign, reference = entry.partition("=")
    if not name or (sign and not reference):
        raise StackError(f"{_IMAGES_VARIABLE}: {entry!r} is neither name=reference nor a name.")
    return name, reference or name


@dataclass(frozen=True, slots=True)
class Runtime:
    """A runtime that is ready for containers."""

    settings: Mapping[str, str]
    """The scheduler's, without their prefix."""
    logs_root: Path
    """Below it lies the output of containers."""
    summary: str
    """One sentence for the operator."""


def choose(state: State, wish: Wish) -> Runtime:
    """Return the stack's runtime, its engine started and its images built where it is Docker."""
    kept = state.read().runtime
    if kept and wish.kind not in {None, kept}:
        raise StackError(f"This stack is up with the runtime {kept}: run `make down` first.")
    kind = Kind(kept) if kept else wish.kind
    because = "the stack is up with it" if kept else "it was asked for"
    if kind is not Kind.PROCESS:
        try:
            return _docker(state, wish, is_asked_for=kind is Kind.DOCKER)
        except StackError as error:
            if kind is Kind.DOCKER:
                raise
            because = str(error).removesuffix(".")
    if wish.images:
        print(f"{_IMAGES_VARIABLE} is of no use to plain processes: no image is run.", flush=True)
    return _process(state, because=because)


def release(state: State) -> int:
    """Remove what a stack that has gone down left on its engine; return how many containers."""
    url = state.read().engine
    removed = 0
    if url:
        own, label = OwnEngine.of(state.tools), f"modelyard.scope={_scope(state)}"
        if url == own.engine.url:
            removed = own.release(state, label=label)
        else:
            removed = Engine(url).remove_all(label)
            fence.take_down(state.key)
    with state.changing() as record:
        record.runtime = record.engine = ""
    return removed


def build_images(state: State, wish: Wish) -> Engine:
    """Build the platform's images on the engine that a stack would use; return it."""
    engine = _found(state, wish)
    if engine is not None:
        images.ensure(state, engine)
        return engine
    own = OwnEngine.of(state.tools)
    own_engine.require_possible(_NO_ENGINE)
    images.ensure(state, own.start())
    own.stop_unused()
    return own.engine


def _docker(state: State, wish: Wish, *, is_asked_for: bool) -> Runtime:
    engine, whose = _found(state, wish), "this machine's"
    if engine is None:
        whose = "the checkout's own"
        if is_asked_for:
            own_engine.install()
        own_engine.require_possible(_NO_ENGINE)
        engine = OwnEngine.of(state.tools).use(state)
    else:
        fence.put_up(state.key)
    _keep(state, Kind.DOCKER, engine.url)
    try:
        images.ensure(state, engine)
    except StackError:
        release(state)
        raise
    own_images = _own_images(state, wish)
    for name, reference in own_images.items():
        if name in images.NAMES:
            print(
                f"{_IMAGES_VARIABLE}: {name} is {reference} here, instead of the platform's own.",
                flush=True,
            )
        if engine.image_labels(reference) is None:
            print(
                f"The engine holds no image {reference}: it is pulled when the scheduler starts. "
                f"Jobs with the image {name} wait for that, or fail if there is none.",
                flush=True,
            )
    allowed = {name: images.reference(name) for name in images.NAMES} | dict(own_images)
    return Runtime(
        settings={
            "RUNTIME__KIND": Kind.DOCKER,
            "RUNTIME__URL": engine.url,
            "RUNTIME__SCOPE": _scope(state),
            "RUNTIME__CONTAINERS_ROOT": str(state.folder("docker", "containers")),
            "RUNTIME__IMAGES": json.dumps(allowed),
            "RUNTIME__IS_HOST_FENCED": "true",
        },
        logs_root=engine.root_dir() / "containers",
        summary=f"Jobs run in containers of {whose} Docker engine, {engine.url}.",
    )


def _own_images(state: State, wish: Wish) -> Mapping[str, str]:
    """Return the operator's images, and keep them for the next start."""
    if wish.images is None:
        kept = state.read().images
        if kept:
            told = " ".join(f"{name}={reference}" for name, reference in kept.items())
            print(f"{_IMAGES_VARIABLE} is as it was last told: {told}.", flush=True)
        return kept
    with state.changing() as record:
        record.images = dict(wish.images)
    return wish.images


def _found(state: State, wish: Wish) -> Engine | None:
    """Return the engine to use; None if that is one of our own, to be started or adopted."""
    own = OwnEngine.of(state.tools).engine
    if kept := state.read().engine:
        return None if kept == own.url else Engine(kept)
    for engine in [wish.engine] if wish.engine else running_engines():
        engine.require_usable()
        return engine
    return None


def _process(state: State, *, because: str) -> Runtime:
    environment = environments.ensure(state, MODEL_ENVIRONMENT)
    root = state.folder("containers")
    _keep(state, Kind.PROCESS, "")
    stand_ins = {images.BASE: sys.prefix} | dict.fromkeys(images.SKLEARN, str(environment))
    return Runtime(
        settings={
            "RUNTIME__ALLOW_UNISOLATED": "true",
            "RUNTIME__CONTAINERS_ROOT": str(root),
            "RUNTIME__IMAGES": json.dumps(stand_ins),
        },
        logs_root=root,
        summary=f"Jobs run as plain processes, without isolation: {because}.",
    )


def _keep(state: State, kind: Kind, engine: str) -> None:
    with state.changing() as record:
        record.runtime, record.engine = kind, engine


def _scope(state: State) -> str:
    return f"modelyard-{state.key[:8]}"
