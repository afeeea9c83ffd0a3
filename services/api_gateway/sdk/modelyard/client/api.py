"""Calls on the REST API, one method each.

Repeats what may be repeated: reads, and submissions, which carry an idempotency key; on 429, 502,
503, 504, whatever comes with Retry-After (such as 409 IN_PROGRESS) and lost connections, with full
jitter, at most `tries_max` times, honouring Retry-After. Following logs goes on after a lost
connection from the last position that was seen.

What can be no name or id is not asked for: InvalidId.
"""

import json
import random
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote

import httpx
import httpx_sse
from modelyard.client.errors import PASSING, ApiError, ConnectionFailed, ElementAlone, InvalidId
from modelyard.client.values import (
    ApiKey,
    Deployment,
    DeploymentExplanation,
    DeploymentSpec,
    Identity,
    InferenceAnswer,
    Job,
    JobAttempt,
    JobChanges,
    JobExplanation,
    JobSpec,
    JobStats,
    LogRecord,
    Member,
    Model,
    ModelVersion,
    Node,
    Plan,
    Queue,
    Tenant,
)
from opentelemetry import propagate

_BACKOFF_S_MAX: Final = 5.0
AWAY_S_MIN: Final = 120.0
"""For so long somebody who follows pauses between tries before they give up: in that time a gateway
comes back."""
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,200}")
KEY_IN_WORDS: Final = "must be 1 to 200 printable ASCII characters, and no spaces"
_PAGE_SIZE_MAX: Final = 200
_SAID_MAX: Final = 500


@dataclass(slots=True)
class Client:
    """One connection pool to one gateway, as one caller. Use it as a context manager."""

    url: str
    api_key: str = field(repr=False)
    """Or a token of the issuer that the platform believes."""
    timeout_s: float = 30.0
    tries_max: int = 6
    sleep: Callable[[float], None] = time.sleep
    transport: httpx.BaseTransport | None = None
    for_tenant: str | None = None
    """Which one is meant; for tokens of people who are members of several."""
    paused_s: float = field(init=False, default=0.0)
    """For how long it has paused before it tried again, in all."""
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        """Open the pool; raises ValueError for what can't be a key."""
        if not (self.api_key.isascii() and self.api_key.isprintable()):
            raise ValueError("an API key has printable ASCII characters only")
        named = {"Modelyard-Tenant": self.for_tenant} if self.for_tenant else {}
        if self.api_key:
            named["Authorization"] = f"Bearer {self.api_key}"
        self._http = httpx.Client(
            base_url=self.url,
            headers=named,
            timeout=self.timeout_s,
            transport=self.transport,
        )

    def __enter__(self) -> Self:
        """Return the client."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the pool."""
        self._http.close()

    # Jobs

    def submit_job(self, spec: JobSpec, *, idempotency_key: str | None = None) -> Job:
        """Queue a job; it always carries a key, so that a retry queues no second one.

        Raises ValueError for what can't be a key.
        """
        return self._submit(spec.described(), idempotency_key)

    def submit_again(
        self,
        job_id: str,
        changes: JobChanges = JobChanges(),  # noqa: B008 it is frozen
        *,
        idempotency_key: str | None = None,
    ) -> Job:
        """Queue a job like another one, but for some changes; that one stays as it is.

        An array is run again whole. Raises ElementAlone for one of its elements.
        """
        before = self._call("GET", _path("jobs", job_id), is_repeatable=True)
        if element := before.get("element"):
            raise ElementAlone(job_id, array_id=element["array_id"], index=element["index"])
        return self._submit(changes.made_to(before["spec"]), idempotency_key)

    def check_job(self, spec: JobSpec) -> None:
        """Raise ApiError for what a submission would be refused for now; nothing is queued.

        Source and inputs need not be stored yet: ask before sending them.
        """
        self._call("POST", "/v1/jobs/check", json=spec.described(), is_repeatable=True)

    def job(self, job_id: str) -> Job:
        """Show a job."""
        return Job.answered(self._call("GET", _path("jobs", job_id), is_repeatable=True))

    def explain_job(self, job_id: str) -> JobExplanation:
        """Say what holds a job in line, and about when it starts."""
        answer = self._call("GET", _path("jobs", job_id, "explain"), is_repeatable=True)
        return JobExplanation.answered(answer)

    def jobs(
        self,
        *,
        states: tuple[str, ...] = (),
        labels: Mapping[str, str] | None = None,
        queue: str | None = None,
        array: str | None = None,
        index: int | None = None,
        limit: int = 50,
    ) -> list[Job]:
        """Show the newest jobs in one of these states, with all of these labels, of this queue.

        By default those in any state and of any queue; elements of arrays only by the `array` that
        they are of, and with `index` one of them: `client.jobs(array=sweep.id, index=7)`.
        """
        given = {"queue": queue, "array": array, "index": index}
        sought: dict[str, Any] = {
            "state": list(states),
            "label": [f"{name}={value}" for name, value in (labels or {}).items()],
            **{name: value for name, value in given.items() if value is not None},
        }
        found = self._pages("/v1/jobs", "jobs", limit=limit, **sought)
        return [Job.answered(job) for job in found]

    def attempts(self, job_id: str) -> list[JobAttempt]:
        """Show what became of each try to run a job, the first one first."""
        found = self._pages(_path("jobs", job_id, "attempts"), "attempts")
        return [JobAttempt.answered(attempt) for attempt in found]

    def stats(self, *, window: timedelta = timedelta(days=1)) -> JobStats:
        """Show how the tenant's jobs have fared in a window up to now, 30 days at most."""
        params = {"window": f"PT{window.total_seconds():.0f}S"}
        answer = self._call("GET", "/v1/stats", params=params, is_repeatable=True)
        return JobStats.answered(answer)

    def cancel_job(self, job_id: str, *, reason: str) -> Job:
        """Ask for a job's end."""
        answer = self._call(
            "POST", _path("jobs", job_id, "cancel"), json={"reason": reason}, is_repeatable=True
        )
        return Job.answered(answer)

    def queues(self) -> list[Queue]:
        """Show by name the queues that are paused, or of which a job has not ended."""
        return [Queue.answered(queue) for queue in self._pages("/v1/queues", "queues")]

    def pause_queue(self, name: str, *, reason: str) -> Queue:
        """Admit nothing of a queue any more; what runs goes on, what waits keeps its place.

        No job needs to have named it yet. Of one that is paused the first reason stands.
        """
        return self._change_queue(name, "pause", {"reason": reason})

    def resume_queue(self, name: str) -> Queue:
        """End a queue's pause."""
        return self._change_queue(name, "resume", None)

    def _change_queue(self, name: str, how: str, body: Any) -> Queue:
        answer = self._call("POST", _path("queues", name, how), json=body, is_repeatable=True)
        return Queue.answered(answer)

    def _submit(self, spec: dict[str, Any], idempotency_key: str | None) -> Job:
        answer = self._call(
            "POST",
            "/v1/jobs",
            json=spec,
            headers=_repeatable(idempotency_key),
            is_repeatable=True,
        )
        return Job.answered(answer)

    def logs(self, job_id: str, *, after: str = "", task: int | None = None) -> Iterator[LogRecord]:
        """Yield a job's output that is stored now, page by page; of its tasks all, or this one's.

        One task's is that of the last attempt. An array has none: its elements have.
        """
        return self._stored(_path("jobs", job_id, "logs"), after, task=task)

    def follow_logs(
        self,
        job_id: str,
        *,
        after: str = "",
        is_known: bool = False,
        on_quiet: Callable[[], bool] | None = None,
        task: int | None = None,
    ) -> Iterator[LogRecord]:
        """Yield a job's output as it comes, until it is complete; over lost connections.

        Where none comes for a while, `on_quiet` is called each 10 s or so; the end is there, too,
        when it says False. With `is_known`, for a job that was seen before, its first stream is
        waited for as long as any later one. Of several tasks the output comes one after another,
        or only that of one.
        """
        path = _path("jobs", job_id, "logs")
        return self._followed(path, after, on_quiet, is_known=is_known, task=task)

    def deployment_logs(self, name: str, *, after: str = "") -> Iterator[LogRecord]:
        """Yield the output of a deployment's replicas that is stored now, page by page."""
        return self._stored(_path("deployments", name, "logs"), after)

    def follow_deployment_logs(self, name: str, *, after: str = "") -> Iterator[LogRecord]:
        """Yield output of a deployment's replicas as it comes, until that of each is complete."""
        return self._followed(_path("deployments", name, "logs"), after, None)

    def _stored(self, path: str, after: str, *, task: int | None = None) -> Iterator[LogRecord]:
        while True:
            page = self._call(
                "GET",
                path,
                params={"after": after, "limit": 1000} | _of_task(task),
                is_repeatable=True,
            )
            for record in page["records"]:
                yield LogRecord.answered(record)
            # A page may be empty and yet move on: what it passed over did not match.
            if page["is_complete"] or page["next"] == after:
                return
            after = page["next"]

    def _followed(
        self,
        path: str,
        after: str,
        on_quiet: Callable[[], bool] | None,
        *,
        is_known: bool = False,
        task: int | None = None,
    ) -> Iterator[LogRecord]:
        failures, away_s_min, away_from_s = 0, AWAY_S_MIN if is_known else 0.0, self.paused_s
        while True:
            try:
                for record in self._stream(path, after, task):
                    failures, away_s_min, away_from_s = 0, AWAY_S_MIN, self.paused_s
                    if record is not None:
                        after = record.position
                        yield record
                    elif on_quiet is not None and not on_quiet():
                        return
                return
            except _StreamTooOld:
                failures, away_from_s = 0, self.paused_s
            except (ApiError, ConnectionFailed) as error:
                failures += 1
                is_enough = self.paused_s - away_from_s >= away_s_min
                if not error.is_passing or (is_enough and failures >= self.tries_max):
                    raise
            self.pause(_backoff_s(failures))

    # Artifacts

    def put_artifact(self, path: Path, *, digest: str) -> str:
        """Store a file's bytes and return their digest."""

        def attempt() -> httpx.Response:
            with path.open("rb") as file:
                return self._http.post(
                    "/v1/artifacts",
                    params={"digest": digest},
                    content=file,
                    headers=_traced({"Content-Length": str(path.stat().st_size)}),
                )

        return str(self._repeat(attempt, is_repeatable=True)["digest"])

    # Models

    def models(self) -> list[Model]:
        """Show the tenant's models."""
        return [Model.answered(model) for model in self._pages("/v1/models", "models")]

    def model(self, name: str) -> Model:
        """Show a model."""
        return Model.answered(self._call("GET", _path("models", name), is_repeatable=True))

    def model_versions(self, name: str) -> list[ModelVersion]:
        """Show a model's versions, newest first."""
        found = self._pages(_path("models", name, "versions"), "versions")
        return [ModelVersion.answered(version) for version in found]

    def set_alias(
        self, name: str, alias: str, version: int, *, if_revision: int | None = None
    ) -> Model:
        """Point an alias at a version.

        With `if_revision` only if the alias is at that one of the model's `alias_revisions`, here
        and below: else ApiError VERSION_MISMATCH, whose problem names the `current_version`.
        """
        answer = self._call(
            "PUT",
            _path("models", name, "aliases", alias),
            json={"version": version},
            headers=_if_match(if_revision),
            is_repeatable=True,
        )
        return Model.answered(answer)

    def remove_alias(self, name: str, alias: str, *, if_revision: int | None = None) -> Model:
        """Let an alias point nowhere."""
        answer = self._call(
            "DELETE",
            _path("models", name, "aliases", alias),
            headers=_if_match(if_revision),
            is_repeatable=True,
        )
        return Model.answered(answer)

    # Deployments and inference

    def create_deployment(
        self, spec: DeploymentSpec, *, idempotency_key: str | None = None
    ) -> Deployment:
        """Start serving a model version."""
        answer = self._call(
            "POST",
            "/v1/deployments",
            json=spec.model_dump(mode="json"),
            headers=_repeatable(idempotency_key),
            is_repeatable=True,
        )
        return Deployment.answered(answer)

    def deployment(self, name: str) -> Deployment:
        """Show a deployment, by name or id."""
        answer = self._call("GET", _path("deployments", name), is_repeatable=True)
        return Deployment.answered(answer)

    def explain_deployment(self, name: str) -> DeploymentExplanation:
        """Say what holds the first of its replicas that wait, and about when it starts."""
        answer = self._call("GET", _path("deployments", name, "explain"), is_repeatable=True)
        return DeploymentExplanation.answered(answer)

    def deployments(self) -> list[Deployment]:
        """Show the tenant's deployments, newest first."""
        found = self._pages("/v1/deployments", "deployments")
        return [Deployment.answered(deployment) for deployment in found]

    def delete_deployment(self, name: str, *, if_version: int | None = None) -> Deployment:
        """Take a deployment out of routing and stop its replicas.

        With `if_version` only if it is at that version (`suspend_tenant`), which its state moves,
        too.
        """
        answer = self._call(
            "DELETE",
            _path("deployments", name),
            headers=_if_match(if_version),
            is_repeatable=True,
        )
        return Deployment.answered(answer)

    def infer(self, deployment: str, request: dict[str, Any]) -> InferenceAnswer:
        """Ask a deployed model; `request` is an Open Inference Protocol v2 body."""
        answer = self._call(
            "POST",
            _path("models", deployment, "infer", root="/v2"),
            json=request,
            is_repeatable=False,
        )
        return InferenceAnswer.answered(answer)

    # Keys and the platform itself

    def whoami(self) -> Identity:
        """Tell who this client is to the platform."""
        return Identity.answered(self._call("GET", "/v1/whoami", is_repeatable=True))

    def issue_key(
        self,
        name: str,
        scopes: Sequence[str] = (),
        *,
        role: str | None = None,
        lifetime: timedelta | None = None,
    ) -> tuple[ApiKey, str]:
        """Make a key of a role or of scopes; its text is in this answer only."""
        wanted = {
            "name": name,
            "role": role,
            "scopes": list(scopes),
            "lifetime": None if lifetime is None else f"PT{lifetime.total_seconds():.0f}S",
        }
        answer = self._call("POST", "/v1/api-keys", json=wanted, is_repeatable=False)
        return ApiKey.answered(answer["key"]), str(answer["text"])

    def rotate_key(self, key_id: str, *, overlap: timedelta) -> tuple[ApiKey, str, ApiKey]:
        """Put a new key in an old one's place; return the new one, its text, and the old one."""
        answer = self._call(
            "POST",
            _path("api-keys", key_id, "rotate"),
            json={"overlap": f"PT{overlap.total_seconds():.0f}S"},
            is_repeatable=False,
        )
        new, old = (ApiKey.answered(answer[name]) for name in ("key", "replaced"))
        return new, str(answer["text"]), old

    def keys(self) -> list[ApiKey]:
        """Show the tenant's keys: all in force, and those that have ended lately."""
        # One that ends between two pages is on both: as it is by now.
        found = {key["id"]: key for key in self._pages("/v1/api-keys", "keys")}
        return [ApiKey.answered(key) for key in found.values()]

    def revoke_key(self, key_id: str) -> None:
        """Put a key out of force."""
        self._call("DELETE", _path("api-keys", key_id), is_repeatable=True)

    def create_tenant(self, name: str, plan: Plan | None = None) -> tuple[Tenant, str]:
        """Make a tenant; the text of its first key is in this answer only."""
        body = {"id": name, "plan": (plan or Plan()).model_dump()}
        answer = self._call("POST", "/v1/tenants", json=body, is_repeatable=False)
        return Tenant.answered(answer["tenant"]), str(answer["key"])

    def tenants(self) -> list[Tenant]:
        """Show all tenants by name."""
        return [Tenant.answered(found) for found in self._pages("/v1/tenants", "tenants")]

    def tenant(self, name: str) -> Tenant:
        """Show a tenant."""
        return Tenant.answered(self._call("GET", _path("tenants", name), is_repeatable=True))

    def issue_tenant_key(self, name: str) -> str:
        """Make another administrator key of a tenant; its text is in this answer only."""
        answer = self._call("POST", _path("tenants", name, "keys"), is_repeatable=False)
        return str(answer["key"])

    def suspend_tenant(self, name: str, *, reason: str, if_version: int | None = None) -> Tenant:
        """Let a tenant only read; its callers are told the reason.

        With `if_version` only the tenant of that version is changed, here and below: else ApiError
        VERSION_MISMATCH, whose problem names the `current_version`.
        """
        return self._change_tenant("POST", name, "suspend", if_version, {"reason": reason})

    def resume_tenant(self, name: str, *, if_version: int | None = None) -> Tenant:
        """Give back what a tenant may."""
        return self._change_tenant("POST", name, "resume", if_version, None)

    def delete_tenant(
        self, name: str, *, grace: timedelta, if_version: int | None = None
    ) -> Tenant:
        """Suspend a tenant, and delete all it has after the grace; until then it can be resumed."""
        answer = self._call(
            "DELETE",
            _path("tenants", name),
            params={"grace": f"PT{grace.total_seconds():.0f}S"},
            headers=_if_match(if_version),
            is_repeatable=True,
        )
        return Tenant.answered(answer)

    def plan_tenant(self, name: str, plan: Plan, *, if_version: int | None = None) -> Tenant:
        """Set how much a tenant may have, whole."""
        return self._change_tenant("PUT", name, "plan", if_version, plan.model_dump())

    def _change_tenant(
        self, method: str, name: str, what: str, if_version: int | None, body: Any
    ) -> Tenant:
        answer = self._call(
            method,
            _path("tenants", name, what),
            json=body,
            headers=_if_match(if_version),
            is_repeatable=True,
        )
        return Tenant.answered(answer)

    def members(self, tenant: str) -> list[Member]:
        """Show a tenant's members."""
        found = self._pages(_path("tenants", tenant, "members"), "members")
        return [Member.answered(member) for member in found]

    def put_member(
        self,
        tenant: str,
        subject: str,
        roles: Sequence[str],
        *,
        issuer: str | None = None,
        if_version: int | None = None,
    ) -> Member:
        """Let somebody be a member with these roles and no others.

        Without an issuer the subject is known to the one whose tokens the platform takes. With
        `if_version` only the member of that version is changed (`suspend_tenant`).
        """
        answer = self._call(
            "PUT",
            _path("tenants", tenant, "members"),
            params=_person(subject, issuer),
            json={"roles": list(roles)},
            headers=_if_match(if_version),
            is_repeatable=True,
        )
        return Member.answered(answer)

    def remove_member(
        self,
        tenant: str,
        subject: str,
        *,
        issuer: str | None = None,
        if_version: int | None = None,
    ) -> None:
        """Let somebody be a member no longer; the keys that they made are revoked.

        With `if_version` only if the member is at that version.
        """
        self._call(
            "DELETE",
            _path("tenants", tenant, "members"),
            params=_person(subject, issuer),
            headers=_if_match(if_version),
            is_repeatable=True,
        )

    def nodes(self) -> list[Node]:
        """Show the machines that jobs and replicas run on; a thousand at most.

        Asked for once, like `readiness`: who asks how things are wants no patience.
        """
        answer = self._call("GET", "/v1/nodes", is_repeatable=False)
        return [Node.answered(node) for node in answer["nodes"]]

    def cordon_node(self, node_id: str) -> Node:
        """Place nothing new on a node; what runs there goes on."""
        return self._change_node(node_id, "cordon")

    def drain_node(self, node_id: str) -> Node:
        """Cordon a node and move off what runs there; it is empty once nothing of it is used."""
        return self._change_node(node_id, "drain")

    def uncordon_node(self, node_id: str) -> Node:
        """Open a node again and end its drain; what was asked to leave it goes on leaving."""
        return self._change_node(node_id, "uncordon")

    def _change_node(self, node_id: str, how: str) -> Node:
        answer = self._call("POST", _path("nodes", node_id, how), is_repeatable=True)
        return Node.answered(answer)

    def readiness(self) -> dict[str, Any]:
        """Tell what the gateway can reach; never raises for a platform that is not ready."""
        try:
            answer = self._http.get("/readyz", params={"verbose": "true"})
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self.url}: {error}") from error
        return dict(self._read(answer))

    def _pages(
        self, path: str, name: str, *, limit: int | None = None, **params: Any
    ) -> Iterator[Any]:
        token, left = "", limit
        while left is None or left > 0:
            size = _PAGE_SIZE_MAX if left is None else min(_PAGE_SIZE_MAX, left)
            page = self._call(
                "GET",
                path,
                params={**params, "page_size": size, "page_token": token},
                is_repeatable=True,
            )
            yield from page[name]
            left = None if left is None else left - len(page[name])
            token = page["next_page_token"]
            if not token:
                return

    def _call(self, method: str, path: str, *, is_repeatable: bool, **options: Any) -> Any:
        headers = _traced(options.pop("headers", {}))

        def attempt() -> httpx.Response:
            return self._http.request(method, path, headers=headers, **options)

        return self._repeat(attempt, is_repeatable=is_repeatable)

    def _repeat(self, attempt: Callable[[], httpx.Response], *, is_repeatable: bool) -> Any:
        tries_max = self.tries_max if is_repeatable else 1
        for failures in range(tries_max):
            is_last = failures + 1 == tries_max
            try:
                answer = attempt()
            except httpx.TransportError as error:
                if is_last:
                    raise ConnectionFailed(f"{self.url}: {error}") from error
                self.pause(_backoff_s(failures))
                continue
            if answer.is_success:
                return self._read(answer) if answer.content else None
            is_passing = answer.status_code in PASSING or "retry-after" in answer.headers
            if is_last or not is_passing:
                raise _error(answer)
            self.pause(max(_retry_after_s(answer), _backoff_s(failures)))
        raise AssertionError("the last try returns or raises")

    def pause(self, length_s: float) -> None:
        """Wait before another try."""
        self.sleep(length_s)
        self.paused_s += length_s

    def _read(self, answer: httpx.Response) -> Any:
        try:
            return answer.json()
        except ValueError as error:
            raise ConnectionFailed(f"{self.url}: what answers there is no Modelyard") from error

    def _stream(self, path: str, after: str, task: int | None) -> Iterator[LogRecord | None]:
        """Yield records until the output is complete; raises ApiError or ConnectionFailed.

        None stands for a while without any.
        """
        try:
            for event in self._events(path, after, task):
                if event.event == "log":
                    yield LogRecord.model_validate_json(event.data)
                if event.event == "quiet":
                    yield None
                if event.event == "problem":
                    problem = json.loads(event.data)
                    # One stream lasts so long at most, however quiet the job is.
                    if problem["code"] == "DEADLINE_EXCEEDED":
                        raise _StreamTooOld
                    raise ApiError(problem["status"], problem)
                if event.event == "complete":
                    return
        except httpx.TransportError as error:
            raise ConnectionFailed(f"{self.url}: {error}") from error
        raise ConnectionFailed(f"{self.url}: the output broke off")

    def _events(
        self, path: str, after: str, task: int | None
    ) -> Iterator[httpx_sse.ServerSentEvent]:
        with httpx_sse.connect_sse(
            self._http,
            "GET",
            path,
            params={"follow": "true", "after": after} | _of_task(task),
            headers=_traced({}),
            timeout=httpx.Timeout(self.timeout_s, read=None),
        ) as source:
            if not source.response.is_success:
                source.response.read()
                raise _error(source.response)
            yield from source.iter_sse()


class _StreamTooOld(Exception):
    """The gateway has ended a stream at its longest time: come again."""


def _of_task(task: int | None) -> dict[str, Any]:
    """Return what narrows output to that of a task: nothing for all."""
    return {} if task is None else {"task": task}


def _path(*parts: str, root: str = "/v1") -> str:
    """Return a thing's path; raises InvalidId for a part that would lead to another one.

    Quoting does not keep it from that: servers take `%2F` for a slash, and dots are resolved.
    """
    for part in parts:
        if not isinstance(part, str) or "/" in part or not part.strip("."):
            raise InvalidId(f"{part!r} is no name or id")
    return "/".join([root, *(quote(part, safe="") for part in parts)])


def _repeatable(idempotency_key: str | None) -> dict[str, str]:
    """Return what makes a request repeatable; raises ValueError for what can't be a key."""
    if idempotency_key is not None and IDEMPOTENCY_KEY.fullmatch(idempotency_key) is None:
        raise ValueError(f"idempotency_key: {KEY_IN_WORDS}")
    return {"Idempotency-Key": idempotency_key or secrets.token_hex(16)}


def _person(subject: str, issuer: str | None) -> dict[str, str]:
    return {"subject": subject, **({"issuer": issuer} if issuer else {})}


def _if_match(version: int | None) -> dict[str, str]:
    return {} if version is None else {"If-Match": f'"{version}"'}


def _traced(headers: dict[str, str]) -> dict[str, str]:
    carried = dict(headers)
    propagate.inject(carried)
    return carried


def _error(answer: httpx.Response) -> ApiError:
    try:
        found = answer.json()
    except ValueError:
        found = None
    problem = found if isinstance(found, dict) else {}
    if not isinstance(problem.get("detail"), str) and "title" not in problem:
        # Not the platform's: something in between answers.
        said = answer.text[:_SAID_MAX]
        problem = {**problem, "detail": f"HTTP {answer.status_code}: {said}"}
    return ApiError(answer.status_code, problem)


def _retry_after_s(answer: httpx.Response) -> float:
    text = answer.headers.get("retry-after", "")
    return min(float(text), 60.0) if text.isdigit() else 0.0


def _backoff_s(failures: int) -> float:
    return random.uniform(0.05, min(_BACKOFF_S_MAX, 0.2 * 2**failures))  # noqa: S311 jitter, no secret
