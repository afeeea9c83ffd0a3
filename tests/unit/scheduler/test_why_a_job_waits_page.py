"""The page on why a job waits says what the code says."""

import re

from services.scheduler.domain.scheduling.causes import Cause, Hold
from services.scheduler.domain.scheduling.forecast import Basis
from tests.unit.scheduler.why_a_job_waits_page import PAGE, render


def test_the_table_of_the_page_is_up_to_date() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == render(page)


def test_each_hold_has_a_cause_and_all_but_none_have_a_help() -> None:
    assert {cause.hold for cause in Cause} == {*Hold}
    for cause in Cause:
        assert bool(cause.helped_by) is (cause.hold is not Hold.NONE)


def test_the_page_tells_of_each_basis_of_an_estimate() -> None:
    _, _, below = PAGE.read_text(encoding="utf-8").partition("| `estimate_basis` |")
    told = re.findall(r"^\| `([A-Z_]+)` \|", below, flags=re.MULTILINE)
    assert sorted(told) == sorted(Basis)
