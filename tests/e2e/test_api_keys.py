"""Keys as their holders meet them: on two gateways, and by the command line."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from modelyard.client import ApiKey, Client

from tests.e2e.platform import Platform
from tests.support.eventually import until

REVOKED_WITHIN_S = 2.0


def status_at(address: str, key: str) -> int:
    answer = httpx.get(f"{address}/v1/whoami", headers={"Authorization": f"Bearer {key}"})
    return answer.status_code


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

            for address in (platform.running.url, other):
                until(
                    lambda address=address, text=text: status_at(address, text) == 401,  # type: ignore[misc]
                    what=f"the revocation acts at {address}",
                    within_s=REVOKED_WITHIN_S,
                )


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
    until(
        lambda: status_at(platform.running.url, rotated["text"]) == 401,
        what="the revocation acts",
        within_s=REVOKED_WITHIN_S,
    )
    assert status_at(platform.running.url, made["text"]) == 200  # within its overlap


def told(platform: Platform, *arguments: str, **environment: str) -> dict[str, Any]:
    """Run a command and return its JSON."""
    done = platform.cli("--json", *arguments, **environment)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))
