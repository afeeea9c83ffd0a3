"""The model environments: locked virtual environments in which jobs train and model servers serve.

Owns: installing `deploy/environments/<name>` into the tools folder, once per lock. They are apart
from the platform's own environment, since MLServer pins older FastAPI and protobuf (ADR-0012).

Always holds: an environment is whole or absent; its marker names the lock that it was made from.
"""

import hashlib
import shutil
import sys
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.processes import run_tool
from deploy.local.state import CHECKOUT, State

_INSTALL_MAX_S: Final = 600.0


def ensure(state: State, name: str) -> Path:
    """Return the folder of a model environment, installed at first and when its lock changed."""
    lock = CHECKOUT / "deploy" / "environments" / name / "requirements.txt"
    digest = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    with state.tool("environments") as folder:
        environment, marker = folder / name, folder / f"{name}.sha256"
        if environment.exists() and marker.exists() and marker.read_text() == digest:
            return environment
        print(f"Installing the model environment {name} (375 MB, once).", flush=True)
        marker.unlink(missing_ok=True)
        shutil.rmtree(environment, ignore_errors=True)
        uv = find_uv(state)
        run_tool(
            [uv, "venv", "--quiet", "--python", sys.executable, str(environment)],
            needed_for="which makes the model environment",
            within_s=_INSTALL_MAX_S,
        )
        run_tool(
            [
                *(uv, "pip", "sync", "--quiet", "--require-hashes", "--compile-bytecode"),
                *("--python", str(environment / "bin" / "python"), str(lock)),
            ],
            needed_for="which fills the model environment",
            within_s=_INSTALL_MAX_S,
        )
        marker.write_text(digest)
    return environment


def find_uv(state: State) -> str:
    """Return the uv that `make setup` put into the tools folder, else one on PATH."""
    own = state.tools / "uv" / "bin" / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if found is None:
        raise StackError("uv is missing: run `make setup`.")
    return found
