"""What is left after the local stack went down: nothing."""

import os
import subprocess
import sys

import pytest

from deploy.local import postgres, redis, stack
from deploy.local.ports import answers, is_free
from deploy.local.processes import STATE_MARK, is_alive
from deploy.local.state import State
from tests.support.eventually import until


def test_down_leaves_no_process_and_no_port(
    state: State, capsys: pytest.CaptureFixture[str]
) -> None:
    stack.infra_up(state)
    assert "Starting postgres, redis, jaeger, kafka" in capsys.readouterr().out
    record = state.read()
    assert all(is_alive(process) for process in record.processes.values())

    stopped = stack.down(state)

    assert set(stopped) == set(stack.INFRASTRUCTURE)
    assert not any(is_alive(process) for process in record.processes.values())
    assert not any(answers(port) for port in record.ports.values())
    assert stack.down(state) == []


def test_up_after_down_comes_back_on_the_same_ports_with_the_same_data(state: State) -> None:
    server = postgres.start(state)
    postgres.provision(state, server)
    server.execute("CREATE TABLE kept (id int)", database="scheduler")
    stack.down(state)

    again = postgres.start(state)

    assert again.port == server.port
    again.execute("SELECT id FROM kept", database="scheduler")


def test_up_takes_another_port_when_the_remembered_one_is_taken(state: State) -> None:
    redis.start(state)
    port = state.read().ports[redis.PART]
    stack.down(state)
    with subprocess.Popen(
        [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as stranger:
        until(lambda: not is_free(port), what="the stranger has the port")

        redis.start(state)

        assert state.read().ports[redis.PART] != port
        stranger.kill()


def test_up_starts_anew_what_was_killed(state: State) -> None:
    redis.start(state)
    before = state.read().processes[redis.PART]
    os.kill(before.pid, 9)
    until(lambda: not is_alive(before), what="Redis is gone")
    assert {part.part: part.health for part in stack.status(state)}["redis"] == "died"

    redis.start(state)

    assert state.read().processes[redis.PART].pid != before.pid


@pytest.mark.parametrize("environment", ["inherited", "cleaned"])
def test_down_ends_tenants_work_that_left_its_group_and_ignores_sigterm(
    state: State, environment: str
) -> None:
    redis.start(state)
    own = "None" if environment == "inherited" else "{}"
    child = "import signal,time; signal.signal(15,1); print(1, flush=True); time.sleep(600)"
    parent = (
        "import subprocess,sys\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True,"
        f" env={own}, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "p.wait()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", parent],
        env={**os.environ, STATE_MARK: str(state.root)},
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as shim:
        assert shim.stdout is not None
        work = int(shim.stdout.readline())

        assert "containers" in stack.down(state, tenant_grace_s=0.5)

        assert shim.wait(timeout=5) != 0
    until(lambda: not _runs(work), what="the work is gone")


def test_down_leaves_a_stranger_alone_that_got_a_recorded_number(state: State) -> None:
    redis.start(state)
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True
    ) as stranger:
        with state.changing() as record:
            real = record.processes["redis"]
            record.processes["impostor"] = type(real)(
                pid=stranger.pid,
                started_ticks=real.started_ticks,
                boot_id=real.boot_id,
                address=real.address,
                log=real.log,
                stop_signal=real.stop_signal,
                stop_grace_s=real.stop_grace_s,
            )

        assert stack.down(state) == ["redis"]

        assert stranger.poll() is None
        stranger.kill()


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
