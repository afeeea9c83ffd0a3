"""What a container is given on this machine, and where it leaves what it makes.

    work/             the unpacked source, files and texts: its home and working folder
    inputs/           read-only
    checkpoint/       what an earlier attempt left, and this one leaves
    outputs/          progress.jsonl

Owns: laying these out below a container's folder, giving that its name at once or not at all, and
deleting it whatever a program did to it. Leaves to each runtime what else is in it.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from services.scheduler.adapters.runtime_files.bundle import unpack_bundle
from services.scheduler.domain.attempts.runtime import ContainerSpec

WORK: Final = "work"
INPUTS: Final = "inputs"
OUTPUTS: Final = "outputs"
CHECKPOINT: Final = "checkpoint"
PROGRESS: Final = "progress.jsonl"
_HIDDEN: Final = "."
"""First character of what is not yet, or no longer, a container."""


def lay_out_files(spec: ContainerSpec, folder: Path) -> None:
    """Put a container's files below an empty folder; raises as `unpack_bundle` does."""
    for part in (WORK, INPUTS, OUTPUTS, CHECKPOINT):
        (folder / part).mkdir()
    if spec.source is not None:
        unpack_bundle(Path(spec.source), folder / WORK)
    for placed in spec.files:
        _copy_read_only(Path(placed.file), folder / WORK / placed.path)
    for path, text in spec.texts.items():
        target = folder / WORK / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    for placed in spec.checkpoint:
        _copy(Path(placed.file), folder / CHECKPOINT / placed.path, mode=0o644)
    for placed in spec.inputs:
        _copy_read_only(Path(placed.file), folder / INPUTS / placed.path)
    _make_folders_read_only(folder / INPUTS)


@contextmanager
def new_folder(
    root: Path, name: str, *, mode: int = 0o755
) -> Iterator[tuple[Path, Callable[[], bool]]]:
    """Give a folder to fill, and the act that gives it its name, once; else it is deleted."""
    root.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f"{_HIDDEN}{name}.", dir=root))  # ours alone until then

    def publish() -> bool:
        new.chmod(mode)
        try:
            new.rename(root / name)  # fails if there is a folder that is not empty
        except OSError:
            if (root / name).exists():
                return False
            raise
        return True

    try:
        yield new, publish
    finally:
        if new.exists():
            _delete(new)


def named_folders(root: Path) -> Iterator[Path]:
    """Yield the folders that have their names."""
    for path in sorted(root.iterdir()):
        if not path.name.startswith(_HIDDEN) and path.is_dir():
            yield path


def discard(folder: Path) -> None:
    """Free a folder's name at once, then delete what is in it; an absent one is no error.

    What can't be deleted gets its name back, and is seen again. Raises OSError.
    """
    bin_ = Path(tempfile.mkdtemp(prefix=_HIDDEN, dir=folder.parent))
    try:
        folder.rename(bin_ / folder.name)
    except FileNotFoundError:
        bin_.rmdir()
        return
    try:
        _delete(bin_)
    except OSError:
        with suppress(OSError):  # its name has been given anew
            (bin_ / folder.name).rename(folder)
            bin_.rmdir()
        raise


def discard_unfinished(root: Path) -> None:
    """Delete what a crash left half made or half deleted; what can't be is left for next time.

    What somebody is making or deleting goes, too: for who has just been given the node.
    """
    for path in root.iterdir():
        if path.name.startswith(_HIDDEN) and path.is_dir():
            with suppress(OSError):
                _delete(path)


def _delete(folder: Path) -> None:
    """Delete a folder, however deep a program made it; raises OSError if some of it stays.

    By programs that walk by descriptors: Python's own recurse, and fail at a thousand levels.
    """
    if os.geteuid() != 0:  # undo what was made read-only, by us or by the program
        _run("/bin/chmod", "-R", "u+rwX", "--", str(folder))
    if told := _run("/bin/rm", "-rf", "--", str(folder)):
        raise OSError(errno.EIO, told)


def _run(*command: str) -> str:
    """Run a program of the system on a folder of ours; return what was wrong."""
    done = subprocess.run(command, check=False, capture_output=True)  # noqa: S603
    return done.stderr.decode(errors="replace").strip()[-200:] if done.returncode else ""


def _copy_read_only(source: Path, target: Path) -> None:
    _copy(source, target, mode=0o444)


def _copy(source: Path, target: Path, *, mode: int) -> None:
    """Copy: a link would let a program with root's rights change the node's cache."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(mode)


def _make_folders_read_only(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        Path(path).chmod(0o555)
