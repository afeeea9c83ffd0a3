"""How a purge comes past what it can't delete, whichever of its things that are."""

from hypothesis import given
from hypothesis import strategies as st

from services.chassis.purges import Round


def test_a_round_goes_on_behind_what_failed_and_begins_anew_after_the_last() -> None:
    purging = Round()
    seen = []
    for found, failed in [(2, 2), (2, 1), (1, 1), (2, 0)]:
        purging.passed(found=found, failed=failed, limit=2)
        seen.append(purging.passed_over)
    assert seen == [2, 3, 0, 0]


@given(is_stuck=st.lists(st.booleans(), max_size=20), limit=st.integers(1, 5))
def test_in_one_round_all_goes_that_can(is_stuck: list[bool], limit: int) -> None:
    purging, left = Round(), is_stuck
    for _ in range(len(is_stuck) // limit + 1):
        front = left[: purging.passed_over]
        found = left[purging.passed_over :][:limit]
        failed = [each for each in found if each]
        left = front + failed + left[len(front) + len(found) :]
        purging.passed(found=len(found), failed=len(failed), limit=limit)
    assert all(left)
