"""The scheduler's tables.

Owns: columns, constraints and the indexes that the repositories' queries rely on. Descriptions
that nobody searches in are JSON documents (`documents`); what is searched, ordered or counted has
columns. Always holds, by the database itself: a task of an owner has at most one open attempt, a
tenant at most one living deployment of a name, and a node never has less than nothing in use.
"""

from typing import Any, Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    Interval,
    MetaData,
    Sequence,
    Table,
    Text,
    and_,
    literal_column,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from services.chassis.db.tables import NAMING, chassis_tables, utc
from services.scheduler.domain.queues.queue import DEFAULT_QUEUE

METADATA: Final = MetaData(naming_convention=NAMING)
CHASSIS: Final = chassis_tables(METADATA)

QUEUE_SEQ: Final = Sequence("queue_seq", metadata=METADATA)
"""Places in the line; who comes back into line takes a new one."""


def _document(name: str, *, nullable: bool = False) -> Column[Any]:
    return Column(name, JSONB(none_as_null=True), nullable=nullable)


def _resources(prefix: str = "") -> tuple[Column[Any], ...]:
    return (
        Column(f"{prefix}cpu_millicores", BigInteger, nullable=False),
        Column(f"{prefix}memory_bytes", BigInteger, nullable=False),
        Column(f"{prefix}gpu_count", Integer, nullable=False),
    )


JOBS: Final = Table(
    "job",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    _document("spec"),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("priority", Integer, nullable=False),
    Column("queue_seq", BigInteger, QUEUE_SEQ, nullable=False),
    *_resources(),
    Column("attempt_number", Integer, nullable=False),
    Column("attempt_id", Text),
    Column("node_id", Text),
    _document("progress", nullable=True),
    _document("failure", nullable=True),
    _document("stop", nullable=True),
    Column("traceparent", Text),
    utc("created_at"),
    utc("admitted_at", nullable=True),
    utc("started_at", nullable=True),
    utc("ended_at", nullable=True),
    Column("retry_count", Integer, nullable=False, server_default="0"),
    utc("retry_at", nullable=True),
    utc("queue_expires_at", nullable=True),
    _document("checkpoint", nullable=True),
    Column("queue", Text, nullable=False, server_default=DEFAULT_QUEUE),
    Column(
        "needs_count",
        Integer,
        nullable=False,
        server_default="0",
        comment="rows of job_dependency",
    ),
    Column("task_count", Integer, nullable=False, server_default="1"),
    _document("kept_outputs", nullable=True),
    Column("is_array", Boolean, nullable=False, server_default=text("false")),
    Column(
        "rest_count",
        Integer,
        nullable=False,
        server_default="1",
        comment="how many stand in line as this row: of an array its elements that have none",
    ),
    Column("array_id", Text, nullable=False, server_default="", comment="an element's; else empty"),
    Column(
        "array_index",
        Integer,
        nullable=False,
        server_default="0",
        comment="an element's, or an array's next one's",
    ),
    utc("ages_from", nullable=True),
)
Index("ix_job_newest", JOBS.c.tenant, JOBS.c.array_id, JOBS.c.id.desc())
Index(
    "uq_job_element",
    JOBS.c.array_id,
    JOBS.c.array_index,
    unique=True,
    postgresql_include=["tenant", "state"],
    postgresql_where=text("array_id <> ''"),
)
Index(
    "ix_job_element_open",
    JOBS.c.array_id,
    postgresql_include=["state"],
    postgresql_where=text("array_id <> '' AND ended_at IS NULL"),
)
Index(
    "ix_job_array_open",
    JOBS.c.id,
    postgresql_where=text("is_array AND state IN ('RUNNING', 'STOPPING')"),
)
Index(
    "ix_job_line",
    JOBS.c.tenant,
    JOBS.c.priority.desc(),
    JOBS.c.queue_seq,
    postgresql_where=text("state = 'QUEUED'"),
)
Index(
    "ix_job_queue_expires_at",
    JOBS.c.queue_expires_at,
    postgresql_where=text("state = 'QUEUED' AND queue_expires_at IS NOT NULL"),
)
Index(
    "ix_job_retried",
    JOBS.c.tenant,
    JOBS.c.retry_at,
    postgresql_where=text("retry_at IS NOT NULL"),
)
IS_NO_ELEMENT: Final = text("job.array_id = ''")
"""Written as in the indexes: a parameter would hide that."""
ELEMENTS: Final = JOBS.alias("elements")
IS_ELEMENT: Final = ELEMENTS.c.array_id != literal_column("''")
IS_ELEMENT_OF_JOB: Final = and_(ELEMENTS.c.array_id == JOBS.c.id, IS_ELEMENT)
Index(
    "ix_job_ended",
    JOBS.c.ended_at,
    postgresql_where=text("ended_at IS NOT NULL AND array_id = ''"),
)
Index(
    "ix_job_ended_of_tenant",
    JOBS.c.tenant,
    JOBS.c.ended_at,
    postgresql_include=["state", "started_at", "is_array"],
    postgresql_where=text("ended_at IS NOT NULL"),
)
LABELS: Final = JOBS.c.spec.op("->", return_type=JSONB())(literal_column("'labels'"))
"""A job's labels, written as in the index: a parameter in the place of the name would hide that."""
IS_LABELLED: Final = text("(spec -> 'labels') <> '{}'")
Index(
    "ix_job_labels",
    LABELS.label("labels"),
    postgresql_using="gin",
    postgresql_ops={"labels": "jsonb_path_ops"},
    postgresql_where=text("(spec -> 'labels') <> '{}' AND array_id = ''"),
)


def _counted(*, nullable: bool) -> tuple[Column[Any], ...]:
    """What jobs in line are counted by: all of a plan's shape, and the stretch of the line."""
    columns = {
        "tenant": Text,
        "priority": Integer,
        "queue": Text,
        "cpu_millicores": BigInteger,
        "memory_bytes": BigInteger,
        "gpu_count": Integer,
        "run_max": Text,
        "task_count": Integer,
        "stretch": BigInteger,
    }
    return tuple(Column(name, kind, nullable=nullable) for name, kind in columns.items())


LINE_CHANGES: Final = Table(
    "line_change",
    METADATA,
    Column("kind", Text, nullable=False),
    Column("id", Text, nullable=False),
    *_counted(nullable=True),
    Column("change", Integer, comment="of the jobs in line"),
    comment="written by triggers on job and replica, deleted by the leader that has read it",
)
"""Who has come into line, left it or changed in it, since the leader's last look (ADR-0034).

It has no key: whoever commits late must not meet what the leader is deleting. Bounded by what
changes between two looks of a leader; who begins to lead reads the line whole, and deletes all.
"""
STRETCH_BITS: Final = 12
"""A stretch is that many places in line together, as bits of `queue_seq`: 4,096."""
LINE_COUNTS: Final = Table(
    "line_count",
    METADATA,
    *(Column(each.name, each.type, primary_key=True) for each in _counted(nullable=False)),
    Column("job_count", BigInteger, nullable=False),
    comment="written by a trigger on line_change: what its deleted rows have come to",
)
"""How many jobs stand in line, but for what `line_change` says still (ADR-0039).

Of those that wait for no other jobs. Whoever deletes notes is one leader, so nobody waits here.
"""

USAGE: Final = Table(
    "tenant_usage",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("cpu_millicores", Double, nullable=False),
    Column("memory_bytes", Double, nullable=False),
    Column("gpu_count", Double, nullable=False),
    utc("as_of"),
)
"""What each tenant held lately, on average."""
IS_IN_QUEUE_OF_ITS_OWN: Final = text(f"queue <> '{DEFAULT_QUEUE}'")
Index(
    "ix_job_of_queue",
    JOBS.c.tenant,
    JOBS.c.queue,
    JOBS.c.id.desc(),
    postgresql_where=text(f"queue <> '{DEFAULT_QUEUE}' AND array_id = ''"),
)

QUEUES: Final = Table(
    "queue",
    METADATA,
    Column("tenant", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    utc("paused_at"),
    Column("paused_reason", Text, nullable=False),
)
"""Those that are paused; all others are names on jobs alone."""
DEPENDENCIES: Final = Table(
    "job_dependency",
    METADATA,
    Column("job_id", Text, ForeignKey(JOBS.c.id, ondelete="CASCADE"), primary_key=True),
    Column("needs_job_id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("condition", Text, nullable=False),
    Column("position", Integer, nullable=False, comment="in the job's spec"),
)
"""Which jobs wait for which others still; a row goes once its needed job has ended."""
Index("ix_job_dependency_needed", DEPENDENCIES.c.needs_job_id)

NODES: Final = Table(
    "node",
    METADATA,
    Column("id", Text, primary_key=True),
    *_resources(),
    *_resources("used_"),
    utc("heartbeat_at"),
    utc("registered_at"),
    Column("runtime", Text, nullable=False, server_default=""),
    utc("runtime_down_since", nullable=True),
    utc("cordoned_at", nullable=True),
    utc("draining_since", nullable=True),
    utc("lost_at", nullable=True),
    Column("allows_mixed_tenants", Boolean, nullable=False, server_default=text("true")),
    CheckConstraint(
        "used_cpu_millicores >= 0 AND used_memory_bytes >= 0 AND used_gpu_count >= 0",
        name="used_not_negative",
    ),
)

ATTEMPTS: Final = Table(
    "attempt",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("owner_kind", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("public_owner_id", Text, nullable=False, comment="job, or the replica's deployment"),
    Column("number", Integer, nullable=False),
    Column("node_id", Text, ForeignKey(NODES.c.id), nullable=False),
    *_resources(),
    Column("state", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    _document("log_location", nullable=True),
    Column("exit_code", Integer),
    Column("traceparent", Text),
    utc("created_at"),
    utc("started_at", nullable=True),
    utc("ended_at", nullable=True),
    Column("end_reason", Text),
    Column("end_message", Text),
    Column("task", Integer, nullable=False, server_default="0"),
    Column("task_count", Integer, nullable=False, server_default="1"),
    Column("run_max", Interval, comment="a job's, since its placement"),
    Column(
        "template",
        Text,
        nullable=False,
        server_default="",
        comment="what a job's are alike by; a replica's is empty",
    ),
    Column("run_expected", Interval, comment="how long those of its template took"),
)
IS_SUCCEEDED: Final = text("template <> '' AND task = 0 AND end_reason = 'succeeded'")
"""Written as in the index: parameters in it would hide that."""
Index(
    "ix_attempt_succeeded",
    ATTEMPTS.c.tenant,
    ATTEMPTS.c.template,
    ATTEMPTS.c.ended_at.desc(),
    postgresql_include=["created_at"],
    postgresql_where=IS_SUCCEEDED,
)
IS_FIRST_OF_JOB: Final = text("owner_kind = 'JOB' AND number = 1")
"""Written as in the index: parameters in it would hide that."""
Index(
    "ix_attempt_first_of_job",
    ATTEMPTS.c.tenant,
    ATTEMPTS.c.created_at,
    postgresql_include=["owner_id", "task"],
    postgresql_where=IS_FIRST_OF_JOB,
)
Index("uq_attempt_number", ATTEMPTS.c.owner_id, ATTEMPTS.c.number, ATTEMPTS.c.task, unique=True)
Index(
    "uq_attempt_open_owner",
    ATTEMPTS.c.owner_id,
    ATTEMPTS.c.task,
    unique=True,
    postgresql_where=text("state IN ('CREATED', 'STARTED')"),
)
Index(
    "ix_attempt_open_on_node",
    ATTEMPTS.c.node_id,
    ATTEMPTS.c.id,
    postgresql_where=text("state IN ('CREATED', 'STARTED')"),
)

# Who is asked to stop holds for its grace only: few at a time, beside all that runs.
Index("ix_job_stopping", JOBS.c.id, postgresql_where=text("state = 'STOPPING'"))

DEPLOYMENTS: Final = Table(
    "deployment",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("name", Text, nullable=False),
    _document("spec"),
    _document("model"),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False, comment="of its routing entry"),
    *_resources(),
    Column("traceparent", Text),
    utc("created_at"),
    utc("deleting_at", nullable=True),
    utc("deleted_at", nullable=True),
)
Index("ix_deployment_newest", DEPLOYMENTS.c.tenant, DEPLOYMENTS.c.id.desc())
Index("ix_deployment_of_name", DEPLOYMENTS.c.tenant, DEPLOYMENTS.c.name, DEPLOYMENTS.c.id)
Index(
    "uq_deployment_name",
    DEPLOYMENTS.c.tenant,
    DEPLOYMENTS.c.name,
    unique=True,
    postgresql_where=text("state <> 'DELETED'"),
)
Index(
    "ix_deployment_deleting",
    DEPLOYMENTS.c.id,
    postgresql_where=text("state = 'DELETING'"),
)

REPLICAS: Final = Table(
    "replica",
    METADATA,
    Column("id", Text, primary_key=True),
    Column("tenant", Text, nullable=False),
    Column("deployment_id", Text, ForeignKey(DEPLOYMENTS.c.id), nullable=False),
    Column("ordinal", Integer, nullable=False),
    Column("state", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("queue_seq", BigInteger, QUEUE_SEQ, nullable=False),
    Column("attempt_number", Integer, nullable=False),
    Column("attempt_id", Text),
    Column("node_id", Text),
    Column("address", Text),
    Column("restart_count", Integer, nullable=False),
    Column("failure_count", Integer, nullable=False),
    utc("ready_at", nullable=True),
    utc("stop_requested_at", nullable=True),
    utc("restart_at", nullable=True),
    utc("leaving_at", nullable=True),
)
Index("uq_replica_ordinal", REPLICAS.c.deployment_id, REPLICAS.c.ordinal, unique=True)
Index("ix_replica_line", REPLICAS.c.queue_seq, postgresql_where=text("state = 'QUEUED'"))
Index(
    "ix_replica_restart",
    REPLICAS.c.restart_at,
    postgresql_where=text("restart_at IS NOT NULL"),
)
Index(
    "ix_replica_leaving",
    REPLICAS.c.leaving_at,
    postgresql_where=text("leaving_at IS NOT NULL"),
)
