"""The local stack's commands: `python -m deploy.local --help`."""

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from deploy.local import environments, identity, images, runtimes, services, stack
from deploy.local.errors import StackError
from deploy.local.own_settings import own_settings
from deploy.local.runtimes import Wish
from deploy.local.state import CHECKOUT, State

_INTERRUPTED: Final = 130
_NOT_ALL_UP: Final = 3


def main() -> int:
    """Run the command that was asked for; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.local")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, help_text in _HELP.items():
        commands.add_parser(name, help=help_text)
    infra = commands.add_parser("infra", help="the parts without the services")
    infra.add_argument("what", nargs="?", choices=["up", "down", "status"], default="up")
    arguments = parser.parse_args()
    command = arguments.command
    if command == "infra":
        command = {"up": "infra", "down": "down", "status": "status"}[arguments.what]
    try:
        return _COMMANDS[command](State.of_environment())
    except StackError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; `make down` ends what was started.\n")
        return _INTERRUPTED


def _up(state: State) -> int:
    wish = replace(Wish.of_environment(), settings=own_settings(state))
    running = stack.up(state, wish)
    for service, names in wish.settings.items():
        print(f"{service} has settings of yours: {', '.join(sorted(names))}.")
    print(running.runtime.summary)
    print(f"Modelyard answers on http://{running.gateway}; this and the first key are in", end=" ")
    print(f"{_shown(state.root / 'cli.env')}, logs are in {_shown(state.root / 'logs')}.")
    return 0


def _infra(state: State) -> int:
    infra = stack.infra_up(state)
    print(f"PostgreSQL {infra.postgres.host}:{infra.postgres.port}, Kafka {infra.kafka}, ", end="")
    print(f"traces {infra.traces.query_url}; `python -m deploy.local status` shows all.")
    return 0


def _down(state: State) -> int:
    stopped = stack.down(state)
    print(f"Stopped {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _status(state: State) -> int:
    parts = stack.status(state)
    rows = [("part", "pid", "address", "state", "log")]
    rows += [
        (part.part, str(part.pid or "-"), part.address, part.health, _shown(Path(part.log)))
        for part in parts
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0 if all(part.is_up for part in parts) else _NOT_ALL_UP


def _prepare(state: State) -> int:
    stack.prepare(state)
    return 0


def _images(state: State) -> int:
    engine = runtimes.build_images(state, Wish.of_environment())
    print(f"{', '.join(images.NAMES)} are on the Docker engine at {engine.url}.")
    return 0


def _rotate_keys(state: State) -> int:
    print("Giving the services new keys while they run (90 s).", flush=True)
    with state.command():
        identity.rotate_keys(state, services.NAMES)
    print("Each service signs with a new key; the old ones are no longer trusted.")
    return 0


def _clean(state: State) -> int:
    stack.clean(state)
    print(f"Removed the data of {_shown(state.root)}.")
    return 0


def _demo(state: State) -> int:
    # Imported here: only the demo needs the command line's modules.
    from modelyard.cli.settings import CliSettings  # noqa: PLC0415

    from deploy.local.demo import Demo  # noqa: PLC0415

    _up(state)
    Demo(
        cli=Path(sys.prefix) / "bin" / "modelyard",
        model_python=environments.ensure(state, runtimes.MODEL_ENVIRONMENT) / "bin" / "python",
        example=CHECKOUT / "examples" / "digits",
        logs=state.root / "logs",
        settings=CliSettings(_env_file=state.root / "cli.env"),
    ).run()
    return 0


def _shown(path: Path) -> str:
    working = Path.cwd()
    return str(path.relative_to(working)) if path.is_relative_to(working) else str(path)


_HELP: Final = {
    "up": "start or adopt everything",
    "down": "stop everything that was started",
    "status": "show every part and whether it answers",
    "prepare": "fetch and build what the first start needs",
    "images": "build the platform's images on the Docker engine that `up` would use",
    "rotate-keys": "give each service a new key, without a restart or a failed call",
    "clean": "stop everything and remove its data",
    "demo": "start everything and run the main job through the public API",
}
_COMMANDS: Final[Mapping[str, Callable[[State], int]]] = {
    "up": _up,
    "infra": _infra,
    "down": _down,
    "status": _status,
    "prepare": _prepare,
    "images": _images,
    "rotate-keys": _rotate_keys,
    "clean": _clean,
    "demo": _demo,
}


if __name__ == "__main__":
    sys.exit(main())
