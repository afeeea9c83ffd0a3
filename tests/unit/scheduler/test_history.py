"""By when what runs is over, by how long others took."""

import pytest

from services.scheduler.domain.resources import Resources
from services.scheduler.domain.scheduling.history import expected_in_s
from tests.unit.scheduler.builders import a_spec, resources


@pytest.mark.parametrize(
    ("placed_for_s", "left_s"),
    [(0, 100), (99, 1), (100, 100), (150, 50), (200, 200), (399, 1), (400, 400)],
)
def test_what_takes_longer_than_expected_is_expected_to_take_twice_as_long(
    placed_for_s: float, left_s: float
) -> None:
    assert expected_in_s(100, placed_for_s=placed_for_s) == left_s


@pytest.mark.parametrize("run_expected_s", [-1.0, 0.0])
def test_what_took_no_time_takes_some(run_expected_s: float) -> None:
    assert expected_in_s(run_expected_s, placed_for_s=0) == 1
    assert expected_in_s(run_expected_s, placed_for_s=7 * 24 * 3_600) > 0


def test_jobs_are_alike_whose_name_image_resources_and_tasks_are() -> None:
    template = a_spec().template
    assert a_spec(array_size=100).template == template
    assert (
        a_spec(command=("python", "other.py"), priority=3, env={"SEED": "1"}).template == template
    )
    others = [
        a_spec(name="other"),
        a_spec(image="modelyard/train-sklearn"),
        a_spec(resources=resources(gpus=1)),
        a_spec(resources=Resources(1, 1, 1)),
        a_spec(task_count=2),
    ]
    assert len({template, *(other.template for other in others)}) == 1 + len(others)
