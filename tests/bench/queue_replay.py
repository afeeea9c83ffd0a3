"""How far off the instants are that waiting jobs are told: a recorded cluster, lived through again.

Jobs of the Philly trace arrive, run for as long as they did, and end, on virtual time, with the
scheduler's own decisions. Whoever has to wait is told at its arrival when it will start, as
`ExplainJob` tells it, and starts when it does. Each virtual cluster is by itself: one line, first
come first served, on as many nodes as it had.

Left out: jobs of more GPUs than a node has. Arrivals are `HASTE` times as fast as recorded, since
the clusters were half empty. A job's run time limit is a multiple of what it takes. The trace names
no users and no programs: where history is looked at, jobs of one cluster and count of GPUs are
taken to be of one template.
Source: msr-fiddle/philly-traces by way of stanford-futuredata/gavel; Jeon et al., ATC'19.
"""

import csv
import gzip
import heapq
import io
import math
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import Node
from services.scheduler.domain.identities import NodeId
from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.forecast import forecast
from services.scheduler.domain.scheduling.history import RUNS_MAX, expected_in_s
from services.scheduler.domain.scheduling.line import Head, Line, Shape
from services.scheduler.domain.scheduling.plan import Holding, Snapshot, plan
from services.scheduler.domain.scheduling.shares import Shares
from services.scheduler.settings import SchedulingSettings

HASTE: Final = 2.0
"""By what arrivals are faster than recorded: so lines form, and most of them go again."""
CLUSTERS: Final[Mapping[str, int]] = {"103959": 8, "ed69ec": 8, "e13805": 16, "2869ce": 16}
"""How many nodes a virtual cluster had. Source: `philly_vc.csv` of HeliosArtifact."""
GPUS_PER_NODE: Final = 8
_HEADS_MAX: Final = SchedulingSettings().cycle_heads_max
_ANY_INSTANT: Final = datetime(2017, 10, 1, tzinfo=UTC)
_TENANT: Final = TenantId("philly")


@dataclass(frozen=True, slots=True)
class Arrival:
    """A job of the trace: when it comes, what it needs, and for how long."""

    number: int
    at_s: float
    gpu_count: int
    lasts_s: float


@dataclass(frozen=True, slots=True)
class Wait:
    """What a job was told at its arrival, and how long it waited."""

    told_s: float | None
    """None: nobody could tell."""
    waited_s: float

    @property
    def error(self) -> float:
        """Return by what part of the wait the estimate was off."""
        assert self.told_s is not None, "only an estimate can be off"
        return abs(self.told_s - self.waited_s) / self.waited_s


def read_trace(path: Path) -> Mapping[str, Sequence[Arrival]]:
    """Return the jobs of each cluster, in the order of their arrival."""
    found: defaultdict[str, list[Arrival]] = defaultdict(list)
    with gzip.open(path) as packed:
        for row in csv.DictReader(io.TextIOWrapper(packed, "utf-8")):
            if row["vc"] in CLUSTERS and int(row["num_gpu"]) <= GPUS_PER_NODE:
                found[row["vc"]].append(
                    Arrival(
                        int(row["job"]),
                        float(row["arrival_s"]) / HASTE,
                        int(row["num_gpu"]),
                        float(row["duration_s"]),
                    )
                )
    return found


def waits_of(
    arrivals: Iterable[Arrival], *, node_count: int, limit_ratio: float, with_history: bool = False
) -> Sequence[Wait]:
    """Live through a cluster's jobs; return the waits of those that did not start at once.

    A job may run `limit_ratio` times as long as it does; estimates go by history where they may.
    """
    cluster = _Cluster(_nodes(node_count), limit_ratio, with_history)
    coming = sorted(arrivals, key=lambda each: each.at_s)
    for arrival in coming:
        cluster.run_until(arrival.at_s)
        cluster.take_in(arrival)
    cluster.run_until(math.inf)
    return [cluster.wait_of(arrival) for arrival in coming if arrival.number in cluster.told]


@dataclass(slots=True)
class _Cluster:
    """Nodes, what runs on them, and the line, at one virtual instant."""

    nodes: dict[NodeId, Node]
    limit_ratio: float
    with_history: bool
    now_s: float = 0.0
    line: list[Arrival] = field(default_factory=list)
    running: dict[int, Holding] = field(default_factory=dict)
    """What each job holds, with its limit counted from its start."""
    gpu_counts: dict[int, int] = field(default_factory=dict)
    run_expected_s: dict[int, float] = field(default_factory=dict)
    """How long those before it took, of each job that had any."""
    took_s: defaultdict[int, deque[float]] = field(
        default_factory=lambda: defaultdict(lambda: deque(maxlen=RUNS_MAX))
    )
    """How long the latest jobs took that had ended, by their GPUs."""
    ends: list[tuple[float, int]] = field(default_factory=list)
    started_s: dict[int, float] = field(default_factory=dict)
    told: dict[int, float | None] = field(default_factory=dict)

    def run_until(self, at_s: float) -> None:
        """Let what runs end, and what waits start, up to an instant."""
        while self.ends and self.ends[0][0] <= at_s:
            self.now_s, number = heapq.heappop(self.ends)
            self._end(number)
            self._cycle()
        self.now_s = at_s

    def take_in(self, arrival: Arrival) -> None:
        """Put a job last in line; tell it its start unless that is now."""
        self.line.append(arrival)
        if arrival.number not in self._cycle():
            self.told[arrival.number] = _told(self._head(arrival), self._seen())

    def wait_of(self, arrival: Arrival) -> Wait:
        """Return what became of what a job was told."""
        waited_s = self.started_s[arrival.number] - arrival.at_s
        return Wait(self.told[arrival.number], waited_s)

    def _cycle(self) -> set[int]:
        """Start whoever may, until nobody does; return who did."""
        begun: set[int] = set()
        while placements := plan(self._seen()).placements:
            placed = {int(each.head.id): each.holdings[0] for each in placements}
            for arrival in self.line:
                if (holding := placed.get(arrival.number)) is not None:
                    self._start(arrival, holding)
            self.line = [each for each in self.line if each.number not in placed]
            begun |= placed.keys()
        return begun

    def _start(self, arrival: Arrival, holding: Holding) -> None:
        node = self.nodes[holding.node_id]
        self.nodes[node.id] = node.booked(holding.resources, by=holding.work)
        self.running[arrival.number] = holding
        self.started_s[arrival.number] = self.now_s
        self.gpu_counts[arrival.number] = arrival.gpu_count
        if self.with_history and (took_s := self.took_s[arrival.gpu_count]):
            self.run_expected_s[arrival.number] = sum(took_s) / len(took_s)
        heapq.heappush(self.ends, (self.now_s + arrival.lasts_s, arrival.number))

    def _end(self, number: int) -> None:
        holding = self.running.pop(number)
        self.took_s[self.gpu_counts.pop(number)].append(self.now_s - self.started_s[number])
        node = self.nodes[holding.node_id]
        self.nodes[node.id] = replace(node, used=node.used.less(holding.resources))

    def _seen(self) -> Snapshot:
        """Return what a cycle would see."""
        line = Line.of(self._head(each) for each in self.line[:_HEADS_MAX])
        nodes, holdings = list(self.nodes.values()), list(self._holdings())
        return Snapshot(line, nodes, Shares(), {}, _HEADS_MAX, holdings=holdings)

    def _holdings(self) -> Iterator[Holding]:
        for number, holding in self.running.items():
            assert holding.ends_in is not None, "jobs end by themselves"
            passed_s = self.now_s - self.started_s[number]
            ends_in = max(timedelta(0), holding.ends_in - timedelta(seconds=passed_s))
            expected = None
            if (run_expected_s := self.run_expected_s.get(number)) is not None:
                expected = timedelta(seconds=expected_in_s(run_expected_s, placed_for_s=passed_s))
            yield holding._replace(ends_in=ends_in, expected_in=expected)

    def _head(self, arrival: Arrival) -> Head:
        shape = Shape(
            OwnerKind.JOB,
            _TENANT,
            priority=0,
            resources=Resources(gpu_count=arrival.gpu_count),
            run_max=timedelta(seconds=arrival.lasts_s * self.limit_ratio),
        )
        return Head(str(arrival.number), arrival.number, shape)


def _told(head: Head, seen: Snapshot) -> float | None:
    """Return what `ExplainJob` would tell, in seconds from now; no rounding to minutes."""
    if seen.line.find(head.id) is None:
        return None
    starts_in = forecast(head, seen, plan(seen)).starts_in
    return None if starts_in is None else starts_in.total_seconds()


def _nodes(count: int) -> dict[NodeId, Node]:
    nodes = [
        Node(
            NodeId(f"node-{number:02}"),
            capacity=Resources(gpu_count=GPUS_PER_NODE),
            used=Resources(),
            heartbeat_at=_ANY_INSTANT,
            runtime="docker",
            runtime_down_since=None,
        )
        for number in range(count)
    ]
    return {node.id: node for node in nodes}
