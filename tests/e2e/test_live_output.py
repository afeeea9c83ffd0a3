"""A job's output while it runs."""

from tests.e2e.bench import Bench


def test_first_line_arrives_while_the_job_runs(bench: Bench) -> None:
    job = bench.submit(bench.spec("print('training'); wait(); print('trained')"))

    followed = bench.client.follow_logs(job.id)
    assert next(followed).text == "training"
    assert bench.client.job(job.id).state == "RUNNING"
    bench.open_gate()

    assert [record.text for record in followed] == ["trained"]
    assert bench.ended(job).state == "SUCCEEDED"
