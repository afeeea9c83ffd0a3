"""Files: the source bundle, inputs, and what the program leaves."""

import io
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePath

import pytest

from services.chassis.errors import InvalidArgument, ModelyardError, NotFound, PayloadTooLarge
from services.scheduler.domain.attempts.runtime import (
    ContainerPhase,
    PlacedFile,
    ProgressData,
)
from tests.contract.container_runtime.kit import NO_GRACE, Kit


def _bundle(path: Path, files: Mapping[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    return path


async def test_program_runs_in_its_unpacked_source(kit: Kit, tmp_path: Path) -> None:
    files = {"main.py": "import lib.part", "lib/part.py": "print('imported')"}
    status = await kit.ran(
        "import main, os; print(os.getcwd() == os.environ['HOME'])",
        source=_bundle(tmp_path / "source.tgz", files),
    )

    assert await kit.output(status.name) == "imported\nTrue\n"


async def test_create_leaves_nothing_when_the_source_is_no_bundle(kit: Kit, tmp_path: Path) -> None:
    broken = tmp_path / "bundle"
    broken.write_bytes(b"no tar")
    spec = kit.spec("pass", source=broken)

    with pytest.raises(InvalidArgument):
        await kit.runtime.create(spec)

    assert (await kit.runtime.inspect(spec.name)).phase is ContainerPhase.ABSENT
    assert list(kit.root.iterdir()) == []


async def test_inputs_are_read_only_copies(kit: Kit, tmp_path: Path) -> None:
    cached = tmp_path / "cached"
    cached.write_text("data")
    name = await kit.started(
        "import os; root = os.environ['MODELYARD_INPUTS'];"
        "path = os.path.join(root, 'set', 'train.csv');"
        "print(open(path).read(), oct(os.stat(path).st_mode & 0o777),"
        " oct(os.stat(root).st_mode & 0o777))",
        inputs=(PlacedFile("set/train.csv", cached),),
    )
    await kit.runtime.wait_exit(name)

    assert await kit.output(name) == "data 0o444 0o555\n"
    assert cached.stat().st_nlink == 1


async def test_working_folder_gets_files_and_texts(kit: Kit, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.write_bytes(b"weights")
    name = await kit.started(
        "print(open('model.joblib').read(), open('settings.json').read())",
        files=(PlacedFile("model.joblib", model),),
        texts={"settings.json": "{}"},
    )
    await kit.runtime.wait_exit(name)

    assert await kit.output(name) == "weights {}\n"


async def test_outputs_are_listed_with_their_paths(kit: Kit) -> None:
    status = await kit.ran(
        "import os, pathlib; root = pathlib.Path(os.environ['MODELYARD_OUTPUTS'])\n"
        "(root / 'report.txt').write_text('r'); (root / 'model' / 'deep').mkdir(parents=True)\n"
        "(root / 'empty').mkdir(); (root / 'model' / 'b').write_text('b')\n"
        "(root / 'model' / 'deep' / 'a').write_text('a')"
    )

    async def left(path: str, **bounds: int) -> list[tuple[str, str]]:
        limits = {"files_max": 2, "bytes_max": 2} | bounds
        files = await kit.runtime.list_output(status.name, path, **limits)
        return [(file.path, _text(file.file)) for file in files]

    assert await left("report.txt") == [("report.txt", "r")]
    assert await left("model") == [("b", "b"), ("deep/a", "a")]
    assert await left("empty") == []
    for path in ("missing", "model/missing", "report.txt/x"):
        with pytest.raises(NotFound):
            await left(path)
    with pytest.raises(InvalidArgument):
        await left("model", files_max=1)
    with pytest.raises(PayloadTooLarge):
        await left("model", bytes_max=1)


@pytest.mark.parametrize("path", ["link", "folder", "link/passwd", "pipe", "../work"])
async def test_outputs_are_refused_when_they_lead_elsewhere(kit: Kit, path: str) -> None:
    status = await kit.ran(
        "import os; os.chdir(os.environ['MODELYARD_OUTPUTS'])\n"
        "os.symlink('/etc', 'link'); os.mkdir('folder'); os.symlink('/etc', 'folder/link')\n"
        "os.mkfifo('pipe')"
    )

    with pytest.raises(InvalidArgument):
        await kit.runtime.list_output(status.name, path, files_max=10, bytes_max=10)


async def test_progress_is_read_from_where_it_was_left(kit: Kit) -> None:
    name = await kit.started(
        "import os, sys\n"
        "progress = open(os.environ['MODELYARD_PROGRESS'], 'ab', buffering=0)\n"
        "progress.write(b'one\\n'); print('up'); os.kill(os.getpid(), 19)\n"
        "progress.write(b'two\\n' * 100_000)"
    )
    assert await kit.runtime.read_progress("never-made", offset=3) == ProgressData(b"", 3)
    await kit.said(name, "up")

    first = await kit.runtime.read_progress(name, offset=0)
    assert first == ProgressData(b"one\n", 4)
    await kit.runtime.stop(name, grace=NO_GRACE)
    assert await kit.runtime.read_progress(name, offset=4) == ProgressData(b"", 4)


async def test_progress_is_skipped_to_its_end_when_it_is_long(kit: Kit) -> None:
    status = await kit.ran(
        "import os; open(os.environ['MODELYARD_PROGRESS'], 'wb').write(b'12345\\n' * 100_000)"
    )

    progress = await kit.runtime.read_progress(status.name, offset=0)

    assert progress.next_offset == 600_000
    assert len(progress.data) < 300_000
    assert progress.data.endswith(b"12345\n")


async def test_progress_is_empty_when_the_program_made_it_a_link_or_a_pipe(kit: Kit) -> None:
    for act in ("os.symlink('/etc/passwd', path)", "os.mkfifo(path)"):
        status = await kit.ran(f"import os; path = os.environ['MODELYARD_PROGRESS']; {act}")

        assert await kit.runtime.read_progress(status.name, offset=0) == ProgressData(b"", 0)


async def test_last_lines_are_the_end_of_standard_error(kit: Kit) -> None:
    status = await kit.ran(
        "import sys; print('not this'); sys.stderr.write('x' * 99 + '\\nlast: ü\\nline\\n')"
    )

    assert await kit.runtime.last_lines(status.name, bytes_max=50) == "last: ü\nline\n"
    assert await kit.runtime.last_lines("never-made", bytes_max=50) == ""


async def test_last_lines_are_the_end_of_the_output_where_there_is_no_error(kit: Kit) -> None:
    status = await kit.ran("print('x' * 99); print('last: ü'); print('line')")

    assert await kit.runtime.last_lines(status.name, bytes_max=50) == "last: ü\nline\n"


def _text(path: PurePath) -> str:
    return Path(path).read_text()


async def test_checkpoint_is_the_programs_own_and_is_collected(kit: Kit, tmp_path: Path) -> None:
    (tmp_path / "epoch").write_text("1")
    status = await kit.ran(
        "import os, pathlib; folder = pathlib.Path(os.environ['MODELYARD_CHECKPOINT']);"
        "epoch = folder / 'weights' / 'epoch'; before = epoch.read_text();"
        "epoch.write_text(before + '2'); (folder / 'new').write_text('n')",
        checkpoint=(PlacedFile("weights/epoch", tmp_path / "epoch"),),
    )

    assert status.exit is not None
    assert status.exit.code == 0
    left = await kit.runtime.list_checkpoint(status.name, files_max=10, bytes_max=10)
    found = [(each.path, _text(each.file)) for each in left]
    assert found == [("new", "n"), ("weights/epoch", "12")]
    assert (tmp_path / "epoch").read_text() == "1"  # the node's cache stays as it was


async def test_checkpoint_may_be_empty_or_gone(kit: Kit) -> None:
    status = await kit.ran("pass")
    for name in (status.name, "never-made"):
        assert await kit.runtime.list_checkpoint(name, files_max=10, bytes_max=10) == []


async def test_a_checkpoint_with_too_long_a_path_is_refused(kit: Kit) -> None:
    status = await kit.ran(
        "import os; os.chdir(os.environ['MODELYARD_CHECKPOINT'])\n"
        "for _ in range(20): os.mkdir('d' * 250); os.chdir('d' * 250)\n"
        "open('f', 'w').close()"
    )
    with pytest.raises(InvalidArgument, match="can't be read"):
        await kit.runtime.list_checkpoint(status.name, files_max=10, bytes_max=10)


@pytest.mark.parametrize(
    ("program", "refused"),
    [
        ("os.symlink('/etc/passwd', 'link')", InvalidArgument),
        ("[open(f'{n}', 'w').close() for n in range(11)]", InvalidArgument),
        ("open('large', 'w').write('x' * 11)", PayloadTooLarge),
    ],
    ids=["link", "too many", "too large"],
)
async def test_checkpoint_that_cannot_be_taken_is_refused(
    kit: Kit, program: str, refused: type[ModelyardError]
) -> None:
    status = await kit.ran(f"import os; os.chdir(os.environ['MODELYARD_CHECKPOINT']); {program}")
    with pytest.raises(refused, match="checkpoint"):
        await kit.runtime.list_checkpoint(status.name, files_max=10, bytes_max=10)


async def test_remove_deletes_what_the_program_made_unwritable(kit: Kit) -> None:
    status = await kit.ran("import os; os.makedirs('a/b'); os.chmod('a/b', 0); os.chmod('a', 0)")
    assert stat.S_IMODE((kit.files(status.name) / "work" / "a").stat().st_mode) == 0

    await kit.runtime.remove(status.name)

    assert list(kit.root.iterdir()) == []


DEEP = """
import os
os.chdir(os.environ["MODELYARD_OUTPUTS"])
for _ in range(1500):
    os.mkdir("d"); os.chdir("d")
"""


async def test_outputs_are_refused_when_they_are_too_deep_and_go_all_the_same(kit: Kit) -> None:
    status = await kit.ran(DEEP)

    with pytest.raises(InvalidArgument, match="deeper"):
        await kit.runtime.list_output(status.name, "d", files_max=10, bytes_max=10)
    await kit.runtime.remove(status.name)

    assert list(kit.root.iterdir()) == []
