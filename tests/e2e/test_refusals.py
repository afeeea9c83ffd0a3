"""What the public API refuses, and how it says so."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from modelyard.client import ApiError, Client, DeploymentSpec

from tests.e2e.bench import Bench
from tests.e2e.platform import CPU_MILLICORES, Platform
from tests.support.eventually import until

QUEUED_JOBS_MAX = 100
REFUSED_CREDENTIALS_MAX = 60
TWO_WINDOWS_S = 120
VALID = {"name": "fine", "image": "modelyard/base", "command": ["true"]}
ANOTHER_SOURCE = "127.0.0.2"
"""Refused credentials count by network address: other tests' stay out of it."""

pytestmark = pytest.mark.usefixtures("platform")


@pytest.fixture(scope="module")
def stranger_key(platform: Platform) -> str:
    """Make another tenant."""
    return platform.create_tenant("stranger")


@pytest.fixture
def http(platform: Platform) -> Iterator[httpx.Client]:
    with platform.http() as http:
        yield http


def problem_of(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["detail"]
    return dict(problem)


# 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b'{"name": ', "body", id="malformed JSON"),
        pytest.param(VALID | {"colour": "red"}, "colour", id="unknown field"),
        pytest.param(VALID | {"resources": {"cpus": 1}}, "resources.cpus", id="unknown inside"),
        pytest.param(VALID | {"command": "true"}, "command", id="wrong type"),
        pytest.param(VALID | {"env": {"N": 1}}, "env.N", id="wrong type of a value"),
        pytest.param({"name": "fine", "image": "modelyard/base"}, "command", id="missing"),
        pytest.param(VALID | {"priority": 101}, "priority", id="over its bound"),
        pytest.param(
            VALID | {"resources": {"cpu_millicores": 0}}, "resources.cpu_millicores", id="under"
        ),
        pytest.param(VALID | {"timeouts": {"run": "PT0.5S"}}, "timeouts.run", id="too short a run"),
        pytest.param(VALID | {"timeouts": {"run": "P8D"}}, "timeouts.run", id="too long a run"),
        pytest.param(
            VALID | {"resources": {"cpu_millicores": 1_000_000}},
            "resources.cpu_millicores",
            id="no such node",
        ),
        pytest.param(
            b'{"name": "a", "name": "b", "image": "modelyard/base", "command": ["true"]}',
            "name",
            id="a key twice",
        ),
        pytest.param(
            VALID | {"outputs": [{"name": "m", "path": "../m"}]}, "outputs[0].path", id="leads out"
        ),
    ],
)
def test_invalid_job_is_answered_422_naming_the_field_and_is_not_stored(
    http: httpx.Client, client: Client, body: bytes | dict[str, Any], field: str
) -> None:
    before = newest(client)
    content = body if isinstance(body, bytes) else httpx.Request("POST", "x:/", json=body).content

    answer = http.post("/v1/jobs", content=content, headers={"Content-Type": "application/json"})

    problem = problem_of(answer, 422)
    assert problem["code"] == "INVALID_ARGUMENT"
    assert field in [error["field"] for error in problem["errors"]]
    assert newest(client) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "nobody/knows"},
        {"resources": {"cpu_millicores": 1_000_000}},
        {"command": [""]},
        {"outputs": [{"name": "a", "path": "out"}, {"name": "b", "path": "out/m"}]},
    ],
    ids=["image", "no such node", "no program", "nested outputs"],
)
def test_a_check_is_answered_as_the_submission_would_be(
    http: httpx.Client, client: Client, changes: dict[str, Any]
) -> None:
    before = newest(client)

    checked = problem_of(http.post("/v1/jobs/check", json=VALID | changes), 422)
    accepted = http.post("/v1/jobs/check", json=VALID)

    assert (accepted.status_code, accepted.content) == (204, b"")
    assert newest(client) == before
    assert checked == problem_of(http.post("/v1/jobs", json=VALID | changes), 422)


def newest(client: Client) -> list[str]:
    return [job.id for job in client.jobs(limit=1)]


# 401


def test_no_wrong_and_revoked_keys_are_answered_alike(platform: Platform, client: Client) -> None:
    key, text = client.issue_key("short-lived", ["jobs:read"])
    with platform.http(text) as holder:
        assert holder.get("/v1/jobs").status_code == 200
        client.revoke_key(key.id)
        revoked = until(
            lambda: answer if (answer := holder.get("/v1/jobs")).status_code == 401 else None,
            what="the revocation acts",
        )
    with platform.http("") as nobody, platform.http(f"{text[:-1]}~") as forger:
        answers = [revoked, nobody.get("/v1/jobs"), forger.get("/v1/jobs")]

    first, *others = [problem_of(answer, 401) for answer in answers]
    assert others == [first, first]
    assert {answer.headers["www-authenticate"] for answer in answers} == {"Bearer"}


def test_key_without_the_scope_is_answered_403(platform: Platform, client: Client) -> None:
    _, text = client.issue_key("reader", ["jobs:read"])
    with platform.http(text) as reader:
        assert problem_of(reader.post("/v1/jobs", json=VALID), 403)["code"] == "PERMISSION_DENIED"


def test_a_query_that_no_route_knows_is_answered_422(http: httpx.Client) -> None:
    problem = problem_of(http.get("/v1/jobs?sate=RUNNING"), 422)
    assert problem["errors"][0]["field"] == "sate"


# 404


def test_another_tenants_things_are_answered_as_unknown_ones(
    platform: Platform, bench: Bench, stranger_key: str
) -> None:
    job = bench.submit(
        bench.spec(
            "(pathlib.Path(os.environ['MODELYARD_OUTPUTS']) / 'm.pkl').write_text('mine')",
            outputs=[bench.output("m.pkl", model="private")],
        )
    )
    assert bench.ended(job).state == "SUCCEEDED"
    until(lambda: names(bench.client), what="the model is registered")
    digest = bench.client.model_versions("private")[0].files[0].digest
    bench.process_of(bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES)))
    deployment = bench.client.create_deployment(  # its replica waits in line: nothing to load
        DeploymentSpec(name="private", model="models:/private/1")
    )
    unknown_digest = "sha256:" + "0" * 64

    with platform.http(stranger_key) as stranger:
        for path, unknown in (
            (f"/v1/jobs/{job.id}", f"/v1/jobs/{job.id[:-4]}0000"),
            (f"/v1/jobs/{job.id}/logs", f"/v1/jobs/{job.id[:-4]}0000/logs"),
            ("/v1/models/private", "/v1/models/unknown"),
            ("/v1/models/private/versions/1", "/v1/models/unknown/versions/1"),
            (f"/v1/artifacts/{digest}", f"/v1/artifacts/{unknown_digest}"),
            ("/v1/deployments/private", "/v1/deployments/unknown"),
            (f"/v1/deployments/{deployment.id}", "/v1/deployments/dep_unknown"),
            ("/v1/deployments/private/logs", "/v1/deployments/unknown/logs"),
            ("/v2/models/private/ready", "/v2/models/unknown/ready"),
        ):
            foreign, absent = stranger.get(path), stranger.get(unknown)
            assert problem_of(foreign, 404)["code"] == problem_of(absent, 404)["code"], path
        problem_of(stranger.post(f"/v1/jobs/{job.id}/cancel", json={}), 404)
        problem_of(stranger.delete("/v1/deployments/private"), 404)
        problem_of(stranger.put("/v1/models/private/aliases/champion", json={"version": 1}), 404)
        assert stranger.get("/v1/jobs").json()["jobs"] == []
        assert stranger.get("/v1/models").json()["models"] == []
        assert stranger.get("/v1/deployments").json()["deployments"] == []

    assert bench.client.deployment("private").state != "DELETING"
    bench.client.delete_deployment("private")
    until(lambda: not bench.client.deployments(), what="the deployment is gone", within_s=60)


def names(client: Client) -> set[str]:
    return {model.name for model in client.models()} & {"private"}


# 412


def test_a_change_for_what_has_moved_on_is_refused_by_its_owner(
    http: httpx.Client, bench: Bench
) -> None:
    client = bench.client
    body = b"weights"
    digest = http.post("/v1/artifacts", content=body).json()["digest"]
    assert http.post("/v1/models", json={"name": "moving"}).status_code == 201
    files = {"files": [{"path": "m", "size_bytes": len(body), "digest": digest}]}
    for _ in range(2):
        assert http.post("/v1/models/moving/versions", json=files).status_code == 201

    seen = client.set_alias("moving", "champion", 1).alias_revisions["champion"]
    assert http.get("/v1/models/moving/aliases/champion").headers["etag"] == f'"{seen}"'
    moved = client.set_alias("moving", "champion", 2, if_revision=seen)
    with pytest.raises(ApiError) as stale:
        client.remove_alias("moving", "champion", if_revision=seen)
    assert (stale.value.status, stale.value.code) == (412, "VERSION_MISMATCH")
    assert stale.value.problem["current_version"] == moved.alias_revisions["champion"]
    assert client.model("moving").aliases == {"champion": 2}

    bench.process_of(bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES)))
    spec = DeploymentSpec(name="moving", model="models:/moving/1")  # whose replica waits in line
    made = client.create_deployment(spec)
    with pytest.raises(ApiError) as early:
        client.delete_deployment("moving", if_version=made.version + 100)
    assert (early.value.status, early.value.code) == (412, "VERSION_MISMATCH")
    assert client.deployment("moving").state != "DELETING"
    client.delete_deployment("moving", if_version=early.value.problem["current_version"])
    until(
        lambda: "moving" not in {each.spec.name for each in client.deployments()},
        what="the deployment is gone",
        within_s=60,
    )
    again = client.create_deployment(spec)
    assert again.version > early.value.problem["current_version"]
    client.delete_deployment("moving")


# 429


def test_job_beyond_the_queues_bound_is_answered_429(
    platform: Platform, http: httpx.Client, bench: Bench
) -> None:
    holder = bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES))
    bench.process_of(holder)
    waiting = bench.spec("pass", name="in line", cpu_millicores=CPU_MILLICORES)
    with ThreadPoolExecutor(max_workers=4) as pool:
        list(pool.map(lambda _: bench.submit(waiting), range(QUEUED_JOBS_MAX)))

    answer = http.post("/v1/jobs", json=VALID)

    assert problem_of(answer, 429)["code"] == "QUEUE_FULL"
    assert int(answer.headers["retry-after"]) >= 1


def test_refused_credentials_beyond_their_rate_are_answered_429(platform: Platform) -> None:
    with platform.http("wrong", source=ANOTHER_SOURCE) as guesser:
        answers = [guesser.get("/v1/jobs")]
        # The window slides: if it turns meanwhile, a few more are let through.
        while answers[-1].status_code == 401 and len(answers) <= 2 * REFUSED_CREDENTIALS_MAX:
            answers.append(guesser.get("/v1/jobs"))

    assert {answer.status_code for answer in answers[:-1]} == {401}
    assert len(answers) > REFUSED_CREDENTIALS_MAX
    assert problem_of(answers[-1], 429)["code"] == "RATE_LIMITED"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= TWO_WINDOWS_S


def test_requests_beyond_the_tenants_rate_are_answered_429(platform: Platform) -> None:
    """The window is 6000 a minute; a gateway with a smaller one shows it sooner."""
    requests_max = 3
    with (
        platform.another_gateway(LIMITS__TENANT_REQUESTS_MAX=str(requests_max)) as address,
        httpx.Client(
            base_url=address, headers={"Authorization": f"Bearer {platform.running.api_key}"}
        ) as http,
    ):
        answers = [http.get("/v1/jobs")]
        # The window slides: if it turns meanwhile, one or two more are let through.
        while answers[-1].status_code == 200 and len(answers) <= 2 * requests_max:
            answers.append(http.get("/v1/jobs"))

    assert {answer.status_code for answer in answers[:-1]} == {200}
    assert len(answers) > requests_max
    assert problem_of(answers[-1], 429)["code"] == "RATE_LIMITED"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= TWO_WINDOWS_S


# 409


def test_repeated_submission_has_one_effect(platform: Platform, bench: Bench) -> None:
    spec = bench.spec("pass", name="once")
    first = bench.submit(spec, key="once")

    assert bench.submit(spec, key="once").id == first.id
    with platform.http() as http:
        answer = http.post(
            "/v1/jobs",
            json=bench.spec("1 + 1", name="once").model_dump(mode="json"),
            headers={"Idempotency-Key": "once"},
        )
    assert problem_of(answer, 409)["code"] == "KEY_REUSED"

    assert bench.ended(first).state == "SUCCEEDED"
    assert len(bench.starts_of(first)) == 1
    assert bench.submit(spec, key="once").state == "SUCCEEDED"
    assert jobs_named(bench.client, "once") == [first.id]


def test_twins_in_progress_make_one_job(platform: Platform, bench: Bench) -> None:
    body = bench.spec("pass", name="twin").model_dump(mode="json")

    def submit(_: int) -> httpx.Response:
        with platform.http() as http:
            return http.post("/v1/jobs", json=body, headers={"Idempotency-Key": "twin"})

    with ThreadPoolExecutor(max_workers=8) as pool:
        answers = list(pool.map(submit, range(8)))

    taken = [answer for answer in answers if answer.status_code == 202]
    for answer in answers:
        if answer not in taken:
            assert problem_of(answer, 409)["code"] == "IN_PROGRESS"
    [job_id] = {answer.json()["id"] for answer in taken}
    assert jobs_named(bench.client, "twin") == [job_id]
    assert bench.ended(bench.client.job(job_id)).state == "SUCCEEDED"


def jobs_named(client: Client, name: str) -> list[str]:
    return [job.id for job in client.jobs(limit=1000) if job.spec.name == name]
