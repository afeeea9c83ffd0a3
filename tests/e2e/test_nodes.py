"""A node is emptied for maintenance, as its operator and its users see it."""

from collections.abc import Iterator

import pytest
from modelyard.client import Client

from tests.e2e.bench import Bench
from tests.e2e.platform import Platform
from tests.support.eventually import until


@pytest.fixture
def node_id(platform: Platform, client: Client) -> Iterator[str]:
    """Give the platform's one open node, which is open again after the test."""
    node_id = platform.environment_of("scheduler")["MODELYARD_RUNNER__NODE_ID"]
    yield node_id
    client.uncordon_node(node_id)


def test_job_leaves_a_node_that_is_drained_and_returns_when_it_is_open_again(
    platform: Platform, bench: Bench, node_id: str
) -> None:
    job = bench.submit(bench.spec("print('attempt', os.environ['MODELYARD_ATTEMPT']); wait()"))
    bench.process_of(job)

    told = platform.cli("node", "drain", node_id)
    assert told.returncode == 0, told.stderr
    assert "drain" in told.stdout
    waiting = until(
        lambda: shown if (shown := bench.client.job(job.id)).state == "QUEUED" else None,
        what="the job is back in line",
    )
    assert waiting.reason == "no node that is large enough takes anything new: 1 cordoned"
    until(
        lambda: " drained " in platform.cli("node", "list").stdout, what="the node says it is empty"
    )
    late = bench.submit(bench.spec("pass"))

    opened = platform.cli("node", "uncordon", node_id)
    assert " ready " in opened.stdout
    bench.open_gate()
    for each in (job, late):
        assert bench.ended(each).state == "SUCCEEDED"
    ended = bench.client.job(job.id)
    assert (ended.attempt_number, ended.retry_count) == (2, 0)
    assert len(bench.starts_of(job)) == 2


def test_node_that_nobody_knows_is_told_as_that(platform: Platform) -> None:
    told = platform.cli("node", "cordon", "nowhere")
    assert told.returncode == 3
    assert "nowhere" in told.stderr
