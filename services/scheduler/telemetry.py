"""The scheduler's own names of metrics and spans.

Owns: what is counted and how spans are called. Labels are bounded: ids go on spans, never on
metrics.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from services.chassis.telemetry.metrics import counter, gauge, histogram
from services.chassis.telemetry.tracing import (
    context_from,
    current_traceparent,
    record_span,
    tracer,
)
from services.scheduler.domain.jobs.job import EndedPhase

JOBS_SUBMITTED: Final = counter(
    "modelyard_scheduler_jobs_submitted",
    help="Submissions answered with a job, repeated ones included.",
)
SUBMISSIONS_TOGETHER: Final = histogram(
    "modelyard_scheduler_submissions_together",
    help="How many submissions shared a commit.",
    buckets=(1, 2, 4, 8, 16, 32, 64),
)
PLACEMENTS: Final = counter(
    "modelyard_scheduler_placements",
    help="Placements that a scheduling cycle decided, by what became of them.",
    labels=("kind", "outcome"),
)
CYCLE_DURATION: Final = histogram(
    "modelyard_scheduler_cycle_duration", unit="seconds", help="Length of a scheduling cycle."
)
WAITING: Final = gauge(
    "modelyard_scheduler_waiting_heads",
    help="Jobs, elements of arrays and replicas in line, as the leader's last cycle saw it.",
    labels=("kind",),
)
LINE_MENDS: Final = counter(
    "modelyard_scheduler_line_mends",
    help="Times that the leader's line in memory was not the table's; never, but for a bug.",
)
COUNT_MENDS: Final = counter(
    "modelyard_scheduler_line_count_mends",
    help="Times that the counts by which places in line are told were not the table's; never, but"
    " after rows were loaded, or for a bug.",
)
JOBS_RELEASED: Final = counter(
    "modelyard_scheduler_jobs_released",
    help="Jobs that this process, as the leader, told of the end of one that they wait for.",
)
JOBS_PREEMPTED: Final = counter(
    "modelyard_scheduler_jobs_preempted",
    help="Jobs that this process, as the leader, asked to make room for one of a larger priority.",
)
RUNTIME_UP: Final = gauge(
    "modelyard_scheduler_container_runtime_up",
    help="1 while the container runtime of this process's node answers.",
    labels=("runtime",),
)
NODES_LOST: Final = counter(
    "modelyard_scheduler_nodes_lost",
    help="Nodes that this process, as the leader, gave up since nobody held their lease.",
)


@contextmanager
def transition(event_type: str, *, subject: str, parent: str | None) -> Iterator[str | None]:
    """Open the short span of a fact under its submission; yields the traceparent to publish.

    A fact without a submission's trace stays in the current one.
    """
    if parent is None:
        yield current_traceparent()
        return
    with tracer(__name__).start_as_current_span(
        event_type, context=context_from(parent), attributes={"modelyard.subject": subject}
    ):
        yield current_traceparent() or parent


def record_phase(phase: EndedPhase, *, job_id: str, parent: str | None) -> None:
    """Write the span of a phase that has ended: `job queued`, `job starting`, `job running`."""
    if parent is not None:
        record_span(
            f"job {phase.phase}",
            parent=parent,
            started_at=phase.started_at,
            ended_at=phase.ended_at,
            attributes={"modelyard.job.id": job_id},
        )
