"""Who waits for capacity, and whose turn it is.

Owns: the order. Replicas come first, by `queue_seq`; then jobs by (larger priority, smaller share
of their tenant at that moment, smaller `queue_seq`), where each placement makes its tenant's share
larger (ADR-0034). What is alike for a plan stands together, by shape: what one of them is refused
the others are too. So a plan costs as much as there are tenants and shapes, however many wait. The
elements of an array stand there as one, with their count, and have their turns one by one.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from heapq import heapify, heappop, heappush
from typing import Self

from typing_extensions import override

from services.chassis.tenancy import TenantId
from services.scheduler.domain.attempts.attempt import OwnerKind
from services.scheduler.domain.fleet.node import HeldWork
from services.scheduler.domain.resources import Resources


@dataclass(frozen=True, slots=True)
class Shape:
    """All of one who waits that a plan looks at, but for its turn."""

    kind: OwnerKind
    tenant: TenantId
    priority: int
    resources: Resources
    run_max: timedelta | None
    """For how long it holds capacity at most, from its start; None: it never ends by itself."""
    queue: str = ""
    """A job's, by which its tenant may pause it; a replica has none."""
    task_count: int = 1
    """How many times it takes `resources`, on one node or on several: all of it, or nothing."""

    @property
    def total(self) -> Resources:
        """Return what all of its tasks take together."""
        return self.resources if self.task_count == 1 else self.resources * self.task_count

    @property
    def rank(self) -> tuple[bool, int]:
        """Return what comes before all shares: replicas, then larger priorities."""
        is_job = self.kind is OwnerKind.JOB
        return (is_job, -self.priority if is_job else 0)


@dataclass(frozen=True, slots=True)
class Head:
    """One who waits for capacity: a job or a replica; or an array, of which each element does."""

    id: str
    queue_seq: int
    shape: Shape
    array_index: int = 0
    """What tells apart those of one place: the elements of an array; of an array its next one's."""
    count: int = 1
    """How many elements of it wait; 1 of everything else."""

    @property
    def kind(self) -> OwnerKind:
        """Return what it is."""
        return self.shape.kind

    @property
    def tenant(self) -> TenantId:
        """Return whose it is."""
        return self.shape.tenant

    @property
    def resources(self) -> Resources:
        """Return what each of its tasks needs."""
        return self.shape.resources

    @property
    def task_count(self) -> int:
        """Return how many tasks it has; a replica is one."""
        return self.shape.task_count

    @property
    def total(self) -> Resources:
        """Return what all of its tasks need together."""
        return self.shape.total

    @property
    def run_max(self) -> timedelta | None:
        """Return for how long it holds that at most."""
        return self.shape.run_max

    @property
    def work(self) -> HeldWork:
        """Return what a node holds once this is placed on it."""
        return HeldWork(self.shape.tenant, self.shape.kind)


@dataclass(frozen=True, slots=True)
class Waiting:
    """That somebody stands in line."""

    head: Head
    not_before: datetime | None = None
    """Until when it pauses before a retry; None: its turn may come at any time."""


@dataclass(frozen=True, slots=True)
class LineChange:
    """That something about one who waits, or waited, is not as it was."""

    head_id: str
    waiting: Waiting | None
    """How it stands in line now; None: it does not."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What tells two pictures of a line apart, however long it is."""

    count: int = 0
    """Each element counts."""
    queue_seq_sum: int = 0
    """An array counts once."""


_Turn = tuple[int, int, str]
"""The place in line, the index in its array, and who it is."""


@dataclass(slots=True)
class _Alike:
    """Those of one shape, by their turns."""

    shape: Shape
    turns: list[_Turn] = field(default_factory=list)
    rests: dict[str, int] = field(default_factory=dict)
    """How many elements arrays have here; of all others it is one."""

    def count(self, place: int) -> int:
        """Return for how many turns whoever stands there does."""
        return self.rests.get(self.turns[place][-1], 1)

    def head(self, place: int, past: int = 0) -> Head:
        """Return who stands there among them, without those of it whose turns are past."""
        queue_seq, index, head_id = self.turns[place]
        return Head(head_id, queue_seq, self.shape, index + past, self.count(place) - past)


class Line:
    """All who wait, in memory."""

    def __init__(self) -> None:
        # Two maps, not one of pairs: tuples of nothing but numbers and words are not walked by the
        # collector of garbage, and a pair for each of 100,000 makes full collections 70 ms long.
        self._turns: dict[str, _Turn] = {}
        self._alike_of: dict[str, _Alike] = {}
        self._alike: dict[TenantId, dict[Shape, _Alike]] = {}
        self._paused: dict[str, Waiting] = {}
        self._pauses: list[tuple[datetime, str]] = []  # some are of nobody by now
        self._counts: Counter[OwnerKind] = Counter()
        self._queue_seq_sum = 0
        self.edition = 0
        """How often it has changed: what tells it apart from itself at another time."""

    @classmethod
    def of(cls, heads: Iterable[Head]) -> Self:
        """Return a line of these."""
        line = cls()
        for head in heads:
            line.put(Waiting(head))
        return line

    @property
    def totals(self) -> Totals:
        """Return what tells it apart from another picture of it."""
        return Totals(self._counts.total(), self._queue_seq_sum)

    @property
    def length(self) -> int:
        """Return how much there is to look at: an array is one, however many wait with it."""
        return len(self._turns) + len(self._paused)

    def count(self, kind: OwnerKind) -> int:
        """Return how many of a kind wait; of an array each element does."""
        return self._counts[kind]

    def tenants(self) -> set[TenantId]:
        """Return all who have something in line."""
        return self._alike.keys() | {each.head.tenant for each in self._paused.values()}

    def find(self, head_id: str) -> Head | None:
        """Return one whose turn could come; None also for one that pauses."""
        if (turn := self._turns.get(head_id)) is None:
            return None
        alike, (queue_seq, index, _) = self._alike_of[head_id], turn
        return Head(head_id, queue_seq, alike.shape, index, alike.rests.get(head_id, 1))

    def change(self, change: LineChange) -> None:
        """Take over how one stands now; to do so again changes nothing."""
        if change.waiting is None:
            self.remove(change.head_id)
        else:
            self.put(change.waiting)

    def put(self, waiting: Waiting) -> None:
        """Let one stand in line as is told now; what was known of it is past."""
        head = waiting.head
        self.edition += 1
        self.remove(head.id)
        self._tally(head, 1)
        if waiting.not_before is None:
            self._insert(head)
        else:
            self._paused[head.id] = waiting
            heappush(self._pauses, (waiting.not_before, head.id))

    def remove(self, head_id: str) -> None:
        """Let one stand in line no more, if it did."""
        self.edition += 1
        if (paused := self._paused.pop(head_id, None)) is not None:
            self._tally(paused.head, -1)
        elif (head := self.find(head_id)) is not None:
            self._tally(head, -1)
            alike, turn = self._alike_of.pop(head_id), self._turns.pop(head_id)
            del alike.turns[bisect_left(alike.turns, turn)]
            alike.rests.pop(head_id, None)
            if not alike.turns:
                self._forget(alike.shape)

    def end_pauses(self, *, at: datetime) -> None:
        """Let those have their turns whose pauses are over."""
        while self._pauses and self._pauses[0][0] <= at:
            ends_at, head_id = heappop(self._pauses)
            waiting = self._paused.get(head_id)
            if waiting is not None and waiting.not_before == ends_at:
                del self._paused[head_id]
                self._insert(waiting.head)
                self.edition += 1

    def without(self, head_ids: Iterable[str]) -> "Line":
        """Return another line that lacks these, and those that pause; of an array an element."""
        line = Line()
        for theirs in self._alike.values():
            for alike in theirs.values():
                line._take_over(alike)
        for head_id, count in Counter(head_ids).items():
            line._take(head_id, count)
        return line

    def turns(self, share_of: Callable[[TenantId], float]) -> "Turns":
        """Return whose turn it is, one after another, by the shares of each moment."""
        return Turns([_Theirs(theirs.values()) for theirs in self._alike.values()], share_of)

    def _insert(self, head: Head) -> None:
        theirs = self._alike.setdefault(head.tenant, {})
        if (alike := theirs.get(head.shape)) is None:
            alike = theirs[head.shape] = _Alike(head.shape)
        turn = (head.queue_seq, head.array_index, head.id)
        insort(alike.turns, turn)
        self._turns[head.id], self._alike_of[head.id] = turn, alike
        if head.count != 1:
            alike.rests[head.id] = head.count

    def _take(self, head_id: str, count: int) -> None:
        if (head := self.find(head_id)) is not None and count < head.count:
            rest = replace(head, array_index=head.array_index + count, count=head.count - count)
            self.put(Waiting(rest))
        else:
            self.remove(head_id)

    def _take_over(self, alike: _Alike) -> None:
        own = _Alike(alike.shape, list(alike.turns), dict(alike.rests))
        self._alike.setdefault(alike.shape.tenant, {})[alike.shape] = own
        self._turns |= {turn[-1]: turn for turn in own.turns}
        self._alike_of |= dict.fromkeys((turn[-1] for turn in own.turns), own)
        self._counts[alike.shape.kind] += len(own.turns) + sum(own.rests.values()) - len(own.rests)
        self._queue_seq_sum += sum(queue_seq for queue_seq, *_ in own.turns)

    def _forget(self, shape: Shape) -> None:
        theirs = self._alike[shape.tenant]
        del theirs[shape]
        if not theirs:
            del self._alike[shape.tenant]

    def _tally(self, head: Head, change: int) -> None:
        self._counts[head.kind] += change * head.count
        self._queue_seq_sum += change * head.queue_seq


class _Theirs:
    """One tenant's in line, from the first on."""

    def __init__(self, alike: Iterable[_Alike]) -> None:
        self._next = [(each.shape.rank, each.turns[0][:2], 0, 0, each) for each in alike]
        heapify(self._next)

    def __bool__(self) -> bool:
        return bool(self._next)

    @property
    def key(self) -> tuple[tuple[bool, int], int]:
        """Return the first one's rank and place; no two are the same."""
        rank, (queue_seq, _), *_ = self._next[0]
        return rank, queue_seq

    @property
    def head(self) -> Head:
        """Return the first one."""
        *_, place, past, alike = self._next[0]
        return alike.head(place, past)

    def move_on(self, *, past_all_alike: bool) -> None:
        """Go on to the next one, or to the next of another shape."""
        rank, (queue_seq, index), place, past, alike = heappop(self._next)
        if past_all_alike:
            return
        if past + 1 < alike.count(place):
            heappush(self._next, (rank, (queue_seq, index + 1), place, past + 1, alike))
        elif place + 1 < len(alike.turns):
            heappush(self._next, (rank, alike.turns[place + 1][:2], place + 1, 0, alike))


class Turns(Iterator[Head]):
    """Whose turn it is, each time anew: a placement makes its tenant's share larger.

    Whoever asks on has placed the one told last, or has refused it.
    """

    def __init__(self, tenants: Iterable[_Theirs], share_of: Callable[[TenantId], float]) -> None:
        self._share_of = share_of
        self._first: list[tuple[tuple[bool, int], float, int, _Theirs]] = []
        self._told: _Theirs | None = None
        self._is_refused = False
        for theirs in tenants:
            self._push(theirs)

    @override
    def __next__(self) -> Head:
        if self._told is not None:
            self._told.move_on(past_all_alike=self._is_refused)
            self._push(self._told)
        if not self._first:
            raise StopIteration
        *_, self._told = heappop(self._first)
        self._is_refused = False
        return self._told.head

    def refuse(self) -> None:
        """Pass over all that are like the one told last."""
        self._is_refused = True

    def leave(self) -> None:
        """Pass over all of the tenant whose head was told last."""
        self._told = None

    def _push(self, theirs: _Theirs) -> None:
        if theirs:
            rank, queue_seq = theirs.key
            is_job, _ = rank
            share = self._share_of(theirs.head.tenant) if is_job else 0.0
            heappush(self._first, (rank, share, queue_seq, theirs))
