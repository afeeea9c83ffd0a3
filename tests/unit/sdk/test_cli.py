"""How a command ends."""

import errno
import io
import sys

import pytest
from modelyard.cli import main as cli
from modelyard.cli.platform import status
from modelyard.client import ApiError, ConnectionFailed, Job
from typing_extensions import override


@pytest.fixture(autouse=True)
def _at_no_platform(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELYARD_URL", "http://edge")
    monkeypatch.setattr(sys, "argv", ["modelyard", "status"])


def ends(monkeypatch: pytest.MonkeyPatch, failure: BaseException) -> object:
    """Return the exit code of a command in which this happens."""

    def fail(*_: object, **__: object) -> None:
        raise failure

    monkeypatch.setattr(status, "callback", fail)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def an_unreadable_answer() -> BaseException:
    with pytest.raises(ValueError, match="Job") as raised:
        Job.model_validate({})
    return raised.value


@pytest.mark.parametrize(
    ("failure", "code", "text"),
    [
        (ApiError(404, {"code": "NOT_FOUND", "detail": "no job x"}), 3, "NOT_FOUND"),
        (ConnectionFailed("http://edge: refused"), 4, "http://edge"),
        (an_unreadable_answer(), 4, "no Job of Modelyard's"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_each_failure_has_its_code_and_a_sentence(
    failure: BaseException,
    code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert ends(monkeypatch, failure) == code
    assert text in capsys.readouterr().err


def test_a_reader_that_has_left_is_no_failed_job(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(io.StringIO):
        """Standard output that nobody reads any more."""

        @override
        def write(self, _: str) -> int:
            raise BrokenPipeError(errno.EPIPE, "gone")

    monkeypatch.setattr(sys, "stdout", Broken())
    monkeypatch.setattr(sys, "argv", ["modelyard", "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 141
