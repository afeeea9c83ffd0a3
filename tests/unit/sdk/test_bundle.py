"""How a folder becomes a bundle."""

import os
import re
import tarfile
from pathlib import Path

import pytest
from modelyard.cli import bundle
from modelyard.cli.bundle import BundleTooLarge, WrongIgnoreFile, pack


def test_the_same_files_give_the_same_digest_whenever_and_wherever_they_lie(tmp_path: Path) -> None:
    digests = []
    for number in (1, 2):
        folder = tmp_path / f"copy-{number}"
        (folder / "pkg").mkdir(parents=True)
        (folder / "pkg" / "b.py").write_text("b")
        (folder / "a.py").write_text("a")
        os.utime(folder / "a.py", (number * 1000, number * 1000))
        digests.append(pack(folder, tmp_path / f"{number}.tar.gz").digest)
    assert digests[0] == digests[1]


def test_caches_environments_and_links_stay_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    for name in (".git/config", ".venv/bin/python", "__pycache__/x.pyc", "train.py"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / "link").symlink_to("/etc/passwd")
    packed = pack(folder, tmp_path / "out.tar.gz")
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == ["train.py"]


def test_what_the_ignore_file_names_stays_out_and_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    files = ("train.py", "m.bin", "data/a.csv", "data/keep.csv", "pkg/secret.env", "pkg/m.py")
    for name in (*files, "out/deep/x"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    rules = ["# ours", "", "*.bin", "data/*", "!data/keep.csv", "secret.env", "/out/"]
    (folder / ".modelyardignore").write_text("\n".join(rules))
    packed = pack(folder, tmp_path / "out.tar.gz")
    with tarfile.open(packed.path) as tar:
        assert tar.getnames() == [".modelyardignore", "data/keep.csv", "pkg/m.py", "train.py"]
    assert packed.left_out == ("data/a.csv", "m.bin", "out/", "pkg/secret.env")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"ok\n!\n", "line 2: '!' is no pattern"), (b"\xff", "is no text in UTF-8")],
)
def test_an_ignore_file_that_cannot_be_read_is_told_with_its_line(
    content: bytes, said: str, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / ".modelyardignore").write_bytes(content)
    with pytest.raises(WrongIgnoreFile, match=re.escape(said)):
        pack(folder, tmp_path / "out.tar.gz")


def test_a_folder_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "BUNDLE_BYTES_MAX", 1000)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "noise").write_bytes(os.urandom(5000))
    with pytest.raises(BundleTooLarge):
        pack(tmp_path / "folder", tmp_path / "out.tar.gz")
    # Refused while it is packed: a folder larger than the disk must not fill it.
    assert (tmp_path / "out.tar.gz").stat().st_size <= 1000
