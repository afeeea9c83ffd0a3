"""Where PostgreSQL comes from, and what its start leaves alone."""

from pathlib import Path

import pytest

from deploy.local import postgres
from deploy.local.state import State


def _modes_above(folder: Path) -> dict[Path, int]:
    return {parent: parent.stat().st_mode for parent in folder.parents}


@pytest.mark.parametrize("source", ["system", "wheel"])
def test_postgres_starts_and_changes_no_folder_above_its_own(
    state: State, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.setenv("MODELYARD_POSTGRES", source)
    folders = (state.folder("postgres"), postgres.find_installation().programs)
    before = [_modes_above(folder) for folder in folders]

    server = postgres.start(state, durable=False)

    server.execute("CREATE DATABASE one", "DROP DATABASE one")
    assert [_modes_above(folder) for folder in folders] == before
