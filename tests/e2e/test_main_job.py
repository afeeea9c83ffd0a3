"""The main job: train, follow, register, deploy, ask, by the command line and under one trace."""

import hashlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from modelyard.cli.trace_view import TraceView, fetch_trace
from modelyard.cli.tracing import root_span
from modelyard.client import ApiError, Client, Deployment, Job, ModelVersion
from opentelemetry import propagate, trace

from deploy.local import environments, stack
from deploy.local.state import CHECKOUT
from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.eventually import until

EXAMPLE: Final = CHECKOUT / "examples" / "digits"
ACCURACY_MIN: Final = 0.9
DIGITS: Final = "digits"
SERVICES: Final = {"e2e", "cli", "api-gateway", "scheduler", "model-registry", "log-collector"}


@dataclass(frozen=True, slots=True)
class MainJob:
    """What became of it."""

    job: Job
    output: str
    version: ModelVersion
    deployment: Deployment
    accuracy: float
    trace_id: str


@pytest.fixture(scope="module")
def held_out(platform: Platform) -> dict[str, Any]:
    """Return an inference request for digits that the training never sees, with their labels."""
    python = environments.ensure(platform.state, stack.MODEL_ENVIRONMENT) / "bin" / "python"
    printed = subprocess.run(
        [str(python), str(EXAMPLE / "holdout.py")], capture_output=True, check=True, timeout=60
    )
    return dict(json.loads(printed.stdout))


@pytest.fixture(scope="module")
def main_job(platform: Platform, held_out: dict[str, Any]) -> Iterator[MainJob]:
    """Run it once for this module."""
    with (
        platform.client() as client,
        root_span("main job", otlp_endpoint=platform.running.otlp_endpoint, service="e2e") as root,
    ):
        carried: dict[str, str] = {}
        propagate.inject(carried)
        traced = {"TRACEPARENT": carried["traceparent"]}

        def done(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
            finished = platform.cli("--json", *arguments, **options, **traced)
            assert finished.returncode == 0, finished.stderr
            return finished

        ran = done(
            "run", str(EXAMPLE), "--output", f"model.joblib:{DIGITS}", "--", "python", "train.py"
        )
        [job] = [job for job in client.jobs() if job.spec.name == EXAMPLE.name]
        version = until(
            lambda: version_of(client, job.id), what="the job's output becomes a model version"
        )
        done("model", "alias", DIGITS, "champion", str(version.version))
        done("deploy", "create", DIGITS, f"models:/{DIGITS}@champion")
        deployment = until(lambda: serving(client), what=f"{DIGITS} is served", within_s=60)
        until(lambda: is_routed(platform), what="the gateway knows the replica")
        asked = done("predict", DIGITS, stdin=json.dumps(held_out))
        trace_id = trace.format_trace_id(root.get_span_context().trace_id)
    yield MainJob(
        job=job,
        output=ran.stdout,
        version=version,
        deployment=deployment,
        accuracy=accuracy_of(json.loads(asked.stdout)["outputs"], held_out),
        trace_id=trace_id,
    )
    with platform.client() as client:
        client.delete_deployment(DIGITS)
        until(lambda: not client.deployments(), what=f"{DIGITS} is gone", within_s=30)


def version_of(client: Client, job_id: str) -> ModelVersion | None:
    if DIGITS not in {model.name for model in client.models()}:
        return None
    found = [version for version in client.model_versions(DIGITS) if version.job_id == job_id]
    return found[0] if found else None


def serving(client: Client) -> Deployment | None:
    found = client.deployment(DIGITS)
    return found if found.state == "SERVING" else None


def is_routed(platform: Platform) -> bool:
    with platform.http() as http:
        return http.get(f"/v2/models/{DIGITS}/ready").status_code == 200


def accuracy_of(outputs: list[dict[str, Any]], held_out: dict[str, Any]) -> float:
    answers, labels = outputs[0]["data"], held_out["parameters"]["labels"]
    assert len(answers) == len(labels)
    return sum(int(a) == int(b) for a, b in zip(answers, labels, strict=True)) / len(labels)


def test_model_is_trained_registered_deployed_and_right(main_job: MainJob) -> None:
    assert main_job.job.state == "SUCCEEDED"
    lines = [json.loads(line)["text"] for line in main_job.output.splitlines()]
    assert lines[0].startswith("epoch 1 of 20")
    assert lines[-1].startswith("kept ")
    assert len(lines) == 21
    assert main_job.version.state == "READY"
    assert main_job.version.source_digest == main_job.job.spec.source_digest
    assert main_job.version.metrics.keys() >= {"loss", "accuracy"}
    assert main_job.deployment.model_version == main_job.version.version
    assert main_job.accuracy >= ACCURACY_MIN


def test_stored_model_is_what_the_registry_says(platform: Platform, main_job: MainJob) -> None:
    [file] = main_job.version.files
    with platform.http() as http:
        content = http.get(f"/v1/artifacts/{file.digest}").content
    assert len(content) == file.size_bytes
    assert f"sha256:{hashlib.sha256(content).hexdigest()}" == file.digest


def test_all_of_it_is_one_connected_trace(platform: Platform, main_job: MainJob) -> None:
    def connected() -> TraceView | None:
        found = fetch_trace(platform.running.jaeger_url, main_job.trace_id)
        if found is None or found.orphans or not set(found.services) >= SERVICES:
            return None  # spans arrive in batches, children before parents
        return found

    seen = until(connected, what="the trace is connected", within_s=30)

    assert [root.name for root in seen.roots] == ["main job"]
    assert main_job.job.trace_id == main_job.deployment.trace_id == main_job.trace_id


def test_first_line_arrives_while_the_job_runs(bench: Bench) -> None:
    job = bench.submit(bench.spec("print('training'); wait(); print('trained')"))

    followed = bench.client.follow_logs(job.id)
    assert next(followed).text == "training"
    assert bench.client.job(job.id).state == "RUNNING"
    bench.open_gate()

    assert [record.text for record in followed] == ["trained"]
    assert bench.ended(job).state == "SUCCEEDED"


def test_killed_replica_is_replaced_and_answers_again(
    platform: Platform, client: Client, main_job: MainJob, held_out: dict[str, Any]
) -> None:
    [before] = client.deployment(DIGITS).replicas
    os.killpg(server_process(platform, before.attempt_id), signal.SIGKILL)

    def replaced() -> Deployment | None:
        found = client.deployment(DIGITS)
        ready = [replica for replica in found.replicas if replica.state == "READY"]
        return found if ready and ready[0].attempt_id != before.attempt_id else None

    until(replaced, what="another replica is ready", within_s=60)

    def answered() -> list[dict[str, Any]] | None:
        try:
            return client.infer(DIGITS, held_out).outputs
        except ApiError:
            return None  # the gateway hears of the replica a moment after the scheduler

    outputs = until(answered, what="inference works again")
    assert accuracy_of(outputs, held_out) >= ACCURACY_MIN


def server_process(platform: Platform, attempt_id: str) -> int:
    """Return the model server of an attempt, which leads its process group."""
    [started] = platform.state.root.glob(f"containers/*{attempt_id}/started.json")
    return int(json.loads(Path(started).read_text())["child"]["pid"])
