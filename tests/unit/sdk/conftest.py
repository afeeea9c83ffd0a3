"""Commands are run where no stack is: neither one of this checkout, nor one that a shell names."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _away_from_any_stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith("MODELYARD_"):
            monkeypatch.delenv(name)
