"""What users and operators do all the while services die: enough of everything to reach each step.

Owns: what was accepted, and how it may end. The user is the SDK, which tries again; what it gives
up on, since a service was away for too long or had done it before it died, is begun anew.

Always holds: each scenario is under way once at a time, until all are told to end; a job that was
accepted is never forgotten.
"""

import asyncio
import contextlib
import hashlib
import os
import pickle
import secrets
import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, TypeVar

import asyncpg
import httpx
from modelyard.client import (
    ApiError,
    Client,
    ConnectionFailed,
    DeploymentSpec,
    Job,
    JobDependency,
    JobInput,
    JobOutput,
    JobRetries,
    JobSpec,
    JobTimeouts,
    Plan,
    Resources,
)

from deploy.local import postgres
from tests.e2e.platform import CPU_MILLICORES, Platform
from tests.support.eventually import is_within

T = TypeVar("T")

MODEL: Final = "crash"
_SERVED: Final = "served-"
_TRIES_MAX: Final = 100
_WAIT_S_MAX: Final = 90.0
_PAUSE_S: Final = 0.2
_FREEZES: Final = 3
"""Of one server: that it serves again is much quicker than that another one does."""
_RETRIES_MAX: Final = 10
"""Of a job: its node may be lost again and again."""
_PRELUDE: Final = """
import json, os, pathlib, signal, sys, time
attempt, task = os.environ["MODELYARD_ATTEMPT"], os.environ["MODELYARD_TASK"]
with (pathlib.Path(os.environ["STARTS"]) / os.environ["MODELYARD_JOB_ID"]).open("a") as starts:
    starts.write(f"{attempt} {task} {os.getpid()}\\n")
print("attempt", attempt, flush=True)
"""
_WAITS: Final = "time.sleep(600)"
_WORKS: Final = """
with open(os.environ["MODELYARD_PROGRESS"], "a") as progress:
    progress.write(json.dumps({"fraction": 0.5}) + "\\n")
time.sleep(1.5)
(pathlib.Path(os.environ["MODELYARD_OUTPUTS"]) / "model.txt").write_text(os.environ["NONCE"])
"""
_FAILS_ONCE: Final = """
kept = pathlib.Path(os.environ["MODELYARD_CHECKPOINT"], "step")
kept.write_text(attempt)
sys.exit(75 if attempt == "1" else 0)
"""
_LOST_ONCE: Final = f"if attempt == '1': {_WAITS}"
_LASTS: Final = "time.sleep(1)"
_WAITS_AT_FIRST: Final = f"if attempt == '1': {_WAITS}\n{_LASTS}"
_LASTS_LONGER: Final = "time.sleep(4)"
_ONE_TASK_FAILS_ONCE: Final = f"""
if attempt == "1":
    if task == "1":
        time.sleep(1)
        sys.exit(75)
    {_WAITS}
{_LASTS}
"""
_ISSUER: Final = "https://issuer.test"
_AGED: Final = "UPDATE job SET ended_at = ended_at - interval '31 days' WHERE id = $1"
_MISSING: Final = f"sha256:{'0' * 64}"


@dataclass(frozen=True, slots=True)
class Start:
    """That a program of a job has begun."""

    attempt: int
    task: int
    process: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """A job that the platform has taken on."""

    id: str
    key: str
    spec: JobSpec
    api_key: str
    """Whose it is."""
    ends: frozenset[str]
    """How it may end, whoever dies meanwhile."""


@dataclass(slots=True)
class Work:
    """All scenarios on one platform."""

    platform: Platform
    starts: Path
    """A folder with a file a job, a line a start: its attempt, its task and its process."""
    accepted: list[Accepted] = field(default_factory=list)
    rounds: Counter[str] = field(default_factory=Counter)
    """How often each scenario was done to its end."""
    given_up: Counter[str] = field(default_factory=Counter)
    """What callers were told that SDK and user could not mend by trying again."""
    tenants: set[str] = field(default_factory=set)
    """Those that it has made."""
    failed: list[str] = field(default_factory=list)
    """Answers that nobody may be given: the platform's own mistakes."""
    over: threading.Event = field(default_factory=threading.Event)
    node_taken: threading.Lock = field(default_factory=threading.Lock)
    """Of who empties a node, or needs what serves on it to stay for the 6 s until nobody asks it.

    A node that is emptied all the time has each server moved before that.
    """

    @contextlib.contextmanager
    def going_on(self) -> Iterator[None]:
        """Do all of it while the block runs."""
        scenarios: Mapping[str, Callable[[Client], None]] = {
            "job": self._job,
            "cancelled job": self._cancelled,
            "paused queue": self._paused,
            "retried jobs": self._retried,
            "jobs that run out of time": self._out_of_time,
            "jobs after jobs": self._after_others,
            "job of several tasks": self._several_tasks,
            "arrays": self._arrays,
            "models": self._models,
            "deployment": self._deployment,
            "short deployment": self._short_deployment,
            "tenant": self._tenant,
            "suspended tenant": self._suspended,
            "people and keys": self._people,
            "node": self._node,
            "old jobs": self._old_jobs,
            "preempted job": self._preempted,
        }
        with ThreadPoolExecutor(max_workers=len(scenarios)) as pool:
            going = [pool.submit(self._repeat, name, do) for name, do in scenarios.items()]
            try:
                yield
            finally:
                self.over.set()
                for each in going:
                    each.result()

    def probe(self, client: Client) -> None:
        """Return when a fresh job has ended, or should have long since."""
        with contextlib.suppress(ApiError, ConnectionFailed):  # the verdict tells what is wrong
            job = self._submit(client, "")
            is_within(lambda: client.job(job.id).is_terminal, within_s=_WAIT_S_MAX)

    def settle(self, client: Client) -> None:
        """End what would go on for ever: its scenario was told to end before it came to that."""
        for each in self.accepted:
            if _WAITS in each.spec.command[-1] and each.api_key == client.api_key:
                with contextlib.suppress(ApiError):  # most have ended by themselves
                    client.cancel_job(each.id, reason="it is over")
        for deployment in client.deployments():
            if deployment.spec.name.startswith(_SERVED):
                with contextlib.suppress(ApiError):  # its deletion has ended meanwhile
                    client.delete_deployment(deployment.spec.name)
        for tenant in client.tenants():
            if tenant.id in self.tenants and tenant.state not in {"DELETING", "PURGED"}:
                client.delete_tenant(tenant.id, grace=timedelta(0))
        for node in client.nodes():
            client.uncordon_node(node.id)
        for queue in client.queues():
            client.resume_queue(queue.name)

    def started(self, job_id: str) -> list[Start]:
        """Return each start of a job."""
        file = self.starts / job_id
        lines = file.read_text().splitlines() if file.exists() else []
        return [Start(*(int(number) for number in line.split())) for line in lines]

    def _repeat(self, name: str, do: Callable[[Client], None]) -> None:
        with self.platform.client(tries_max=_TRIES_MAX, sleep=self._sleep) as client:
            while not self.over.wait(_PAUSE_S):
                try:
                    do(client)
                    self.rounds[name] += 1
                except (ApiError, ConnectionFailed, httpx.TransportError, _Over) as error:
                    self._note(name, error)

    def _note(self, name: str, error: Exception) -> None:
        code = error.code if isinstance(error, ApiError) else type(error).__name__
        if isinstance(error, ApiError) and error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            self.failed.append(f"{name}: {error.problem}")
        self.given_up[f"{name}: {code}"] += 1

    def _sleep(self, seconds: float) -> None:
        if self.over.wait(min(seconds, 1.0)):
            raise _Over

    # What they do

    def _job(self, client: Client) -> None:
        """Read an input, tell progress, leave a model version, and be heard to the end."""
        digest = self._stored(client, secrets.token_bytes(16))
        job = self._submit(
            client,
            _WORKS,
            inputs=[JobInput(name="given", digest=digest)],
            outputs=[JobOutput(name="model", path="model.txt", register_as=MODEL)],
        )
        client.check_job(job.spec)  # whether another one would be taken
        self._ended(client, job)

    def _cancelled(self, client: Client) -> None:
        job = self._submit(client, _WAITS, ends={"CANCELLED"})
        self._seen(client, job, "RUNNING")
        client.cancel_job(job.id, reason="no need")
        self._ended(client, job)
        at_once = self._submit(client, _WAITS, ends={"CANCELLED"})
        client.cancel_job(at_once.id, reason="no need")
        self._ended(client, at_once)

    def _paused(self, client: Client) -> None:
        """Wait in a queue that is paused, and run once it is resumed."""
        queue = f"crash-{secrets.token_hex(6)}"
        try:
            client.pause_queue(queue, reason="it is night")
            job = self._submit(client, _LASTS, queue=queue)
        finally:
            client.resume_queue(queue)
        self._ended(client, job)

    def _retried(self, client: Client) -> None:
        """Fail once and go on from a checkpoint; be lost once; have an input that nobody has."""
        retries = JobRetries(count_max=_RETRIES_MAX, exit_codes=[75])
        failing = self._submit(client, _FAILS_ONCE, retries=retries)
        lost = self._submit(client, _LOST_ONCE, ends={"SUCCEEDED", "CANCELLED"}, retries=retries)
        unmet = self._submit(
            client, _LASTS, ends={"FAILED"}, inputs=[JobInput(name="given", digest=_MISSING)]
        )
        self._wait(lambda: self.started(lost.id), client)
        self._lose(lost)
        for job in (failing, lost, unmet):
            self._ended(client, job)

    def _out_of_time(self, client: Client) -> None:
        long = self._submit(
            client,
            _WAITS,
            ends={"FAILED", "CANCELLED"},
            timeouts=JobTimeouts(run=timedelta(seconds=1)),
        )
        self._seen(client, long, "RUNNING")
        late = self._submit(
            client,
            _LASTS,
            ends={"FAILED", "SUCCEEDED"},
            resources=Resources(cpu_millicores=CPU_MILLICORES, memory_bytes=64 << 20),
            timeouts=JobTimeouts(queue=timedelta(seconds=1)),
        )
        for job in (long, late):
            self._ended(client, job)

    def _after_others(self, client: Client) -> None:
        """Wait for another job's success, and in vain for that of one that fails."""
        first = self._submit(client, _LASTS)
        second = self._submit(client, _LASTS, after=[JobDependency(job_id=first.id)])
        bound = JobTimeouts(run=timedelta(seconds=1))
        ends = {"FAILED", "CANCELLED"}
        unmet = self._submit(client, _WAITS, ends=ends, timeouts=bound)
        in_vain = self._submit(
            client, _LASTS, ends={"CANCELLED"}, after=[JobDependency(job_id=unmet.id)]
        )
        for job in (second, in_vain):
            self._ended(client, job)

    def _several_tasks(self, client: Client) -> None:
        """Run twice at once, have one fail and the other stopped, and come back together."""
        job = self._submit(
            client,
            _ONE_TASK_FAILS_ONCE,
            ends={"SUCCEEDED", "CANCELLED"},
            retries=JobRetries(count_max=_RETRIES_MAX, exit_codes=[75]),
            tasks=2,
        )
        self._ended(client, job)

    def _arrays(self, client: Client) -> None:
        """Run to the end, each element once; and be cancelled while some run."""
        array = self._submit(client, _LASTS, array_size=3)
        self._ended(client, array)
        endless = self._submit(client, _WAITS, ends={"CANCELLED"}, array_size=3)
        self._wait(lambda: self._runs_elements(client, endless), client)
        client.cancel_job(endless.id, reason="no need")
        self._ended(client, endless)

    def _models(self, client: Client) -> None:
        name = f"made-{secrets.token_hex(6)}"
        self._model(client, name, secrets.token_bytes(8))
        client.set_alias(name, "champion", 1)
        self._ask(client, "DELETE", f"/v1/models/{name}/aliases/champion")
        self._ask(client, "PUT", f"/v1/models/{name}/tags", json={"tags": {"made": "here"}})

    def _deployment(self, client: Client) -> None:
        """Serve, answer no more for a while, serve again, more than once, and go."""
        name = self._new_deployment(client)
        try:
            for _ in range(_FREEZES):
                self._serves(client, name)
                with self.node_taken:
                    self._serves(client, name)
                    replica = client.deployment(name).replicas[0]
                    with _frozen(replica.attempt_id):
                        self._wait(lambda: client.deployment(name).state != "SERVING", client)
            self._serves(client, name)
        finally:
            client.delete_deployment(name)
        self._wait(lambda: name not in {each.spec.name for each in client.deployments()}, client)

    def _short_deployment(self, client: Client) -> None:
        """Be deleted before anything serves."""
        name = self._new_deployment(client)
        client.delete_deployment(name)
        self._wait(lambda: name not in {each.spec.name for each in client.deployments()}, client)

    def _tenant(self, client: Client) -> None:
        """Live from its making to its purge, with all that is purged."""
        name, api_key = self._new_tenant(client)
        client.plan_tenant(name, Plan(queued_jobs_max=10))
        with self._as(api_key) as theirs:
            self._model(theirs, name, secrets.token_bytes(8))
            job = self._submit(theirs, _LASTS, ends={"SUCCEEDED", "GONE"})
            self._ended(theirs, job)
        client.delete_tenant(name, grace=timedelta(0))
        self._wait(lambda: client.tenant(name).state == "PURGED", client)

    def _suspended(self, client: Client) -> None:
        """Have a job that runs stopped, and run again."""
        name, api_key = self._new_tenant(client)
        with self._as(api_key) as theirs:
            job = self._submit(theirs, _WAITS, ends={"CANCELLED", "GONE"})
            self._wait(lambda: self.started(job.id), client)
            for start_count in (2, 3):
                client.suspend_tenant(name, reason="unpaid")
                self._seen(theirs, job, "QUEUED")
                client.resume_tenant(name)
                self._wait(lambda: len(self.started(job.id)) >= start_count, client)  # noqa: B023
        client.delete_tenant(name, grace=timedelta(0))

    def _people(self, client: Client) -> None:
        """Come, get keys, and go."""
        tenant = self._patiently(client.whoami).tenant
        subject = f"auth0|{secrets.token_hex(6)}"
        client.put_member(tenant, subject, ["viewer"], issuer=_ISSUER)
        client.remove_member(tenant, subject, issuer=_ISSUER)
        key, _ = self._patiently(lambda: client.issue_key("one", role="viewer"))
        new, _, _ = self._patiently(lambda: client.rotate_key(key.id, overlap=timedelta(seconds=1)))
        client.revoke_key(new.id)

    def _node(self, client: Client) -> None:
        """Take a node from a job that runs on it."""
        with self.node_taken:
            job = self._submit(client, _LASTS_LONGER)
            self._wait(lambda: self.started(job.id), client)
            node_id = client.job(job.id).node_id
            if not node_id:  # it has ended, or is in line again
                return
            try:
                client.cordon_node(node_id)
                client.drain_node(node_id)
                self._wait(lambda: self._has_left(client, job, node_id), client)
            finally:
                client.uncordon_node(node_id)
        self._ended(client, job)

    def _old_jobs(self, client: Client) -> None:
        """Have a job that nobody asks for any more.

        No test waits for a month: to the database it ended that long ago.
        """
        job = self._submit(client, _LASTS, ends={"SUCCEEDED", "GONE"})
        self._ended(client, job)
        asyncio.run(self._aged(job))
        self._wait(lambda: self._is_gone(client, job), client)

    def _preempted(self, client: Client) -> None:
        """Make room for a job of a larger priority, and go on after it.

        Both do not fit on the node together; the smaller one lasts until it is asked to stop.
        """
        half = Resources(cpu_millicores=CPU_MILLICORES // 2, memory_bytes=64 << 20)
        more = Resources(cpu_millicores=CPU_MILLICORES // 2 + 100, memory_bytes=64 << 20)
        ends = {"SUCCEEDED", "CANCELLED"}
        small = self._submit(client, _WAITS_AT_FIRST, ends=ends, resources=half)
        self._wait(lambda: self.started(small.id), client)
        large = self._submit(client, _LASTS, resources=more, priority=small.spec.priority + 1)
        for job in (large, small):
            self._ended(client, job)

    # How

    def _new_tenant(self, client: Client) -> tuple[str, str]:
        """Return a tenant's name and a key."""
        name = f"crash-{secrets.token_hex(6)}"
        self.tenants.add(name)
        with contextlib.suppress(ApiError):  # it was made, and the answer was lost
            self._patiently(lambda: client.create_tenant(name))
        return name, self._patiently(lambda: client.issue_tenant_key(name))

    def _new_deployment(self, client: Client) -> str:
        name = f"{_SERVED}{secrets.token_hex(6)}"
        self._model(client, name, pickle.dumps({}))
        client.create_deployment(
            DeploymentSpec(
                name=name,
                model=f"models:/{name}/1",
                resources=Resources(cpu_millicores=100, memory_bytes=1 << 29),
            )
        )
        return name

    def _as(self, api_key: str) -> Client:
        return self.platform.client(api_key, tries_max=_TRIES_MAX, sleep=self._sleep)

    async def _aged(self, job: Job) -> None:
        url = postgres.service_url(self.platform.state, "scheduler")
        connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
        try:
            await connection.execute(_AGED, job.id)
        finally:
            await connection.close()

    def _has_left(self, client: Client, job: Job, node_id: str) -> bool:
        found = client.job(job.id)
        return found.is_terminal or found.node_id != node_id

    def _runs_elements(self, client: Client, array: Job) -> bool:
        found = client.job(array.id)
        return found.is_terminal or bool(found.array and found.array.elements.get("RUNNING"))

    def _is_gone(self, client: Client, job: Job) -> bool:
        try:
            client.job(job.id)
        except ApiError as error:
            return error.status == HTTPStatus.NOT_FOUND
        return False

    def _submit(
        self, client: Client, program: str, *, ends: set[str] | None = None, **more: Any
    ) -> Job:
        key = secrets.token_hex(8)
        spec = JobSpec(
            name="among the dying",
            image="modelyard/base",
            command=["python", "-c", _PRELUDE + program],
            env={"STARTS": str(self.starts), "NONCE": key},
            **{
                "resources": Resources(cpu_millicores=100, memory_bytes=64 << 20),
                "retries": JobRetries(count_max=_RETRIES_MAX),
                **more,
            },
        )
        job = client.submit_job(spec, idempotency_key=key)
        ends = ends or {"SUCCEEDED"}
        self.accepted.append(Accepted(job.id, key, spec, client.api_key, frozenset(ends)))
        return job

    def _ended(self, client: Client, job: Job) -> None:
        self._wait(lambda: client.job(job.id).is_terminal, client)

    def _serves(self, client: Client, name: str) -> None:
        self._wait(lambda: client.deployment(name).state == "SERVING", client)

    def _seen(self, client: Client, job: Job, state: str) -> None:
        def is_seen() -> bool:
            found = client.job(job.id)
            return found.state == state or found.is_terminal

        self._wait(is_seen, client)

    def _wait(self, check: Callable[[], object], client: Client) -> None:
        """Wait, bounded; what a dead service would have brought comes with the next round."""
        if not is_within(lambda: check() or self.over.is_set(), within_s=_WAIT_S_MAX):
            raise _Over
        if self.over.is_set():
            raise _Over

    def _stored(self, client: Client, content: bytes) -> str:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        file = self.starts.parent / f"content-{secrets.token_hex(8)}"
        file.write_bytes(content)
        return client.put_artifact(file, digest=digest)

    def _model(self, client: Client, name: str, content: bytes) -> None:
        digest = self._stored(client, content)
        files = [{"path": "model.pkl", "digest": digest, "size_bytes": len(content)}]
        self._ask(client, "POST", "/v1/models", json={"name": name})
        self._ask(client, "POST", f"/v1/models/{name}/versions", json={"files": files})

    def _ask(self, client: Client, method: str, path: str, **body: Any) -> None:
        """Ask for what the SDK has no method for; with a key, so that it may be asked again."""
        headers = {"Idempotency-Key": secrets.token_hex(8)}

        def ask() -> None:
            answer = http.request(method, path, headers=headers, **body)
            if not answer.is_success:
                raise ApiError(answer.status_code, answer.json())

        with self.platform.http(client.api_key) as http:
            self._patiently(ask)

    def _patiently(self, ask: Callable[[], T]) -> T:
        """Ask until there is an answer; what was done without one is done twice, if it can be."""
        while True:
            try:
                return ask()
            except ApiError as error:
                if error.status not in {HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT}:
                    raise
            except (ConnectionFailed, httpx.TransportError):
                pass
            self._sleep(_PAUSE_S)

    def _lose(self, job: Job) -> None:
        """Kill a job's program with the process above it, which would tell how it ended."""
        program = self.started(job.id)[0].process
        with contextlib.suppress(OSError):
            process = Path(f"/proc/{program}")
            if job.id.encode() not in (process / "environ").read_bytes():
                return  # it has ended, and the number is another's
            shim = int((process / "stat").read_text().rsplit(")", 1)[1].split()[1])
            for each in (shim, program):
                os.kill(each, signal.SIGKILL)


class _Over(Exception):
    """It is time to end, or this round has waited for long enough."""


@contextlib.contextmanager
def _frozen(attempt_id: str) -> Iterator[None]:
    """Freeze all processes of an attempt while the block runs."""
    mark = attempt_id.encode()
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes():
                found.append(int(entry.name))
    _signal(found, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(found, signal.SIGCONT)


def _signal(found: Sequence[int], what: signal.Signals) -> None:
    for process in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, what)
