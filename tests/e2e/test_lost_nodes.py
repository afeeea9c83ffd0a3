"""A second node is lost and comes back, as its operator and its users see it."""

from collections.abc import Iterator
from typing import Final

import pytest
from modelyard.client import Client

from tests.e2e.bench import Bench, is_running
from tests.e2e.platform import ANOTHER_SCHEDULER, Platform
from tests.support.eventually import until

NODE: Final = "away"
HASTY: Final = {
    "SCHEDULING__NODE_LOST_AFTER": "PT12S",
    "SCHEDULING__LOST_NODES_INTERVAL": "PT1S",
    "SCHEDULING__LOST_LOOKS_MIN": "2",
    "RUNNER__LEASE_TTL": "PT3S",
    "RUNNER__ISOLATION_STOP_AFTER": "PT10S",
    "RUNNER__ISOLATION_STOP_GRACE": "PT1S",
}
"""Both schedulers may lead; a runner on a busy machine still renews its lease in time."""


@pytest.fixture(scope="module")
def platform(own_platform: Platform) -> Platform:
    """Give one on which a second node is left behind."""
    return own_platform


@pytest.fixture
def home(platform: Platform, client: Client) -> Iterator[str]:
    """Give the platform's own node, beside which there is another one during the test."""
    home = platform.environment_of("scheduler")["MODELYARD_RUNNER__NODE_ID"]
    with platform.scheduler_with(**HASTY):
        try:
            platform.start_another_scheduler(NODE)
            until(lambda: state_of(platform, NODE), what="the other node is there")
            client.uncordon_node(NODE)
            yield home
        finally:
            # Nobody will hold it any more: nothing may be placed there by later tests.
            client.cordon_node(NODE)
            client.uncordon_node(home)
            platform.stop_another_scheduler()


def state_of(platform: Platform, node_id: str) -> str:
    """Return what the command line says of a node."""
    lines = platform.cli("node", "list").stdout.splitlines()
    return next((line for line in lines if line.startswith(f"{node_id} ")), "")


@pytest.mark.timeout(240)
def test_job_of_a_node_that_is_lost_finishes_elsewhere_and_the_node_is_taken_back(
    platform: Platform, client: Client, home: str, bench: Bench
) -> None:
    client.cordon_node(home)
    job = bench.submit(bench.spec("print('attempt', os.environ['MODELYARD_ATTEMPT']); wait()"))
    first = bench.process_of(job)
    client.uncordon_node(home)

    platform.end(ANOTHER_SCHEDULER)
    until(lambda: " lost for " in state_of(platform, NODE), what="it is lost", within_s=60)
    # Nobody was left to stop it: the machine is there, and its runner is not.
    assert is_running(first)
    until(lambda: len(bench.starts_of(job)) == 2, what="it runs elsewhere", within_s=60)

    platform.start_another_scheduler(NODE)
    until(lambda: " ready " in state_of(platform, NODE), what="it is taken back", within_s=60)
    assert not is_running(first)
    bench.open_gate()
    ended = bench.ended(job)
    assert (ended.state, ended.attempt_number, ended.retry_count) == ("SUCCEEDED", 2, 1)
    assert len(bench.starts_of(job)) == 2
