"""A container's file is read once, in order, whatever its runtime does with it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.log_collector.adapters.container_files.generations import LINE_BYTES_MAX, Generations
from services.log_collector.adapters.container_files.json_file import CORRUPT_BYTES_MAX
from services.log_collector.domain.assembly import Corrupt, Gap
from services.log_collector.domain.checkpoint import FilePosition
from tests.unit.log_collector.builders import ContainerLog, entry, untimed

PATH = "c1/container.log"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[ContainerLog]:
    log = ContainerLog(tmp_path, "c1")
    yield log
    log.close()


def read_all(
    generations: Generations, *, bytes_max: int = 1 << 18
) -> tuple[list[str | Gap | Corrupt], FilePosition | None]:
    """Read to the end of what is written; return texts and the last position."""
    found: list[str | Gap | Corrupt] = []
    position = None
    while True:
        chunk = generations.read(bytes_max)
        for item in chunk.items:
            if isinstance(item, Gap | Corrupt):
                found.append(item)
            else:
                found += [part.log.removesuffix("\n") for part in item]
        if chunk.position is None:
            return found, position
        position = chunk.position


def test_reading_waits_for_a_folder_that_is_absent(tmp_path: Path) -> None:
    generations = Generations(tmp_path, PATH, None)
    assert generations.read(100).is_absent

    log = ContainerLog(tmp_path, "c1")
    assert not generations.read(100).is_absent
    log.write("hello")
    assert read_all(generations)[0] == ["hello"]
    log.close()
    generations.close()


def test_an_unfinished_line_of_the_file_is_read_when_it_is_whole(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    raw = entry("one") + entry("two")
    log.write_raw(raw[:-7])
    assert read_all(generations)[0] == ["one"]
    log.write_raw(raw[-7:])
    assert read_all(generations)[0] == ["two"]
    generations.close()


def test_generations_that_are_gone_from_the_folder_are_read_from_what_is_held(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    log.write("a")
    first = generations.read(1)  # one line at least
    assert first.position is not None
    expected = []
    for number in range(12):  # three times as many as the folder keeps
        log.write(f"{number}.1", f"{number}.2")
        expected += [f"{number}.1", f"{number}.2"]
        log.rotate()
        generations._discover()

    assert read_all(generations)[0] == expected
    generations.close()


def test_a_generation_lost_between_two_looks_leaves_a_gap(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    log.write("a")
    assert read_all(generations)[0] == ["a"]
    for number in range(6):
        log.rotate()
        log.write(str(number))

    found, _ = read_all(generations)

    assert isinstance(found[0], Gap)
    assert found[1:] == ["2", "3", "4", "5"]
    generations.close()


def test_reading_goes_on_behind_a_position_after_rotations(
    tmp_path: Path, log: ContainerLog
) -> None:
    before = Generations(tmp_path, PATH, None)
    log.write("a", "b")
    _, position = read_all(before)
    before.close()
    log.write("c")
    log.rotate()
    log.write("d")
    log.rotate()

    after = Generations(tmp_path, PATH, position)

    assert read_all(after)[0] == ["c", "d"]
    after.close()


def test_a_position_in_a_file_that_is_gone_leaves_a_gap(tmp_path: Path, log: ContainerLog) -> None:
    log.write("a")
    before = Generations(tmp_path, PATH, None)
    _, position = read_all(before)
    before.close()
    for number in range(5):
        log.rotate()
        log.write(str(number))

    after = Generations(tmp_path, PATH, position)
    found, _ = read_all(after)

    assert isinstance(found[0], Gap)
    assert found[1:] == ["1", "2", "3", "4"]
    after.close()


def test_another_file_under_the_same_inode_is_not_taken_for_the_old_one(
    tmp_path: Path, log: ContainerLog
) -> None:
    log.write("another file")
    status = log.path.stat()
    stale = FilePosition(status.st_dev, status.st_ino, fingerprint=1, offset=10)

    generations = Generations(tmp_path, PATH, stale)
    found, _ = read_all(generations)

    assert isinstance(found[0], Gap)
    assert found[1:] == ["another file"]
    generations.close()


def test_a_truncated_file_leaves_a_gap_and_is_read_from_its_start(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    log.write("a long enough line")
    read_all(generations)
    os.truncate(log.path, 0)
    log.write("b")

    found, _ = read_all(generations)

    assert isinstance(found[0], Gap)
    assert found[1:] == ["b"]
    generations.close()


def test_a_torn_last_line_of_an_old_generation_is_kept_as_bytes(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    log.write("a")
    log.write_raw(b'{"log":"tor')
    log.rotate()
    log.write("b")

    assert read_all(generations)[0] == ["a", Corrupt(b'{"log":"tor'), "b"]
    generations.close()


def test_endless_bytes_without_a_newline_are_kept_in_pieces(
    tmp_path: Path, log: ContainerLog
) -> None:
    generations = Generations(tmp_path, PATH, None)
    log.write("a")
    log.write_raw(b"x" * (LINE_BYTES_MAX + 10) + b"\n")
    log.write("b")

    found, _ = read_all(generations)

    assert (found[0], found[-1]) == ("a", "b")
    pieces = [piece.raw for piece in found[1:-1] if isinstance(piece, Corrupt)]
    assert b"".join(pieces) == b"x" * (LINE_BYTES_MAX + 10)
    assert max(map(len, pieces)) <= CORRUPT_BYTES_MAX
    generations.close()


@pytest.mark.parametrize("what", ["link to a file", "link to a folder", "fifo"])
def test_nothing_but_a_plain_file_below_the_root_is_read(tmp_path: Path, what: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "container.log").write_bytes(entry("secret"))
    root = tmp_path / "root"
    root.mkdir()
    match what:
        case "link to a file":
            (root / "c1").mkdir()
            (root / "c1" / "container.log").symlink_to(outside / "container.log")
        case "link to a folder":
            (root / "c1").symlink_to(outside)
        case _:
            (root / "c1").mkdir()
            os.mkfifo(root / "c1" / "container.log")

    generations = Generations(root, PATH, None)

    assert generations.read(1 << 18).is_absent
    generations.close()


steps = st.lists(
    st.one_of(
        st.integers(1, 5).map(lambda count: ("write", count)),
        st.just(("rotate", 0)),
        st.integers(1, 200).map(lambda size: ("read", size)),
        st.just(("restart", 0)),
    ),
    max_size=30,
)


@untimed
@given(steps)
def test_no_line_is_lost_or_repeated_over_rotations_and_restarts(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    root = tmp_path_factory.mktemp("containers")
    log = ContainerLog(root, "c1", files_max=40)
    generations = Generations(root, PATH, None)
    written: list[str] = []
    found: list[str | Gap | Corrupt] = []
    position = None
    for step, amount in steps:
        match step:
            case "write":
                texts = [str(len(written) + index) for index in range(amount)]
                log.write(*texts)
                written += texts
            case "rotate":
                log.rotate()
            case "read":
                chunk = generations.read(amount)
                for item in chunk.items:
                    assert not isinstance(item, Gap | Corrupt)
                    found += [part.log.removesuffix("\n") for part in item]
                position = chunk.position or position
            case _:
                generations.close()
                generations = Generations(root, PATH, position)
    found += read_all(generations)[0]

    assert found == written
    generations.close()
    log.close()


def held_below(folder: Path) -> list[str]:
    """Return what this process holds open in a folder; other threads open other things."""
    held = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since it was listed
            held.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return sorted(path for path in held if Path(path).is_relative_to(folder))


def test_a_folder_that_can_not_be_opened_costs_no_descriptor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_file = os.open

    def refuse(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if dir_fd is not None:
            raise PermissionError(path)
        return open_file(path, flags)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        Generations(tmp_path, PATH, None).read(100)

    assert held_below(tmp_path) == []


def test_a_generation_that_can_not_be_opened_costs_no_descriptor(
    tmp_path: Path, log: ContainerLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    log.write("a")
    log.rotate()
    log.write("b")
    open_file = os.open

    def refuse(path: str | Path, flags: int, *, dir_fd: int | None = None) -> int:
        if str(path).endswith(".1"):
            raise PermissionError(path)
        return open_file(path, flags, dir_fd=dir_fd)

    before = held_below(tmp_path)
    generations = Generations(tmp_path, PATH, None)
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionError):
        generations.read(100)
    generations.close()

    assert held_below(tmp_path) == before
