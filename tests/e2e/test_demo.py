"""`make demo` on each runtime: what it says is true, and `down` and `clean` leave nothing.

Docker's is the engine of the tests, which the demo finds as it would any other of the machine: the
images are there already. It is one test, since a demo takes half a minute.
"""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from modelyard.cli.trace_view import TraceView, fetch_trace
from modelyard.client import ApiError, Client, Deployment

from deploy.local import environments, ports, runtimes
from deploy.local.processes import is_alive
from deploy.local.runtimes import Kind, Wish
from deploy.local.state import CHECKOUT, State
from tests.e2e.platform import Platform
from tests.support.docker_engine import DockerEngine
from tests.support.eventually import until
from tests.support.platform import brought_up, own_state

EXAMPLE: Final = CHECKOUT / "examples" / "digits"
ACCURACY_MIN: Final = 0.9
LINE_COUNT: Final = 21
DIGITS: Final = "digits"
SERVICES: Final = {"demo", "cli", "api-gateway", "scheduler", "model-registry", "log-collector"}
SAYS_RUNTIME: Final = {
    Kind.PROCESS: "Jobs run as plain processes, without isolation: it was asked for.",
    Kind.DOCKER: "Jobs run in containers of this machine's Docker engine, ",
}
_COMMAND_S_MAX: Final = 240.0


@dataclass(frozen=True, slots=True)
class Stack:
    """The local stack of a state folder, by the commands that `make` runs."""

    kind: Kind
    engine: DockerEngine | None
    state: State

    def done(self, name: str) -> str:
        """Run a command to its good end; return what it printed."""
        told = {"MODELYARD_STATE": str(self.state.root), "MODELYARD_RUNTIME": str(self.kind)}
        ended = subprocess.run(
            [sys.executable, "-m", "deploy.local", name],
            cwd=CHECKOUT,
            env=os.environ | told | ({"DOCKER_HOST": self.engine.url} if self.engine else {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_S_MAX,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    def platform(self) -> Platform:
        """Return what runs."""
        wish = Wish(self.kind, self.engine.own.engine if self.engine else None)
        return Platform(brought_up(self.state, wish))

    def process_of(self, attempt_id: str) -> int:
        """Return the first process of an attempt's container."""
        if self.engine is not None:
            return self.engine.process_of(f"modelyard.attempt={attempt_id}")
        [started] = self.state.root.glob(f"containers/*{attempt_id}/started.json")
        return int(json.loads(started.read_text())["child"]["pid"])


@dataclass(frozen=True, slots=True)
class Demo:
    """What the demo printed."""

    text: str

    def said(self, name: str) -> str:
        """Return one of the values at its end."""
        found = re.search(rf"^{name}  +(.*)$", self.text, re.MULTILINE)
        assert found, f"{name} is not in {self.text}"
        return found[1]


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "kind",
    [
        Kind.DOCKER,
        # Its stack is its own: whichever worker is free first.
        pytest.param(Kind.PROCESS, marks=pytest.mark.xdist_group("demo")),
    ],
)
def test_demo_does_what_it_says_and_leaves_nothing(
    request: pytest.FixtureRequest, kind: Kind
) -> None:
    engine = request.getfixturevalue("docker_engine") if kind is Kind.DOCKER else None
    with own_state(f"demo-{kind}") as state:
        stack = Stack(kind, engine, state)

        demo = Demo(stack.done("demo"))

        assert_says_where_jobs_run_and_how_good_the_model_is(demo, stack)
        platform = stack.platform()
        with platform.client(tries_max=30) as client:
            assert_model_is_trained_registered_and_deployed(demo, platform, client)
            assert_all_of_it_is_one_connected_trace(demo, platform, client)
            assert_killed_replica_is_replaced_and_answers_again(stack, client)
            assert_output_of_replicas_is_printed(platform, client)
            assert_inference_says_that_the_only_node_is_closed(client)
        assert_down_and_clean_leave_nothing(stack, platform)


def assert_says_where_jobs_run_and_how_good_the_model_is(demo: Demo, stack: Stack) -> None:
    assert SAYS_RUNTIME[stack.kind] in demo.text
    if stack.engine is not None:
        assert stack.engine.url in demo.text
        assert "Building the image" not in demo.text
    assert float(demo.said("accuracy on unseen digits")) >= ACCURACY_MIN
    assert demo.said("lines followed") == str(LINE_COUNT)


def assert_model_is_trained_registered_and_deployed(
    demo: Demo, platform: Platform, client: Client
) -> None:
    job = client.job(demo.said("job"))
    assert (job.spec.name, job.state) == (EXAMPLE.name, "SUCCEEDED")
    lines = [record.text for record in client.follow_logs(job.id)]
    assert lines[0].startswith("epoch 1 of 20")
    assert lines[-1].startswith("kept ")
    assert len(lines) == LINE_COUNT
    [version] = [found for found in client.model_versions(DIGITS) if found.job_id == job.id]
    assert version.state == "READY"
    assert version.source_digest == job.spec.source_digest
    assert version.metrics.keys() >= {"loss", "accuracy"}
    [file] = version.files
    with platform.http() as http:
        content = http.get(f"/v1/artifacts/{file.digest}").content
    assert len(content) == file.size_bytes
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == file.digest
    deployment = client.deployment(DIGITS)
    assert (deployment.state, deployment.model_version) == ("SERVING", version.version)


def assert_all_of_it_is_one_connected_trace(demo: Demo, platform: Platform, client: Client) -> None:
    trace_id = demo.said("trace").partition(":")[0]

    def connected() -> TraceView | None:
        found = fetch_trace(platform.running.jaeger_url, trace_id)
        if found is None or found.orphans or not set(found.services) >= SERVICES:
            return None  # spans arrive in batches, children before parents
        return found

    seen = until(connected, what="the trace is connected", within_s=60)

    assert [root.name for root in seen.roots] == ["demo"]
    job, deployment = client.job(demo.said("job")), client.deployment(DIGITS)
    assert job.trace_id == deployment.trace_id == trace_id


def assert_killed_replica_is_replaced_and_answers_again(stack: Stack, client: Client) -> None:
    [before] = client.deployment(DIGITS).replicas
    os.killpg(stack.process_of(before.attempt_id), signal.SIGKILL)

    def replaced() -> Deployment | None:
        found = client.deployment(DIGITS)
        ready = [replica for replica in found.replicas if replica.state == "READY"]
        return found if ready and ready[0].attempt_id != before.attempt_id else None

    until(replaced, what="another replica is ready", within_s=120)
    held_out = unseen_digits(stack.state)

    def answered() -> list[dict[str, Any]] | None:
        try:
            return client.infer(DIGITS, held_out).outputs
        except ApiError:
            return None  # the gateway hears of the replica a moment after the scheduler

    outputs = until(answered, what="inference works again", within_s=60)
    assert accuracy_of(outputs, held_out) >= ACCURACY_MIN


def assert_output_of_replicas_is_printed(platform: Platform, client: Client) -> None:
    told = platform.cli("deploy", "logs", DIGITS)

    assert told.returncode == 0, told.stderr
    printed = [*told.stdout.splitlines(), *told.stderr.splitlines()]
    assert set(printed) <= {record.text for record in client.deployment_logs(DIGITS)}
    assert printed


def assert_inference_says_that_the_only_node_is_closed(client: Client) -> None:
    [node] = client.nodes()
    client.drain_node(node.id)

    def refused() -> ApiError | None:
        try:
            client.infer(DIGITS, {"inputs": []})
        except ApiError as error:
            return error if "QUEUED" in str(error) else None
        return None

    refusal = until(refused, what="no replica answers")

    assert refusal.status == 503
    assert "no node that is large enough takes anything new: 1 cordoned" in str(refusal)


def assert_down_and_clean_leave_nothing(stack: Stack, platform: Platform) -> None:
    before = stack.state.read()
    scope = platform.environment_of("scheduler").get("MODELYARD_RUNTIME__SCOPE", "")

    stack.done("down")

    assert [part for part, record in before.processes.items() if is_alive(record)] == []
    assert [name for name, port in before.ports.items() if ports.answers(port)] == []
    assert processes_that_know(stack.state.root) == []
    if stack.engine is not None:
        left = stack.engine.things(scope)
        assert (left["containers"], left["networks"]) == ([], [])

    stack.done("clean")

    assert not stack.state.root.exists()


def unseen_digits(state: State) -> dict[str, Any]:
    """Return an inference request for digits that the training never sees, with their labels."""
    python = environments.ensure(state, runtimes.MODEL_ENVIRONMENT) / "bin" / "python"
    printed = subprocess.run(
        [str(python), str(EXAMPLE / "holdout.py")], capture_output=True, check=True, timeout=60
    )
    return dict(json.loads(printed.stdout))


def accuracy_of(outputs: list[dict[str, Any]], held_out: dict[str, Any]) -> float:
    answers, labels = outputs[0]["data"], held_out["parameters"]["labels"]
    assert len(answers) == len(labels)
    return sum(int(a) == int(b) for a, b in zip(answers, labels, strict=True)) / len(labels)


def processes_that_know(folder: Path) -> list[str]:
    """Return the command lines of this machine's processes that were told of a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            told = command + (process / "environ").read_bytes()
        except OSError:
            continue  # gone by now
        if str(folder).encode() in told:
            found.append(command.replace(b"\0", b" ").decode())
    return found
