"""A service that is killed while a job runs and started again: nothing lost, nothing run twice."""

import pytest
from modelyard.client import Client, ModelVersion

from tests.e2e.bench import Bench
from tests.e2e.platform import SERVICES, Platform
from tests.support.eventually import until

COUNTING = """
number = 0
while not (bench / "gate").exists():
    number += 1
    print(f"line {number}")
    time.sleep(0.05)
(pathlib.Path(os.environ["MODELYARD_OUTPUTS"]) / "model.txt").write_text(str(number))
print(f"end after {number}")
"""


@pytest.mark.parametrize("service", SERVICES)
def test_job_goes_on_when_a_service_is_killed_and_started_again(
    platform: Platform, bench: Bench, service: str
) -> None:
    model = f"survivor-of-{service}"
    job = bench.submit(bench.spec(COUNTING, outputs=[bench.output("model.txt", model=model)]))
    bench.process_of(job)
    next(bench.client.follow_logs(job.id))

    platform.end(service)
    platform.start_again()
    bench.open_gate()

    ended = bench.ended(job)
    assert (ended.state, ended.attempt_number) == ("SUCCEEDED", 1)
    assert len(bench.starts_of(job)) == 1
    *counted, last = [record.text for record in bench.output_of(job)]
    assert counted == [f"line {number}" for number in range(1, len(counted) + 1)]
    assert last == f"end after {len(counted)}"
    assert [version.job_id for version in versions_of(bench.client, model)] == [job.id]


def versions_of(client: Client, model: str) -> list[ModelVersion]:
    until(lambda: model in {found.name for found in client.models()}, what=f"{model} is registered")
    return until(lambda: client.model_versions(model), what=f"{model} has a version")
