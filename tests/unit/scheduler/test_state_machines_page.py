"""The page that explains the states says what the code does."""

from tests.unit.scheduler.state_machines_page import PAGE, render


def test_the_page_of_state_machines_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render()
