"""The main job, end to end, through the public API, as a user would do it.

Owns: the steps of `make demo` and the check of each one's result. It calls nothing but the
`modelyard` command, under one trace: a digits classifier is trained, followed, registered, deployed
and asked. Fails with one sentence that names the step and where its log is.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

from modelyard.cli.output import show_fields
from modelyard.cli.settings import CliSettings
from modelyard.cli.trace_view import TraceView, fetch_trace
from modelyard.cli.tracing import root_span
from opentelemetry import propagate, trace

from deploy.local.errors import StackError

MODEL: Final = "digits"
DEPLOYMENT: Final = "digits"
ACCURACY_MIN: Final = 0.9
SERVICES_MIN: Final = 4
_STEP_S_MAX: Final = 120.0
_RUN_S_MAX: Final = 300

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Demo:
    """Where the command line, the model environment and the logs are."""

    cli: Path
    model_python: Path
    example: Path
    logs: Path
    settings: CliSettings

    def run(self) -> None:
        """Do every step; raises StackError at the first one that fails."""
        started = time.monotonic()
        with root_span("demo", otlp_endpoint=self.settings.otlp_endpoint, service="demo") as root:
            trace_id = trace.format_trace_id(root.get_span_context().trace_id)
            job = self._train()
            line_count = self._follow(job["id"])
            job = self._succeeded(job["id"])
            version = self._registered(job["id"])
            deployment = self._deploy(version)
            accuracy = self._ask()
        seen = self._trace(trace_id)
        waited = _seconds_between(job["created_at"], job["started_at"])
        print()
        show_fields(
            [
                ("job", job["id"]),
                ("submit to first instruction", f"{waited:.2f} s"),
                ("lines followed", line_count),
                ("model version", f"{MODEL}/{version} (champion)"),
                ("deployment", f"{DEPLOYMENT} {deployment['id']}"),
                ("accuracy on unseen digits", f"{accuracy:.4f}"),
                ("trace", f"{trace_id}: {len(seen.spans)} spans, {len(seen.services)} services"),
                ("services in the trace", ", ".join(seen.services)),
                ("main job took", f"{time.monotonic() - started:.1f} s"),
                ("look at it", f".venv/bin/modelyard trace show {trace_id}"),
                ("stop everything", "make down"),
            ]
        )

    def _train(self) -> dict[str, Any]:
        _say(1, "submit a training job")
        return self._json(
            "submit a training job",
            "run",
            str(self.example),
            "--detach",
            "--output",
            f"model.joblib:{MODEL}",
            "--time-out",
            str(_RUN_S_MAX),
            "--",
            "python",
            "train.py",
        )

    def _follow(self, job_id: str) -> int:
        _say(2, "follow its output live")
        lines = 0
        with subprocess.Popen(
            [str(self.cli), "job", "logs", "-f", job_id],
            env=self._environment(),
            stdout=subprocess.PIPE,
            text=True,
        ) as followed:
            assert followed.stdout is not None
            give_up = threading.Timer(_RUN_S_MAX + _STEP_S_MAX, followed.kill)
            give_up.start()
            try:
                for line in followed.stdout:
                    print(f"      {line.rstrip()}")
                    lines += 1
            finally:
                give_up.cancel()
        if followed.returncode != 0 or lines == 0:
            raise self._failed("follow its output", "log_collector")
        return lines

    def _succeeded(self, job_id: str) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            job = self._json("show the job", "job", "show", job_id, is_traced=False)
            return job if job["state"] in {"SUCCEEDED", "FAILED", "CANCELLED"} else None

        job = self._until("finish the job", "scheduler", ended)
        if job["state"] != "SUCCEEDED":
            raise self._failed(f"run the job ({job['state']}: {job['reason']})", "scheduler")
        return job

    def _registered(self, job_id: str) -> int:
        _say(3, "find its model in the registry, and call it champion")

        def registered() -> int | None:
            try:
                shown = self._json("show the model", "model", "show", MODEL, is_traced=False)
            except StackError:
                return None  # the event has not arrived yet: the model does not exist
            for version in shown["versions"]:
                if version["job_id"] == job_id and version["state"] == "READY":
                    bytes_stored = sum(file["size_bytes"] for file in version["files"])
                    return int(version["version"]) if bytes_stored else None
            return None

        version = self._until("register the model", "model_registry", registered)
        moved = self._json("set the alias", "model", "alias", MODEL, "champion", str(version))
        if moved["aliases"].get("champion") != version:
            raise self._failed("set the alias champion", "model_registry")
        print(f"      {MODEL} version {version} is champion")
        return version

    def _deploy(self, version: int) -> dict[str, Any]:
        _say(4, "deploy the champion")
        if DEPLOYMENT in self._deployment_names():
            print(f"      the deployment {DEPLOYMENT} of before is deleted first", flush=True)
            self._json(
                "delete the last deployment", "deploy", "delete", DEPLOYMENT, is_traced=False
            )
            self._until(
                "delete the last deployment",
                "scheduler",
                lambda: DEPLOYMENT not in self._deployment_names() or None,
            )
        self._json("deploy the model", "deploy", "create", DEPLOYMENT, f"models:/{MODEL}@champion")

        def serving() -> dict[str, Any] | None:
            found = self._json("show the deployment", "deploy", "show", DEPLOYMENT, is_traced=False)
            return found if found["state"] == "SERVING" else None

        deployment = self._until("start the model server", "scheduler", serving)
        if deployment["model_version"] != version:
            raise self._failed(f"serve version {version}", "scheduler")
        print(f"      {DEPLOYMENT} serves version {version}")
        return deployment

    def _ask(self) -> float:
        _say(5, "ask it about digits that the training never saw")
        held_out = _run([str(self.model_python), str(self.example / "holdout.py")])
        if held_out.returncode != 0:
            raise StackError(f"step 'hold out digits' failed: {held_out.stderr.strip()[-300:]}")
        labels = json.loads(held_out.stdout)["parameters"]["labels"]

        def answered() -> list[int] | None:
            done = self._call("--json", "predict", DEPLOYMENT, stdin=held_out.stdout)
            if done.returncode != 0:
                return None  # the gateway may hear of the replica a moment after the scheduler
            return list(json.loads(done.stdout)["outputs"][0]["data"])

        answers = self._until("ask the model", "api_gateway", answered)
        if len(answers) != len(labels):
            raise self._failed("get an answer for each digit", "api_gateway")
        right = sum(int(a) == int(b) for a, b in zip(answers, labels, strict=True))
        accuracy = right / len(labels)
        print(f"      {right} of {len(labels)} right")
        if accuracy < ACCURACY_MIN:
            raise self._failed(
                f"reach accuracy {ACCURACY_MIN} (it was {accuracy:.3f})", "scheduler"
            )
        return accuracy

    def _trace(self, trace_id: str) -> TraceView:
        _say(6, "look at the trace")

        def connected() -> TraceView | None:
            found = fetch_trace(self.settings.jaeger_url, trace_id)
            if found is None or found.orphans or len(found.roots) != 1:
                return None  # spans arrive in batches, children before parents
            return found if len(found.services) >= SERVICES_MIN else None

        return self._until("collect one connected trace", "jaeger", connected)

    def _json(self, step: str, *arguments: str, is_traced: bool = True) -> dict[str, Any]:
        return dict(self._answer(step, *arguments, is_traced=is_traced))

    def _deployment_names(self) -> list[str]:
        found = self._answer("list deployments", "deploy", "list", is_traced=False)
        return [deployment["spec"]["name"] for deployment in found]

    def _answer(self, step: str, *arguments: str, is_traced: bool) -> Any:
        done = self._call("--json", *arguments, is_traced=is_traced)
        if done.returncode != 0:
            raise StackError(f"step '{step}' failed: {done.stderr.strip()[-300:]}")
        return json.loads(done.stdout)

    def _call(
        self, *arguments: str, stdin: str | None = None, is_traced: bool = True
    ) -> subprocess.CompletedProcess[str]:
        environment = self._environment(is_traced=is_traced)
        return _run([str(self.cli), *arguments], env=environment, stdin=stdin)

    def _environment(self, *, is_traced: bool = True) -> dict[str, str]:
        # Polls stay out of the demo's trace: it is to show what happened, not how often we looked.
        carried: dict[str, str] = {}
        if is_traced:
            propagate.inject(carried)
        return {
            **os.environ,
            "MODELYARD_URL": self.settings.url,
            "MODELYARD_API_KEY": self.settings.api_key.get_secret_value(),
            "MODELYARD_OTLP_ENDPOINT": self.settings.otlp_endpoint if is_traced else "",
            "MODELYARD_JAEGER_URL": self.settings.jaeger_url,
            "TRACEPARENT": carried.get("traceparent", ""),
        }

    def _until(self, step: str, part: str, attempt: Callable[[], Result | None]) -> Result:
        deadline = time.monotonic() + _STEP_S_MAX
        while time.monotonic() < deadline:
            result = attempt()
            if result is not None:
                return result
            time.sleep(0.2)
        raise self._failed(step, part)

    def _failed(self, step: str, part: str) -> StackError:
        return StackError(f"the demo could not {step}; see {self.logs / f'{part}.log'}")


def _run(
    command: list[str], *, env: dict[str, str] | None = None, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            env=env,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=_STEP_S_MAX,
        )
    except subprocess.TimeoutExpired as error:
        raise StackError(f"'{' '.join(command)}' did not end in {_STEP_S_MAX:.0f} s") from error


def _say(number: int, what: str) -> None:
    print(f"  {number}. {what}")
    sys.stdout.flush()


def _seconds_between(earlier: str, later: str) -> float:
    return (datetime.fromisoformat(later) - datetime.fromisoformat(earlier)).total_seconds()
