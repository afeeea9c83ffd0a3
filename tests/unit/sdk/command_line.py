"""Running the `modelyard` command within the test."""

import sys

import pytest
from modelyard.cli import main as cli


def exit_code_of(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """Run the command line with these arguments; return its exit code."""
    monkeypatch.setattr(sys, "argv", ["modelyard", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code
