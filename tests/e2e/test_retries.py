"""Jobs that are tried again, as their user sees them."""

from datetime import timedelta

from modelyard.client import JobRetries, JobTimeouts

from tests.e2e.bench import Bench
from tests.e2e.platform import CPU_MILLICORES
from tests.support.eventually import until


def test_follower_of_a_job_that_is_tried_again_sees_both_attempts(bench: Bench) -> None:
    spec = bench.spec(
        "attempt = os.environ['MODELYARD_ATTEMPT']; print('attempt', attempt);"
        "sys.exit(75 if attempt == '1' else 0)"
    )
    spec = spec.model_copy(update={"retries": JobRetries(exit_codes=[75])})
    job = bench.submit(spec)

    followed = [(line.attempt_number, line.text) for line in bench.client.follow_logs(job.id)]

    assert followed == [(1, "attempt 1"), (2, "attempt 2")]
    ended = bench.ended(job)
    assert (ended.state, ended.attempt_number, ended.retry_count) == ("SUCCEEDED", 2, 1)
    assert len(bench.starts_of(job)) == 2


def test_next_attempt_finds_what_the_one_before_has_kept(bench: Bench) -> None:
    spec = bench.spec(
        "epoch = pathlib.Path(os.environ['MODELYARD_CHECKPOINT'], 'weights', 'epoch')\n"
        "done = int(epoch.read_text()) if epoch.exists() else 0\n"
        "print('begins at', done)\n"
        "epoch.parent.mkdir(exist_ok=True)\n"
        "epoch.write_text(str(done + 1))\n"
        "sys.exit(0 if done == 2 else 75)"
    )
    job = bench.submit(spec.model_copy(update={"retries": JobRetries(exit_codes=[75])}))

    followed = [line.text for line in bench.client.follow_logs(job.id)]

    assert followed == ["begins at 0", "begins at 1", "begins at 2"]
    assert bench.ended(job).state == "SUCCEEDED"


def test_job_that_waits_for_its_retry_says_why_and_can_be_cancelled(bench: Bench) -> None:
    spec = bench.spec("sys.exit(75)").model_copy(
        update={"retries": JobRetries(count_max=10, exit_codes=[75])}
    )
    job = bench.submit(spec)
    waiting = until(
        lambda: shown if (shown := bench.client.job(job.id)).retry_count else None,
        what="it is tried again",
        within_s=60,
    )
    assert (waiting.state, waiting.attempt_number) == ("QUEUED", 1)
    assert waiting.reason.startswith("retry 1 of 10 in ")
    assert waiting.reason.endswith("s: exit code 75")
    assert waiting.retry_at is not None

    assert bench.client.cancel_job(job.id, reason="no need").state == "CANCELLED"

    assert list(bench.client.follow_logs(job.id)) == []
    assert len(bench.starts_of(job)) == 1


def test_job_that_waits_too_long_in_line_fails_and_never_starts(bench: Bench) -> None:
    first = bench.submit(bench.spec("wait()", cpu_millicores=CPU_MILLICORES))
    bench.process_of(first)
    spec = bench.spec("pass", cpu_millicores=CPU_MILLICORES)
    spec = spec.model_copy(update={"timeouts": JobTimeouts(queue=timedelta(seconds=1))})

    failed = bench.ended(bench.submit(spec))

    assert failed.failure is not None
    assert failed.failure.reason == "queue_timeout"
    bench.open_gate()
    assert bench.ended(first).state == "SUCCEEDED"
    assert bench.starts_of(failed) == []
