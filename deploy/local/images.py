"""The images that the platform brings, built once per engine: `deploy/images`.

Owns: a base that is pulled or, where no registry answers, made from Debian's packages; the locked
Python packages, installed outside the build so that it needs no network; and when an image is
still the wanted one. Leaves to the Dockerfiles what is in an image.

Always holds: an image's label tells what it was built from; one that was built is not built again.
"""

import hashlib
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Final

from deploy.local.engine import Engine
from deploy.local.environments import find_uv
from deploy.local.errors import StackError
from deploy.local.processes import run_tool
from deploy.local.state import CHECKOUT, State

BASE: Final = "modelyard/base"
SKLEARN: Final = ("modelyard/train-sklearn", "modelyard/serve-sklearn")
NAMES: Final = (BASE, *SKLEARN)

_DEFINITIONS: Final = CHECKOUT / "deploy" / "images"
_LOCK: Final = CHECKOUT / "deploy" / "environments" / "sklearn" / "requirements.txt"
_INPUTS_LABEL: Final = "modelyard.inputs"
_PYTHON: Final = "3.11"
"""Of both bases: Debian 12 has it."""
_PUBLIC_BASE: Final = ("python", f"{_PYTHON}-slim-bookworm")
_LOCAL_BASE: Final = "modelyard/debian:bookworm"
_DEBIAN: Final = (
    *("mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,ca-certificates"),
    *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
    "bookworm",
)
_MAKE_MAX_S: Final = 600.0


def reference(name: str) -> str:
    """Return what the engine knows one of the platform's images by."""
    return f"{name}:latest"


def ensure(state: State, engine: Engine) -> bool:
    """Build what the engine lacks or holds in an older shape; return whether there was any."""
    base, sklearn = _digest("base"), _digest("sklearn", _LOCK)
    with state.tool("images") as folder:
        is_base_stale = not _holds(engine, BASE, base)
        is_sklearn_stale = not all(_holds(engine, name, sklearn) for name in SKLEARN)
        if is_base_stale:
            _build_base(engine, folder, base)
        if is_sklearn_stale:
            _build_sklearn(state, engine, folder, sklearn)
    return is_base_stale or is_sklearn_stale


def _digest(image: str, *more: Path) -> str:
    """Return what an image is built from, in short; the base's Dockerfile is part of both."""
    files = [_DEFINITIONS / "base" / "Dockerfile", _DEFINITIONS / image / "Dockerfile", *more]
    text = b"\0".join(file.read_bytes() for file in files)
    return hashlib.sha256(text + repr((_PUBLIC_BASE, _DEBIAN)).encode()).hexdigest()


def _holds(engine: Engine, name: str, digest: str) -> bool:
    labels = engine.image_labels(reference(name))
    return labels is not None and labels.get(_INPUTS_LABEL) == digest


def _build_base(engine: Engine, folder: Path, digest: str) -> None:
    print(f"Building the image {BASE} (once).", flush=True)
    engine.build(
        {"Dockerfile": _DEFINITIONS / "base" / "Dockerfile"},
        [reference(BASE)],
        arguments={"BASE": _python_base(engine, folder)},
        labels={_INPUTS_LABEL: digest},
    )


def _build_sklearn(state: State, engine: Engine, folder: Path, digest: str) -> None:
    print(f"Building the image {' and '.join(SKLEARN)} (0.7 GB, once).", flush=True)
    packages, scripts = folder / "packages", folder / "scripts"
    for left in (packages, scripts):
        shutil.rmtree(left, ignore_errors=True)
    run_tool(
        [
            *(find_uv(state), "pip", "install", "--quiet", "--no-deps", "--require-hashes"),
            *("--python", sys.executable, "--python-version", _PYTHON, "--target", str(packages)),
            *("--python-platform", f"{platform.machine()}-unknown-linux-gnu"),
            *("--requirements", str(_LOCK)),
        ],
        needed_for="which installs the packages of an image",
        within_s=_MAKE_MAX_S,
    )
    (packages / "bin").rename(scripts)
    engine.build(
        {
            "Dockerfile": _DEFINITIONS / "sklearn" / "Dockerfile",
            "packages": packages,
            "scripts": scripts,
        },
        [reference(name) for name in SKLEARN],
        arguments={"BASE": reference(BASE)},
        labels={_INPUTS_LABEL: digest},
    )
    for used in (packages, scripts):
        shutil.rmtree(used)


def _python_base(engine: Engine, folder: Path) -> str:
    """Return an image with Python that the engine holds by then."""
    public = ":".join(_PUBLIC_BASE)
    if engine.image_labels(public) is not None:
        return public
    print(f"Pulling {public} (45 MB, once).", flush=True)
    try:
        engine.pull(*_PUBLIC_BASE)
    except StackError as error:
        print(f"It can't be pulled: {error}", flush=True)
        engine.import_tar(_debian(folder), _LOCAL_BASE)
        return _LOCAL_BASE
    return public


def _debian(folder: Path) -> Path:
    """Return a tar of a small Debian with Python, made once a checkout."""
    made = folder / f"debian-{hashlib.sha256(repr(_DEBIAN).encode()).hexdigest()[:12]}.tar"
    if not made.exists():
        if shutil.which("mmdebstrap") is None or os.geteuid() != 0:
            raise StackError(
                "No base image: let the engine reach a registry, or as root install mmdebstrap."
            )
        for old in folder.glob("debian-*.tar"):
            old.unlink()
        print("Making a base of Debian's packages instead (a minute, 170 MB, once).", flush=True)
        unfinished = folder / "unfinished.tar"
        run_tool(
            [*_DEBIAN, str(unfinished)],
            needed_for="which makes a base image",
            within_s=_MAKE_MAX_S,
        )
        unfinished.replace(made)
    return made
