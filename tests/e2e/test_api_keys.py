"""Keys as their holders meet them: on two gateways, and by the command line."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from modelyard.client import ApiKey, Client

from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.eventually import until

REVOKED_WITHIN_S = 2.0


def status_at(address: str, key: str) -> int:
    answer = httpx.get(
        f"{address}/v1/whoami", headers={"Authorization": f"Bearer {key}"}, timeout=30
    )
    return answer.status_code


def until_refused(address: str, key: str, *, revoked_at_s: float) -> None:
    """Wait for a revocation to act; whoever asks once its time is over is refused."""

    def is_refused() -> bool:
        is_late = time.monotonic() - revoked_at_s >= REVOKED_WITHIN_S
        status = status_at(address, key)
        assert status == 401 or not is_late, "the key was good for longer"
        return status == 401

    until(is_refused, what=f"the revocation acts at {address}")


def listed(client: Client, key_id: str) -> ApiKey:
    keys = client.keys()
    return next(key for key in keys if key.id == key_id)


def test_a_revocation_acts_within_two_seconds_on_the_other_gateway_too(
    platform: Platform, client: Client
) -> None:
    with platform.another_gateway() as other:
        for _ in range(3):
            key, text = client.issue_key("on both", role="viewer")
            assert [status_at(address, text) for address in (platform.running.url, other)] == [
                200,
                200,
            ]

            client.revoke_key(key.id)

            revoked_at_s = time.monotonic()
            for address in (platform.running.url, other):
                until_refused(address, text, revoked_at_s=revoked_at_s)


def test_who_follows_output_with_a_revoked_key_is_told_nothing_that_is_printed_later(
    platform: Platform, client: Client, bench: Bench
) -> None:
    job = bench.submit(bench.spec("while True: print('on', flush=True); time.sleep(0.1)"))
    bench.process_of(job)
    key, text = client.issue_key("follower", role="viewer")
    with (
        platform.another_gateway() as other,
        httpx.stream(
            "GET",
            f"{other}/v1/jobs/{job.id}/logs",
            params={"follow": "true"},
            headers={"Authorization": f"Bearer {text}"},
            timeout=30,
        ) as live,
    ):
        told = events_of(live)
        assert next(told)[0] == "log"

        client.revoke_key(key.id)

        latest = datetime.now(UTC) + timedelta(seconds=REVOKED_WITHIN_S)
        *printed, (event, problem) = told
    assert (event, problem["status"]) == ("problem", 401)
    assert all(datetime.fromisoformat(data["time"]) <= latest for _, data in printed)


def events_of(live: httpx.Response) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield events of a stream with their data, to its end."""
    event = ""
    for line in live.iter_lines():
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        if name == "data":
            yield event, json.loads(value)


def test_the_platforms_operator_gets_another_key_to_all_of_it(platform: Platform) -> None:
    text = platform.operate("platform-key")

    with platform.client(text) as administrator:
        who = administrator.whoami()
        assert (who.tenant, who.roles) == ("default", ["platform-admin"])
        made = listed(administrator, who.subject.removeprefix("key:"))
        assert made.created_by == "platform"
        administrator.revoke_key(made.id)


def test_a_gateway_that_leaves_has_written_when_keys_were_used(
    platform: Platform, client: Client
) -> None:
    used, text = client.issue_key("used elsewhere", role="viewer")
    unused, _ = client.issue_key("never used", role="viewer")
    before = datetime.now(UTC)
    with platform.another_gateway() as other:
        assert status_at(other, text) == 200
        assert listed(client, used.id).last_used_at is None  # no request waits for it

    last_used_at = listed(client, used.id).last_used_at

    assert last_used_at is not None
    assert before - timedelta(seconds=1) <= last_used_at <= datetime.now(UTC)
    assert listed(client, unused.id).last_used_at is None


def test_the_command_line_makes_rotates_and_revokes_keys(platform: Platform) -> None:
    made = told(platform, "key", "create", "ci", "--role", "developer", "--lifetime", "90d")
    rotated = told(platform, "key", "rotate", made["key"]["id"], "--overlap", "1h")

    assert rotated["replaced"]["replaced_by"] == rotated["key"]["id"]
    for text in (made["text"], rotated["text"]):
        who = told(platform, "key", "whoami", MODELYARD_API_KEY=text)
        assert (who["tenant"], who["roles"]) == ("default", ["developer"])
        assert "nodes:read" not in who["scopes"]

    refused = platform.cli("key", "rotate", made["key"]["id"])
    assert refused.returncode == 3
    assert rotated["key"]["id"] in refused.stderr

    assert platform.cli("key", "revoke", rotated["key"]["id"]).returncode == 0
    until_refused(platform.running.url, rotated["text"], revoked_at_s=time.monotonic())
    assert status_at(platform.running.url, made["text"]) == 200  # within its overlap


def told(platform: Platform, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a command and return its JSON."""
    done = platform.cli("--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
