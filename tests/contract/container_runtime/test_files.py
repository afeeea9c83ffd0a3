"""Files: the source bundle, inputs, and what the program leaves."""

import io
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path, PurePath

import pytest

from services.chassis.errors import InvalidArgument
from services.scheduler.domain.attempts.runtime import ContainerPhase, PlacedFile
from tests.contract.container_runtime.kit import Kit

pytestmark = pytest.mark.contract


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

    assert kit.output(status.name) == "imported\nTrue\n"


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

    assert kit.output(name) == "data 0o444 0o555\n"
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

    assert kit.output(name) == "weights {}\n"


async def test_outputs_and_progress_are_seen_on_the_node(kit: Kit) -> None:
    name = await kit.started(
        "import os\n"
        "open(os.path.join(os.environ['MODELYARD_OUTPUTS'], 'model'), 'w').write('m')\n"
        "open(os.environ['MODELYARD_PROGRESS'], 'a').write('{}\\n')\n"
        "open(os.path.join(os.environ['MODELYARD_CHECKPOINT'], 'c'), 'w').write('c')\n"
    )
    await kit.runtime.wait_exit(name)
    folders = kit.runtime.folders(name)

    assert _text(folders.outputs / "model") == "m"
    assert _text(folders.progress) == "{}\n"


def _text(path: PurePath) -> str:
    return Path(path).read_text()


async def test_remove_deletes_what_the_program_made_unwritable(kit: Kit) -> None:
    status = await kit.ran("import os; os.makedirs('a/b'); os.chmod('a/b', 0); os.chmod('a', 0)")
    assert stat.S_IMODE((kit.root / status.name / "work" / "a").stat().st_mode) == 0

    await kit.runtime.remove(status.name)

    assert list(kit.root.iterdir()) == []
