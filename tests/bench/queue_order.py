"""Whether a line's admissions came in order: they are carried out again, one after another.

Owns an idea of the order of its own, and takes nothing of the scheduler's: whoever decides on the
order can't vouch for it. It knows what stood in line, the nodes, and who was placed where.

Somebody is *passed over* when another is admitted though that one stands before it and there was
room for both at that moment, on some node and within its tenant's quota. Not so by backfill: where
one before both waits for room, what ends sooner, or takes none of the room that is waited for, may
pass. Across priorities, and within one tenant's jobs of a priority, that is an *inversion*. Between
tenants of a priority the order is by fair share: it is *unfair* once the admitted one's tenant has
a dominant share that is larger by more than a job's. That tolerance holds what the scheduler also
counts and this does not: the mean of earlier use, which a run of seconds hardly moves with a
half-life of a day.

Always holds: nobody joins the line, and nothing ends, between the first admission and the last.
"""

from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

Amounts = tuple[int, int, int]
"""Millicores, bytes of memory, GPUs."""
Key = tuple[int, float, int]
_Kind = tuple[int, str, Amounts, float]
NOTHING: Amounts = (0, 0, 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A job as it stood in line."""

    id: str
    tenant: str
    priority: int
    queue_seq: int
    amounts: Amounts
    run_max_s: float

    @property
    def kind(self) -> _Kind:
        """Return what it shares with those that there is room for when there is room for it."""
        return (self.priority, self.tenant, self.amounts, self.run_max_s)


@dataclass(frozen=True, slots=True)
class Admission:
    """That a job was placed."""

    job_id: str
    node_id: str


@dataclass(frozen=True, slots=True)
class PassedOver:
    """Who was admitted, and who had been before it."""

    admitted: Standing
    instead_of: Standing


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found; at most one of each for an admission."""

    inversions: Sequence[PassedOver]
    unfair: Sequence[PassedOver]


def key_of(job: Standing, shares: Mapping[str, float]) -> Key:
    """Return the sort key: larger priority, then the tenant with less, then who came first."""
    return (-job.priority, shares[job.tenant], job.queue_seq)


def verdict_on(
    admissions: Iterable[Admission],
    line: Sequence[Standing],
    capacities: Mapping[str, Amounts],
    *,
    quotas: Mapping[str, Amounts] | None = None,
) -> Verdict:
    """Return who was passed over; raises AssertionError for what is no admission of this line.

    Tenants without a quota may take whatever there is.
    """
    replay = _Replay(line, capacities, quotas or {})
    inversions, unfair = [], []
    for admission in admissions:
        job = replay.standing_of(admission.job_id)
        passed = replay.passed_over_by(job, admission.node_id)
        is_strict = [_is_strict(job, each) for each in passed]
        if True in is_strict:
            inversions.append(PassedOver(job, passed[is_strict.index(True)]))
        if False in is_strict:
            unfair.append(PassedOver(job, passed[is_strict.index(False)]))
        replay.carry_out(job, admission.node_id)
    return Verdict(inversions, unfair)


def _is_strict(job: Standing, passed: Standing) -> bool:
    """Tell whether shares have no say between two."""
    return job.priority != passed.priority or job.tenant == passed.tenant


class _Replay:
    """The line, the nodes and the shares between two admissions."""

    def __init__(
        self,
        line: Sequence[Standing],
        capacities: Mapping[str, Amounts],
        quotas: Mapping[str, Amounts],
    ) -> None:
        self._standing = {job.id: job for job in line}
        self._by_kind: defaultdict[_Kind, deque[Standing]] = defaultdict(deque)
        for job in sorted(line, key=lambda job: job.queue_seq):
            self._by_kind[job.kind].append(job)
        self._capacities = capacities
        self._free = dict(capacities)
        self._total = _sum(capacities.values())
        self._quotas = quotas
        self._held = dict.fromkeys({job.tenant for job in line}, NOTHING)
        self._shares = dict.fromkeys(self._held, 0.0)

    def standing_of(self, job_id: str) -> Standing:
        """Return a job that stands in line."""
        assert job_id in self._standing, f"{job_id} does not stand in line, or not any more"
        return self._standing[job_id]

    def passed_over_by(self, job: Standing, node_id: str) -> Sequence[Standing]:
        """Return who should have been admitted before a job: the first one of each kind."""
        return [
            each
            for each in self._firsts()
            if self._is_before(each, job)
            and self._has_room(each)
            and not self._is_backfill(job, node_id, each)
        ]

    def carry_out(self, job: Standing, node_id: str) -> None:
        """Place a job."""
        free = self._free[node_id]
        assert _fits(job.amounts, free), f"{node_id} has no room for {job.id}"
        self._free[node_id] = _less(free, job.amounts)
        self._held[job.tenant] = _sum([self._held[job.tenant], job.amounts])
        self._shares[job.tenant] = self._share_of(self._held[job.tenant])
        del self._standing[job.id]

    def _firsts(self) -> Iterable[Standing]:
        """Yield the first one of each kind: there is room for it, or for none of its kind."""
        for jobs in self._by_kind.values():
            while jobs and jobs[0].id not in self._standing:
                jobs.popleft()
            if jobs:
                yield jobs[0]

    def _is_before(self, one: Standing, job: Standing) -> bool:
        if key_of(one, self._shares) >= key_of(job, self._shares):
            return False
        if _is_strict(job, one):
            return True
        tolerance = max(self._share_of(job.amounts), self._share_of(one.amounts))
        return self._shares[job.tenant] - self._shares[one.tenant] > tolerance

    def _has_room(self, job: Standing) -> bool:
        return self._is_within_quota(job) and _any_fits(job.amounts, self._free)

    def _is_within_quota(self, job: Standing) -> bool:
        quota = self._quotas.get(job.tenant)
        return quota is None or _fits(_sum([self._held[job.tenant], job.amounts]), quota)

    def _is_backfill(self, job: Standing, node_id: str, passed: Standing) -> bool:
        """Tell whether one before both waits for room, of which a job takes nothing."""
        return any(
            job.run_max_s < passed.run_max_s or not self._could_share(first, passed, node_id)
            for first in self._firsts()
            if key_of(first, self._shares) < key_of(passed, self._shares)
            and self._is_within_quota(first)
            and not _any_fits(first.amounts, self._free)
            and _any_fits(first.amounts, self._capacities)
        )

    def _could_share(self, first: Standing, passed: Standing, node_id: str) -> bool:
        """Tell whether a node is of any use to who waits for room, or to who was passed over."""
        return _fits(first.amounts, self._capacities[node_id]) or _fits(
            passed.amounts, self._free[node_id]
        )

    def _share_of(self, amounts: Amounts) -> float:
        """Return the dominant share: the largest one among the resources."""
        return max(
            part / whole for part, whole in zip(amounts, self._total, strict=True) if whole > 0
        )


def _fits(amounts: Amounts, free: Amounts) -> bool:
    return amounts[0] <= free[0] and amounts[1] <= free[1] and amounts[2] <= free[2]


def _any_fits(amounts: Amounts, nodes: Mapping[str, Amounts]) -> bool:
    return any(_fits(amounts, free) for free in nodes.values())


def _less(one: Amounts, other: Amounts) -> Amounts:
    return (one[0] - other[0], one[1] - other[1], one[2] - other[2])


def _sum(amounts: Iterable[Amounts]) -> Amounts:
    millicores, memory, gpus = zip(*amounts, strict=True)
    return (sum(millicores), sum(memory), sum(gpus))
