"""A service is killed while jobs run and started again: nothing is lost, nothing runs twice."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from modelyard.client import Client, LogRecord

from tests.e2e.bench import Bench
from tests.e2e.platform import SERVICES, Platform
from tests.support.eventually import until

LEAVE_MODEL = """
(pathlib.Path(os.environ["MODELYARD_OUTPUTS"]) / "model.txt").write_text(str(os.getpid()))
"""
COUNTING = f"""
number = 0
while not (bench / "gate").exists():
    number += 1
    print(f"line {{number}}")
    time.sleep(0.05)
print(f"end after {{number}}")
{LEAVE_MODEL}
"""
SHORT_JOB_COUNT = 5


@pytest.mark.parametrize("service", SERVICES)
def test_jobs_go_on_when_a_service_is_killed_and_started_again(
    platform: Platform, bench: Bench, service: str
) -> None:
    model = f"survivor-of-{service}"
    outputs = [bench.output("model.txt", model=model)]
    job = bench.submit(bench.spec(COUNTING, outputs=outputs))
    bench.process_of(job)
    with ThreadPoolExecutor(max_workers=1) as pool:
        live = bench.client.follow_logs(job.id)
        first = next(live)
        followed = pool.submit(lambda: [first, *live])

        # These are anywhere between the line and the registry when it happens.
        short = bench.spec(LEAVE_MODEL, outputs=outputs)
        jobs = [job, *(bench.submit(short) for _ in range(SHORT_JOB_COUNT))]
        platform.end(service)
        platform.start_again()
        bench.open_gate()

        ended = [bench.ended(each) for each in jobs]
        assert_counted(followed.result(timeout=60))
    assert_counted(bench.output_of(job))
    assert {(each.state, each.attempt_number) for each in ended} == {("SUCCEEDED", 1)}
    assert [len(bench.starts_of(each)) for each in jobs] == [1] * len(jobs)
    until(
        lambda: len(makers_of(bench.client, model)) >= len(jobs),
        what="all are registered",
        within_s=60,
    )
    assert sorted(makers_of(bench.client, model)) == sorted(each.id for each in jobs)


def assert_counted(records: Sequence[LogRecord]) -> None:
    """Check that nothing of COUNTING's output is missing, twice or out of order."""
    assert [record.text for record in records] == list(expected_lines(len(records)))
    assert [record.sequence for record in records] == list(
        range(records[0].sequence, records[0].sequence + len(records))
    )


def expected_lines(count: int) -> Iterator[str]:
    yield from (f"line {number}" for number in range(1, count))
    yield f"end after {count - 1}"


def makers_of(client: Client, model: str) -> list[str]:
    """Return the job of each version of a model."""
    if model not in {found.name for found in client.models()}:
        return []
    return [version.job_id for version in client.model_versions(model)]
