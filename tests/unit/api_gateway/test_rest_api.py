"""What callers of the REST API see, good and bad."""

import json
from datetime import timedelta

import pytest
from modelyard.scheduler.v1 import deployment_pb2, job_events_pb2, job_pb2, job_service_pb2

from services.api_gateway.domain.routing import Endpoint, Route
from services.api_gateway.entrypoints.rest import logs
from services.api_gateway.use_cases.recent import AGE_MAX
from services.chassis.errors import (
    FailedPrecondition,
    InProgress,
    InvalidArgument,
    KeyReused,
    ModelyardError,
    NotFound,
    PermissionDenied,
    QueueFull,
    Unavailable,
)
from services.chassis.tenancy import TenantId
from tests.unit.api_gateway.edge import TENANT, Edge, FakeJobs, a_job, a_spec


async def test_submit_hands_spec_key_and_tenant_to_the_scheduler() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post(
            "/v1/jobs",
            json=a_spec(timeouts={"run": "PT5M"}, outputs=[{"name": "m", "path": "m.bin"}]),
            headers={"Idempotency-Key": "k-1"},
        )
    assert answer.status_code == 202
    assert answer.headers["location"] == "/v1/jobs/job_1"
    assert answer.json()["state"] == "QUEUED"
    [(request, key, tenant)] = edge.jobs.submitted
    assert (key, tenant) == ("k-1", "default")
    assert request.spec.timeouts.run.seconds == 300
    assert request.spec.outputs[0].path == "m.bin"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (a_spec(priority=101), "priority"),
        (a_spec(comand=["typo"]), "comand"),
        (a_spec(command=[]), "command"),
        (a_spec(command="not a list"), "command"),
        (a_spec(env={"1BAD": "x"}), "env.1BAD"),
        (a_spec(resources={"cpu_millicores": 0}), "resources.cpu_millicores"),
        (a_spec(source_digest="sha256:short"), "source_digest"),
        (a_spec(name="x" * 129), "name"),
        (a_spec(timeouts={"run": "-PT1S"}), "timeouts.run"),
        (a_spec(timeouts={"run": 300}), "timeouts.run"),
        (a_spec(timeouts={"stop_grace": False}), "timeouts.stop_grace"),
        (a_spec(timeouts={"queue": "PT0S"}), "timeouts.queue"),
        (a_spec(retries={"count_max": 11}), "retries.count_max"),
        (a_spec(retries={"reasons": ["start"]}), "retries.reasons[0]"),
        (a_spec(retries={"exit_codes": [0]}), "retries.exit_codes[0]"),
        (a_spec(priority=False), "priority"),
        (a_spec(resources={"memory_bytes": (6 << 20) - 1}), "resources.memory_bytes"),
        (a_spec(outputs=[{"name": "m", "path": ""}]), "outputs[0].path"),
        (a_spec(after=[{"job_id": "Job 1"}]), "after[0].job_id"),
        (a_spec(after=[{"job_id": "job_1", "condition": "START"}]), "after[0].condition"),
        (a_spec(after=["job_1"]), "after[0]"),
        (a_spec(after=[{"job_id": "job_1"}] * 33), "after"),
        (a_spec(tasks=0), "tasks"),
        (a_spec(tasks=513), "tasks"),
        (a_spec(array_size=0), "array_size"),
        (a_spec(array_size=10_001), "array_size"),
        (a_spec(array_size=True), "array_size"),
    ],
)
async def test_a_wrong_field_is_named_and_nothing_is_submitted(
    body: dict[str, object], field: str
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] == "INVALID_ARGUMENT"
    assert any(error["field"].startswith(field) for error in problem["errors"]), problem
    assert edge.jobs.submitted == []


async def test_what_a_job_waits_for_is_passed_on_for_success_by_default_and_shown() -> None:
    edge = Edge()
    after = [{"job_id": "job_1"}, {"job_id": "job_2", "condition": "END"}]
    success = {"job_id": "job_1", "condition": "SUCCESS"}
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(after=after))
        waiting = a_job(spec=edge.jobs.submitted[0][0].spec)
        waiting.needs.append(waiting.spec.after[1])
        edge.jobs.shown.append(waiting)
        shown = await client.get("/v1/jobs/job_1")
    assert answer.status_code == 202
    assert [(each.job_id, each.condition) for each in edge.jobs.submitted[0][0].spec.after] == [
        ("job_1", job_pb2.JOB_DEPENDENCY_CONDITION_SUCCESS),
        ("job_2", job_pb2.JOB_DEPENDENCY_CONDITION_END),
    ]
    assert shown.json()["spec"]["after"] == [success, after[1]]
    assert shown.json()["needs"] == [after[1]]


async def test_how_many_tasks_a_job_has_is_passed_on_and_shown() -> None:
    edge = Edge()
    edge.jobs.attempts = [job_service_pb2.JobAttempt(id="att_1", number=1, task=3)]
    async with edge.client(key=await edge.key()) as client:
        several = await client.post("/v1/jobs", json=a_spec(tasks=8))
        one = await client.post("/v1/jobs", json=a_spec())
        [attempt] = (await client.get("/v1/jobs/job_1/attempts")).json()["attempts"]
    assert [asked.spec.task_count for asked, _, _ in edge.jobs.submitted] == [8, 1]
    assert [each.json()["spec"]["tasks"] for each in (several, one)] == [8, 1]
    assert (attempt["number"], attempt["task"]) == (1, 3)


async def test_tasks_that_the_owner_refuses_are_named_as_in_the_request() -> None:
    edge = Edge(jobs=FakeJobs(error=InvalidArgument("spec.task_count", "too many")))
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(tasks=8))
    assert answer.json()["errors"] == [{"field": "tasks", "problem": "too many"}]


async def test_how_many_elements_an_array_has_is_passed_on_and_shown() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        sent = [a_spec(array_size=100), a_spec(), a_spec(array_size=None)]
        answers = [await client.post("/v1/jobs", json=each) for each in sent]
    assert [asked.spec.array_size for asked, _, _ in edge.jobs.submitted] == [100, 0, 0]
    assert [each.json()["spec"]["array_size"] for each in answers] == [100, None, None]


async def test_an_array_is_shown_with_its_elements_by_state_and_an_element_with_its_place() -> None:
    edge = Edge()
    counts = [
        job_pb2.ElementCount(state=job_pb2.JOB_STATE_QUEUED, element_count=90),
        job_pb2.ElementCount(state=job_pb2.JOB_STATE_RUNNING, element_count=10),
    ]
    array, element = a_job(), a_job(job_id="job_2")
    array.array.CopyFrom(job_pb2.JobArray(element_counts=counts))
    element.element.CopyFrom(job_pb2.ArrayElement(array_id="job_1", index=0))
    edge.jobs.shown = [array, element, a_job()]
    async with edge.client(key=await edge.key()) as client:
        told = [(await client.get("/v1/jobs/job_1")).json() for _ in range(3)]
    assert [(each["array"], each["element"]) for each in told] == [
        ({"elements": {"QUEUED": 90, "RUNNING": 10}}, None),
        (None, {"array_id": "job_1", "index": 0}),
        (None, None),
    ]


@pytest.mark.parametrize(
    ("query", "array_id", "index"),
    [("", "", None), ("?array=job_1", "job_1", None), ("?array=job_1&index=0", "job_1", 0)],
)
async def test_elements_are_listed_by_their_array_and_index(
    query: str, array_id: str, index: int | None
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        assert (await client.get(f"/v1/jobs{query}")).status_code == 200
    [asked] = edge.jobs.listed
    asked_index = asked.array_index if asked.HasField("array_index") else None
    assert (asked.array_id, asked_index) == (array_id, index)


@pytest.mark.parametrize(
    ("query", "field", "problem"),
    [
        ("index=0", "index", "needs the array whose element it is"),
        ("array=job_1&index=-1", "index", "must be at least 0; -1 was asked for"),
        ("array=job_1&index=10000", "index", "must be less than 10000; 10000 was asked for"),
        ("array=job_1&index=x", "index", "must be a whole number, such as 3"),
        ("array=Job", "array", "must be an id or a name"),
        ("array=", "array", "must be an id or a name"),
    ],
)
async def test_elements_that_can_not_be_are_not_looked_for(
    query: str, field: str, problem: str
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get(f"/v1/jobs?{query}")
    assert answer.status_code == 422
    [told] = answer.json()["errors"]
    assert told["field"] == field
    assert told["problem"].startswith(problem)
    assert edge.jobs.listed == []


async def test_a_job_that_would_wait_in_vain_is_a_conflict_at_its_field() -> None:
    field = "spec.after[0].job_id"
    error = FailedPrecondition(f"{field}: job job_1 has failed", detail={"field": field})
    edge = Edge(jobs=FakeJobs(error=error))
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(after=[{"job_id": "job_1"}]))
    assert answer.status_code == 409
    problem = answer.json()
    assert problem["code"] == "FAILED_PRECONDITION"
    assert problem["detail"] == "after[0].job_id: job job_1 has failed"
    assert [each["field"] for each in problem["errors"]] == ["after[0].job_id"]


async def test_a_check_passes_the_job_on_and_answers_nothing() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:write")) as client:
        answer = await client.post("/v1/jobs/check", json=a_spec(priority=7))
    assert (answer.status_code, answer.content) == (204, b"")
    assert [request.spec.priority for request in edge.jobs.checked] == [7]
    assert edge.jobs.submitted == []


async def test_a_check_is_refused_as_a_submission_is() -> None:
    edge = Edge(jobs=FakeJobs(error=InvalidArgument("spec.image", "must be one of a, b")))
    async with edge.client(key=await edge.key()) as client:
        checked, submitted = [
            await client.post(path, json=a_spec()) for path in ("/v1/jobs/check", "/v1/jobs")
        ]
    assert checked.status_code == submitted.status_code == 422
    assert checked.json() == submitted.json()


async def test_a_check_needs_what_a_submission_needs() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        assert (await client.post("/v1/jobs/check", json=a_spec())).status_code == 403


async def test_a_job_that_waits_is_explained() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        answer = await client.get("/v1/jobs/job_1/explain")
    assert answer.status_code == 200
    assert answer.json() == {
        "job_id": "job_1",
        "state": "QUEUED",
        "hold": "RESOURCES",
        "because": "no node has room for it",
        "helped_by": "the end of what runs",
        "jobs_before": 2,
        "estimated_start_at": None,
        "estimate_basis": None,
    }


async def test_a_deployment_whose_replicas_wait_is_explained() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("deployments:read")) as client:
        answer = await client.get("/v1/deployments/digits/explain")
    assert answer.status_code == 200
    assert answer.json() == {
        "deployment_id": "dep_1",
        "state": "PREPARING",
        "waiting_count": 2,
        "hold": "PLAN",
        "because": "its tenant's replicas before it take what the plan lets it take",
        "helped_by": "a larger plan",
        "estimated_start_at": "2027-01-15T08:00:00Z",
        "estimate_basis": "HISTORY",
    }


async def test_malformed_json_is_a_problem_document() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post(
            "/v1/jobs", content=b"{", headers={"content-type": "application/json"}
        )
    assert answer.status_code == 422
    assert answer.json()["code"] == "INVALID_ARGUMENT"
    assert [error["field"] for error in answer.json()["errors"]] == ["body"]


async def test_a_body_full_of_wrong_fields_gets_a_short_answer() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(**{f"f{n}": 0 for n in range(900)}))
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) == 20


async def test_an_id_that_can_be_none_is_refused_here() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answers = [
            await client.get("/v1/jobs/%00"),
            await client.get("/v1/jobs/%00/logs"),
            await client.post("/v1/jobs/%00/cancel", json={}),
            await client.delete("/v1/api-keys/%00"),
        ]
    assert [answer.status_code for answer in answers] == [422] * 4


async def test_a_body_over_its_bound_is_refused() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(env={"A": "x" * 20_000}))
    assert answer.status_code == 413
    assert answer.json()["code"] == "PAYLOAD_TOO_LARGE"
    assert edge.jobs.submitted == []


async def test_missing_wrong_expired_and_revoked_keys_read_the_same() -> None:
    edge = Edge()
    good = await edge.key(lifetime=timedelta(hours=1))
    revoked = await edge.key()
    answers = []
    async with edge.client() as client:
        for header in (None, "Bearer nonsense", f"Basic {good}", f"Bearer {good[:-1]}x"):
            headers = {} if header is None else {"Authorization": header}
            answers.append(await client.get("/v1/jobs", headers=headers))
    async with edge.client(key=good) as client:
        key_id = "key_" + revoked.split("_")[1]
        assert (await client.delete(f"/v1/api-keys/{key_id}")).status_code == 204
        answers.append(await client.get("/v1/jobs", headers={"Authorization": f"Bearer {revoked}"}))
        edge.clock.elapsed_s += 3601
        answers.append(await client.get("/v1/jobs"))
    assert [answer.status_code for answer in answers] == [401] * 6
    assert len({answer.text for answer in answers}) == 1


async def test_a_revoked_key_acts_no_longer_than_the_cache_lives() -> None:
    edge = Edge()
    admin, other = await edge.key(), await edge.key("jobs:read")
    async with edge.client(key=other) as client:
        assert (await client.get("/v1/jobs")).status_code == 200
        revoking = {"Authorization": f"Bearer {admin}"}
        key_id = "key_" + other.split("_")[1]
        await client.delete(f"/v1/api-keys/{key_id}", headers=revoking)
        edge.clock.elapsed_s += AGE_MAX.total_seconds()
        assert (await client.get("/v1/jobs")).status_code == 401


async def test_a_key_without_the_scope_is_forbidden_and_the_scope_is_named() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        assert (await client.get("/v1/jobs")).status_code == 200
        answer = await client.post("/v1/jobs", json=a_spec())
    assert answer.status_code == 403
    assert "jobs:write" in answer.json()["detail"]


async def test_a_key_grants_no_more_than_its_issuer_may() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("keys:write", "jobs:read")) as client:
        wider = await client.post("/v1/api-keys", json={"name": "x", "scopes": ["admin"]})
        as_wide = await client.post("/v1/api-keys", json={"name": "x", "scopes": ["jobs:read"]})
    assert (wider.status_code, wider.json()["code"]) == (403, "PERMISSION_DENIED")
    assert "artifacts:read" in wider.json()["detail"]
    assert as_wide.status_code == 201
    assert [sorted(key.scopes) for key in edge.keys.keys.values()][1:] == [["jobs:read"]]


async def test_another_tenants_key_is_not_found() -> None:
    edge = Edge()
    foreign = await edge.key(tenant=TenantId("other"))
    async with edge.client(key=await edge.key()) as client:
        answer = await client.delete("/v1/api-keys/key_" + foreign.split("_")[1])
        missing = await client.delete("/v1/api-keys/key_" + "0" * 26)
    assert (answer.status_code, missing.status_code) == (404, 404)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NotFound("job", "job_9"), 404, "NOT_FOUND"),
        (KeyReused(), 409, "KEY_REUSED"),
        (InProgress(), 409, "IN_PROGRESS"),
        (QueueFull("queue", limit=100, retry_after=timedelta(seconds=5)), 429, "QUEUE_FULL"),
        (Unavailable("scheduler"), 503, "UNAVAILABLE"),
    ],
)
async def test_the_owners_refusal_reaches_the_caller(
    error: NotFound | QueueFull, status: int, code: str
) -> None:
    edge = Edge()
    edge.jobs.error = error
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec())
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status in {429, 503} or code == "IN_PROGRESS")


async def test_a_key_that_came_with_another_body_is_named_by_its_header() -> None:
    edge = Edge()
    edge.jobs.error = KeyReused()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(), headers={"Idempotency-Key": "k"})
    problem = "was used before with another body; take another key"
    assert answer.json()["detail"] == f"Idempotency-Key: {problem}"
    assert answer.json()["errors"] == [{"field": "Idempotency-Key", "problem": problem}]


async def test_the_rate_is_told_and_its_excess_refused() -> None:
    edge = Edge(requests_max=3)
    async with edge.client(key=await edge.key()) as client:
        answers = [await client.get("/v1/jobs") for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"tenant";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"tenant";r=2;t=')
    assert int(answers[3].headers["retry-after"]) >= 1


async def test_bursts_on_one_route_are_capped_whatever_the_id() -> None:
    edge = Edge(burst="2/minute")
    async with edge.client(key=await edge.key()) as client:
        statuses = [(await client.get(f"/v1/jobs/job_{n}")).status_code for n in range(3)]
        assert statuses == [200, 200, 429]
        assert (await client.get("/v1/jobs")).status_code == 200


async def test_jobs_logs_and_deployments_logs_are_counted_apart_and_once() -> None:
    edge = Edge(burst="2/minute")
    async with edge.client(key=await edge.key()) as client:
        for path in ("/v1/jobs/job_1/logs", "/v1/deployments/dep_1/logs"):
            statuses = [(await client.get(path)).status_code for _ in range(3)]
            assert statuses == [200, 200, 429], path


async def test_refused_credentials_are_limited_by_their_source() -> None:
    edge = Edge(requests_max=2)
    async with edge.client(key="myk_wrong") as client:
        statuses = [(await client.get("/v1/jobs")).status_code for _ in range(3)]
    assert statuses == [401, 401, 429]


WAITING = a_job(state=job_pb2.JOB_STATE_QUEUED, attempt_number=1)


async def test_logs_are_a_page_or_live_events_with_positions() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        page = (await client.get("/v1/jobs/job_1/logs")).json()
        live = await client.get("/v1/jobs/job_1/logs?follow=true&after=1.0")
    assert [record["text"] for record in page["records"]] == ["line 1 ü", "line 2 ü"]
    assert [record["is_gap"] for record in page["records"]] == [False, True]
    assert (page["next"], page["is_complete"]) == ("1.2", True)
    assert live.headers["content-type"].startswith("text/event-stream")
    events = [block for block in live.text.split("\n\n") if block.startswith("id: ")]
    assert [event.split("\n")[0] for event in events] == ["id: 1.1", "id: 1.2"]
    assert json.loads(events[0].split("data: ")[1])["text"] == "line 1 ü"
    assert "event: complete" in live.text


async def test_logs_of_a_job_that_is_to_be_tried_again_are_not_complete() -> None:
    edge = Edge()
    edge.jobs.shown = [WAITING] * 2
    async with edge.client(key=await edge.key()) as client:
        whole = (await client.get("/v1/jobs/job_1/logs")).json()
        first = (await client.get("/v1/jobs/job_1/logs?attempt=1")).json()
    assert (whole["is_complete"], first["is_complete"]) == (False, True)


async def test_a_follower_goes_on_with_the_attempt_that_is_made_meanwhile() -> None:
    edge = Edge()
    running = a_job(state=job_pb2.JOB_STATE_RUNNING, attempt_number=2)
    done = a_job(state=job_pb2.JOB_STATE_FAILED, attempt_number=2)
    edge.jobs.shown = [WAITING, WAITING, running, done]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    ids = [line for line in live.text.splitlines() if line.startswith("id: ")]
    assert ids == ["id: 1.1", "id: 1.2", "id: 2.1", "id: 2.2"]
    assert live.text.count("event: complete") == 1
    assert edge.logs.followed[1].after.attempt_number == 2


async def test_following_a_job_that_ended_in_line_is_complete_at_once() -> None:
    edge = Edge()
    edge.jobs.shown = [a_job(state=job_pb2.JOB_STATE_CANCELLED)]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    assert "event: complete" in live.text
    assert edge.logs.followed == []


async def test_a_follower_of_one_attempt_does_not_wait_for_another() -> None:
    edge = Edge()
    edge.jobs.shown = [WAITING]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true&attempt=1")
    assert "event: complete" in live.text


THREE_TASKS = job_pb2.JobSpec(name="n", task_count=3)


async def test_output_of_several_tasks_says_which_has_printed_it() -> None:
    edge = Edge()
    running = a_job(state=job_pb2.JOB_STATE_RUNNING, spec=THREE_TASKS, attempt_number=2)
    done = a_job(state=job_pb2.JOB_STATE_FAILED, spec=THREE_TASKS, attempt_number=2)
    edge.jobs.shown = [running] * 6 + [done]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    lines = [line for line in live.text.splitlines() if line.startswith('data: {"position')]
    told = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert [(each["attempt_number"], each["task"]) for each in told[::2]] == [
        (number, task) for number in (1, 2) for task in range(3)
    ]
    assert told[-1]["position"] == "6.2"
    assert live.text.count("event: complete") == 1


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("task=1", 5),
        ("attempt=1&task=2", 3),
        ("attempt=2", 4),
        ("", 0),
        ("task=1&after=2.7", 2),  # where the reader is, though another attempt has begun
        ("task=1&after=5.7", 5),
    ],
)
async def test_output_of_one_task_is_a_part_of_the_jobs(query: str, place: int) -> None:
    edge = Edge()
    edge.jobs.shown = [a_job(state=job_pb2.JOB_STATE_FAILED, spec=THREE_TASKS, attempt_number=2)]
    async with edge.client(key=await edge.key()) as client:
        await client.get(f"/v1/jobs/job_1/logs?follow=true&{query}")
    assert edge.logs.followed[0].filter.attempt_number == place


async def test_output_of_a_task_of_a_job_that_ended_in_line_is_complete() -> None:
    edge = Edge()
    edge.jobs.shown = [a_job(state=job_pb2.JOB_STATE_CANCELLED, spec=THREE_TASKS)]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true&task=1")
    assert live.text.count("event: complete") == 1
    assert edge.logs.followed == []


async def test_output_of_a_task_that_a_job_does_not_have_is_not_found() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get("/v1/jobs/job_1/logs?task=1")
    assert (answer.status_code, answer.json()["detail"]) == (404, "task 1 of job_1 was not found")


async def test_an_array_has_no_output_and_nobody_waits_for_some() -> None:
    edge = Edge()
    array = a_job(state=job_pb2.JOB_STATE_RUNNING)
    array.array.SetInParent()
    edge.jobs.shown = [array, array]
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
        page = await client.get("/v1/jobs/job_1/logs")
    assert live.text.count("event: complete") == 1
    assert edge.logs.followed == []
    assert page.json()["is_complete"]


@pytest.mark.parametrize("follow", ["false", "true"])
async def test_output_of_an_attempt_that_there_never_was_is_not_found(follow: str) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.get(f"/v1/jobs/job_1/logs?attempt=2&follow={follow}")
    assert answer.status_code == 404
    assert answer.json()["detail"] == "attempt 2 of job job_1 was not found"
    assert edge.logs.followed == []


async def test_a_follower_that_waits_for_long_is_to_come_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_LOOKS_MAX", 2)
    edge = Edge()
    edge.jobs.shown = [WAITING] * 3
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    assert live.text.count("event: log") == 2
    assert live.text.endswith("event: quiet\ndata: {}\n\n")
    assert "event: complete" not in live.text


async def test_a_follower_hears_that_there_is_nothing_new() -> None:
    edge = Edge()
    edge.logs.quiet_count = 2
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    assert live.text.count("event: quiet\n") == 2
    assert "event: complete" in live.text


async def test_a_follower_that_was_cut_off_goes_on_from_its_last_event() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        await client.get("/v1/jobs/job_1/logs?follow=true", headers={"Last-Event-ID": "1.7"})
    assert edge.logs.followed[0].after.sequence == 7


async def test_a_stream_that_fails_says_so_and_does_not_claim_to_be_complete() -> None:
    edge = Edge()
    edge.logs.error = Unavailable("log-collector")
    async with edge.client(key=await edge.key()) as client:
        live = await client.get("/v1/jobs/job_1/logs?follow=true")
    assert "event: problem" in live.text
    assert "event: complete" not in live.text


async def test_artifacts_are_streamed_both_ways_within_their_bound() -> None:
    edge = Edge()
    digest = "sha256:" + "a" * 64
    async with edge.client(key=await edge.key()) as client:
        stored = await client.post(
            "/v1/artifacts", params={"digest": digest}, content=b"x" * 50_000
        )
        assert stored.status_code == 201
        found = await client.get(f"/v1/artifacts/{digest}")
        assert found.content == b"x" * 50_000
        assert (await client.get("/v1/artifacts/sha256:" + "b" * 64)).status_code == 404
        large = await client.post("/v1/artifacts", content=b"x" * 100_001)
        assert large.status_code == 413


async def test_an_empty_artifact_is_stored_and_described() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/artifacts")
        described = (await client.get("/openapi.json")).json()["paths"]["/v1/artifacts"]["post"]
    assert (answer.status_code, answer.json()["size_bytes"]) == (201, 0)
    assert not described["requestBody"].get("required")


async def test_inference_goes_on_to_another_replica_when_nothing_was_sent() -> None:
    edge = Edge()
    endpoints = (Endpoint("rep_1", "a:1"), Endpoint("rep_2", "b:2"))
    edge.routes.apply(Route("dep_1", TENANT, "digits", 1, endpoints))
    edge.replicas.refusing = {"a:1"}
    async with edge.client(key=await edge.key()) as client:
        for _ in range(4):
            answer = await client.post(
                "/v2/models/digits/infer",
                content=b"\x00raw",
                headers={"Inference-Header-Content-Length": "0"},
            )
            assert answer.status_code == 200
    assert {address for address, _ in edge.replicas.sent} == {"b:2"}
    request = edge.replicas.sent[0][1]
    assert request.body == b"\x00raw"
    assert request.headers["inference-header-content-length"] == "0"
    assert "authorization" not in request.headers


async def test_inference_failures_carry_the_protocols_error_key() -> None:
    edge = Edge()
    edge.routes.apply(Route("dep_1", TenantId("other"), "theirs", 1, (Endpoint("r", "a:1"),)))
    edge.routes.apply(Route("dep_2", TENANT, "empty", 1, ()))
    async with edge.client(key=await edge.key()) as client:
        foreign = await client.post("/v2/models/theirs/infer", json={})
        empty = await client.post("/v2/models/empty/infer", json={})
        big = await client.post("/v2/models/empty/infer", content=b"x" * 50_001)
        wrong = await client.post("/v2/models/No_Name/infer", json={})
    assert (foreign.status_code, empty.status_code, big.status_code) == (404, 503, 413)
    assert wrong.status_code == 422
    assert all("error" in answer.json() for answer in (foreign, empty, big, wrong))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (None, ": QUEUED: 1 cordoned; WARMING: its server is not ready"),
        (PermissionDenied("deployments:read"), ""),
        (Unavailable("scheduler"), ""),
    ],
    ids=["known", "not this caller's to know", "scheduler away"],
)
async def test_inference_that_no_replica_takes_is_refused_with_what_they_wait_for(
    error: ModelyardError | None, told: str
) -> None:
    edge = Edge()
    edge.routes.apply(Route("dep_1", TENANT, "digits", 1, ()))
    edge.deployments.replicas = [
        deployment_pb2.Replica(state=state, reason=reason)
        for state, reason in (
            (deployment_pb2.REPLICA_STATE_WARMING, "its server is not ready"),
            (deployment_pb2.REPLICA_STATE_QUEUED, "1 cordoned"),
            (deployment_pb2.REPLICA_STATE_QUEUED, "1 cordoned"),
            (deployment_pb2.REPLICA_STATE_READY, "answers"),
        )
    ]
    edge.deployments.error = error
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v2/models/digits/infer", json={})
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["detail"] == f"deployment digits is not available{told}"
    assert answer.json()["error"] == answer.json()["detail"]


async def test_unknown_paths_and_methods_are_problems() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        missing = await client.get("/v1/nothing")
        wrong = await client.delete("/v1/jobs")
        slash = await client.get("/v1/jobs/")
    assert (missing.status_code, wrong.status_code) == (404, 405)
    assert slash.status_code == 404
    assert missing.headers["content-type"] == "application/problem+json"
    assert wrong.headers["allow"] == "GET, POST"


async def test_health_and_the_description_need_no_key() -> None:
    edge = Edge()
    async with edge.client() as client:
        for path in ("/livez", "/healthz", "/readyz", "/metrics", "/openapi.json", "/v2"):
            assert (await client.get(path)).status_code == 200, path


async def test_readiness_is_told_check_by_check_without_a_value() -> None:
    edge = Edge()
    async with edge.client() as client:
        assert "checks" in (await client.get("/readyz?verbose")).json()
        assert "checks" not in (await client.get("/readyz")).json()


async def test_the_description_declares_problems_and_credentials_for_every_route() -> None:
    edge = Edge()
    async with edge.client() as client:
        described = (await client.get("/openapi.json")).json()
    assert described["components"]["schemas"]["Problem"]["required"]
    open_paths = set()
    for path, operations in described["paths"].items():
        for operation in operations.values():
            assert {"4XX", "5XX"} <= set(operation["responses"])
            assert "422" not in operation["responses"]
            if "security" not in operation:
                open_paths.add(path)
    health = {"/livez", "/healthz", "/readyz", "/metrics"}
    assert open_paths == health | {"/v2", "/v2/health/live", "/v2/health/ready"}


async def test_every_route_but_health_needs_a_credential() -> None:
    edge = Edge(requests_max=10_000)
    async with edge.client() as client:
        description = (await client.get("/openapi.json")).json()
        for path, methods in description["paths"].items():
            if path.startswith(("/livez", "/healthz", "/readyz", "/metrics", "/v2/health")):
                continue
            if path == "/v2":
                continue
            concrete = path.replace("{", "").replace("}", "")
            for method in methods:
                answer = await client.request(method, concrete)
                assert answer.status_code == 401, (method, path)


async def test_a_node_may_have_nothing_where_a_job_must_ask_for_something() -> None:
    edge = Edge()
    async with edge.client() as client:
        described = (await client.get("/openapi.json")).json()["components"]["schemas"]
    for name, asked in described["Resources"]["properties"].items():
        assert "minimum" in asked
        assert "minimum" not in described["Capacity"]["properties"][name]


async def test_least_memory_is_described_and_refused_with_its_reason() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs", json=a_spec(resources={"memory_bytes": 1 << 20}))
        described = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert answer.json()["errors"][0]["problem"].startswith("must be at least 6 MiB")
    memory = described["Resources"]["properties"]["memory_bytes"]
    assert (memory["minimum"], "6 MiB" in memory["description"]) == (6 << 20, True)


async def test_a_reason_is_bounded_as_the_scheduler_bounds_it() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key()) as client:
        answer = await client.post("/v1/jobs/job_1/cancel", json={"reason": "x" * 257})
        described = (await client.get("/openapi.json")).json()["components"]["schemas"]
    assert answer.json()["errors"][0]["field"] == "reason"
    assert described["Cancellation"]["properties"]["reason"]["maxLength"] == 256


async def test_nodes_are_shown_to_whoever_may_read_them() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("nodes:read")) as client:
        told = (await client.get("/v1/nodes")).json()
    assert told["node_count"] == 1
    assert told["nodes"][0]["runtime_down_since"] == "1970-01-01T00:01:00Z"

    async with edge.client(key=await edge.key("jobs:read")) as client:
        assert (await client.get("/v1/nodes")).status_code == 403


@pytest.mark.parametrize(
    ("how", "cordoned", "draining"),
    [("cordon", True, False), ("drain", True, True), ("uncordon", False, False)],
)
async def test_nodes_are_closed_and_opened_by_who_may(
    how: str, *, cordoned: bool, draining: bool
) -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("nodes:write")) as client:
        answer = await client.post(f"/v1/nodes/node-1/{how}")
    assert answer.status_code == 200
    node = answer.json()
    assert node["id"] == "node-1"
    assert (node["cordoned_at"] is not None, node["draining_since"] is not None) == (
        cordoned,
        draining,
    )

    async with edge.client(key=await edge.key("nodes:read")) as client:
        assert (await client.post(f"/v1/nodes/node-1/{how}")).status_code == 403


async def test_queues_are_shown_to_whoever_may_read_jobs() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        told = (await client.get("/v1/queues?page_size=2&page_token=t")).json()
    assert told == {
        "queues": [
            {
                "name": "nightly",
                "paused_at": "1970-01-01T00:01:00Z",
                "paused_reason": "it is day",
                "queued_count": 2,
                "running_count": 1,
            }
        ],
        "next_page_token": "next",
    }
    [request] = edge.queues.listed
    assert (request.page.page_size, request.page.page_token) == (2, "t")

    async with edge.client(key=await edge.key("queues:write")) as client:
        assert (await client.get("/v1/queues")).status_code == 403


async def test_queues_are_paused_and_resumed_by_who_may() -> None:
    edge = Edge()
    reason = {"reason": "it is day"}
    async with edge.client(key=await edge.key("queues:write")) as client:
        paused = (await client.post("/v1/queues/nightly/pause", json=reason)).json()
        resumed = (await client.post("/v1/queues/nightly/resume")).json()
        no_name = await client.post("/v1/queues/Nightly/pause", json=reason)
        no_reason = await client.post("/v1/queues/nightly/pause", json={"reason": ""})
    assert (paused["name"], paused["paused_reason"]) == ("nightly", "it is day")
    assert (resumed["name"], resumed["paused_at"]) == ("nightly", None)
    fields = [answer.json()["errors"][0]["field"] for answer in (no_name, no_reason)]
    assert fields == ["queue", "reason"]

    async with edge.client(key=await edge.key("jobs:read", "jobs:write")) as client:
        assert (await client.post("/v1/queues/nightly/pause", json=reason)).status_code == 403
        assert (await client.post("/v1/queues/nightly/resume")).status_code == 403


async def test_whoami_tells_what_the_caller_may_do() -> None:
    edge = Edge()
    key = await edge.key("jobs:read", "inference")
    async with edge.client(key=key) as client:
        told = (await client.get("/v1/whoami")).json()
    assert told == {
        "tenant": "default",
        "subject": "key:key_" + key.split("_")[1],
        "roles": [],
        "scopes": ["inference", "jobs:read"],
    }


async def test_jobs_are_looked_for_by_the_labels_of_the_query() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read")) as client:
        answer = await client.get("/v1/jobs?label=team=vision&label=note=a%3Db%20c&label=empty=")

    assert answer.status_code == 200
    [request] = edge.jobs.listed
    assert dict(request.labels) == {"team": "vision", "note": "a=b c", "empty": ""}


async def test_jobs_are_looked_for_by_queue_and_submitted_to_one() -> None:
    edge = Edge()
    async with edge.client(key=await edge.key("jobs:read", "jobs:write")) as client:
        made = await client.post("/v1/jobs", json=a_spec(queue="nightly"))
        plain = await client.post("/v1/jobs", json=a_spec())
        assert (await client.get("/v1/jobs?queue=nightly")).status_code == 200
        refused = await client.get("/v1/jobs?queue=Nightly")

    assert [each.json()["spec"]["queue"] for each in (made, plain)] == ["nightly", "default"]
    assert [request.queue for request in edge.jobs.listed] == ["nightly"]
    assert [error["field"] for error in refused.json()["errors"]] == ["queue"]


async def test_attempts_are_shown_with_what_is_known_of_them() -> None:
    ended = job_service_pb2.JobAttempt(
        id="att_1", number=1, state=job_events_pb2.ATTEMPT_STATE_EXITED, node_id="n", exit_code=0
    )
    ended.created_at.FromSeconds(1)
    ended.started_at.FromSeconds(2)
    ended.ended_at.FromSeconds(3)
    ended.ending.MergeFrom(job_service_pb2.AttemptEnding(reason="drained", message="n is drained"))
    lost = job_service_pb2.JobAttempt(number=2, state=job_events_pb2.ATTEMPT_STATE_LOST)
    edge = Edge(jobs=FakeJobs(attempts=[ended, lost]))
    async with edge.client(key=await edge.key("jobs:read")) as client:
        answer = await client.get("/v1/jobs/job_1/attempts?page_size=2")

    first, second = answer.json()["attempts"]
    assert first == {
        "id": "att_1",
        "number": 1,
        "state": "EXITED",
        "node_id": "n",
        "created_at": "1970-01-01T00:00:01Z",
        "started_at": "1970-01-01T00:00:02Z",
        "ended_at": "1970-01-01T00:00:03Z",
        "exit_code": 0,
        "ending": {"reason": "drained", "message": "n is drained"},
        "task": 0,
    }
    assert (second["state"], second["started_at"], second["exit_code"]) == ("LOST", None, None)
    assert second["ending"] is None
    [request] = edge.jobs.attempts_asked
    assert (request.job_id, request.page.page_size) == ("job_1", 2)
