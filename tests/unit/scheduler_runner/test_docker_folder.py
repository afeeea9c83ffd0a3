"""What the Docker runtime notes beside a container."""

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.chassis.tenancy import TenantId
from services.scheduler.adapters.runtime_docker.folder import ContainerFolder, StopRequest
from services.scheduler.adapters.runtime_files import files
from services.scheduler.domain.attempts.runtime import ContainerSpec

NOW = datetime(2026, 1, 2, tzinfo=UTC)


@pytest.fixture
def folder(tmp_path: Path) -> ContainerFolder:
    folder = ContainerFolder(tmp_path / "container-1")
    spec = ContainerSpec("container-1", TenantId("acme"), "image", ("run",), texts={"a/b": "text"})
    folder.lay_out(spec, uid=65532)
    return folder


def test_what_can_not_be_deleted_gets_its_name_back(
    folder: ContainerFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> None:
        raise OSError

    with monkeypatch.context() as patched:
        patched.setattr(files, "_delete", fail)
        with pytest.raises(OSError):  # noqa: PT011 (any will do)
            folder.discard()
    assert [each.name for each in folder.path.parent.iterdir()] == [folder.name]

    folder.discard()
    assert list(folder.path.parent.iterdir()) == []


def test_folder_of_an_earlier_boot_is_laid_out_anew(folder: ContainerFolder) -> None:
    assert folder.is_of_this_boot()
    (folder.path / "boot").write_text("earlier")
    assert not folder.is_of_this_boot()
    (folder.files / "work" / "a" / "b").write_text("")

    spec = ContainerSpec("container-1", TenantId("acme"), "image", ("run",), texts={"a/b": "text"})
    folder.lay_out(spec, uid=65532)

    assert folder.is_of_this_boot()
    assert (folder.files / "work" / "a" / "b").read_text() == "text"


def test_start_is_claimed_once_for_each_container(folder: ContainerFolder) -> None:
    assert folder.claim_start("one")
    assert not folder.claim_start("one")
    assert folder.claim_start("two")


def test_claim_tells_its_age(folder: ContainerFolder) -> None:
    assert folder.claimed_at("one") is None
    folder.claim_start("one")

    assert folder.claimed_at("one") is not None


def test_claim_fails_when_the_folder_is_gone(folder: ContainerFolder) -> None:
    folder.discard()
    folder.discard()

    with pytest.raises(FileNotFoundError):
        folder.claim_start("one")


def test_stop_with_the_least_patience_counts_and_the_first_instant_stays(
    folder: ContainerFolder,
) -> None:
    later = NOW + timedelta(seconds=5)
    assert folder.ask_to_stop(StopRequest(NOW, kill_at=10)) == StopRequest(NOW, 10)
    assert folder.ask_to_stop(StopRequest(later, kill_at=20)) == StopRequest(NOW, 10)
    assert folder.ask_to_stop(StopRequest(later, kill_at=3)) == StopRequest(NOW, 3)

    assert folder.stop_request() == StopRequest(NOW, 3)


def test_folder_is_laid_out_once_and_closed_to_others(folder: ContainerFolder) -> None:
    other = ContainerSpec("container-1", TenantId("acme"), "image", ("run",), texts={"a/b": "x"})
    folder.lay_out(other, uid=65532)

    assert (folder.files / "work" / "a" / "b").read_text() == "text"
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
