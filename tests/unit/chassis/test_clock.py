"""What the machine's clock counts."""

import time

import pytest

from services.chassis.clock import SystemClock


def test_time_in_which_the_machine_slept_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {time.CLOCK_MONOTONIC: 40.0, time.CLOCK_BOOTTIME: 640.0}
    monkeypatch.setattr(time, "clock_gettime", told.__getitem__)
    assert SystemClock().monotonic() == 640.0
