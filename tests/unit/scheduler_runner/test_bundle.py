"""Unpacking what a stranger packed."""

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from services.chassis.errors import InvalidArgument, PayloadTooLarge
from services.scheduler.adapters.runtime_files.bundle import unpack_bundle


def _member(name: str, text: str = "", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(text)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, text.encode()


def _link(name: str, target: str) -> tuple[tarfile.TarInfo, bytes]:
    return _member(name, type=tarfile.SYMTYPE, linkname=target)


def _packed(folder: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    path = folder / "bundle.tgz"
    with tarfile.open(path, "w:gz") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def test_bundle_unpacks_files_folders_and_inner_links(tmp_path: Path, target: Path) -> None:
    bundle = _packed(
        tmp_path,
        _member("./", type=tarfile.DIRTYPE),
        _member("./src/run.sh", "echo", mode=0o4755),
        _member("src/data.txt", "data", mode=0o600),
        _member("empty", type=tarfile.DIRTYPE),
        _link("latest", "src/data.txt"),
        _link("src/up", "../empty"),
    )

    unpack_bundle(bundle, target)

    assert (target / "latest").read_text() == "data"
    assert (target / "src" / "up").resolve() == target / "empty"
    assert oct((target / "src" / "run.sh").stat().st_mode & 0o7777) == "0o755"
    assert oct((target / "src" / "data.txt").stat().st_mode & 0o7777) == "0o644"


@pytest.mark.parametrize(
    "members",
    [
        [_member("/etc/passwd", "x")],
        [_member("../outside", "x")],
        [_member("a/../../outside", "x")],
        [_member("device", type=tarfile.CHRTYPE)],
        [_member("pipe", type=tarfile.FIFOTYPE)],
        [_member("hard", type=tarfile.LNKTYPE, linkname="/etc/passwd")],
        [_link("out", "/etc")],
        [_link("out", "..")],
        [_link("out", "/etc"), _member("out/passwd", "x")],
        [_link("out", "/etc"), _link("out/inner", "x")],
        [_link("here", "."), _link("out", "here/..")],
        [_link("out", "later/.."), _link("later", ".")],
        [_link("loop", "loop"), _link("loop/x", "y")],
        [_member("twice", "x"), _member("twice", type=tarfile.DIRTYPE)],
        [_member("twice", "x"), _member("twice/inner", "x")],
    ],
    ids=lambda members: "-".join(info.name.replace("/", "_") for info, _ in members),
)
def test_bundle_is_refused_when_it_leads_out_or_is_odd(
    tmp_path: Path, target: Path, members: list[tuple[tarfile.TarInfo, bytes]]
) -> None:
    before = sorted(tmp_path.iterdir())
    bundle = _packed(tmp_path, *members)

    with pytest.raises(InvalidArgument):
        unpack_bundle(bundle, target)

    assert sorted(tmp_path.iterdir()) == sorted([*before, bundle])
    assert not Path("/etc/inner").exists()


def test_bundle_is_refused_beyond_its_bounds(tmp_path: Path, target: Path) -> None:
    bundle = _packed(tmp_path, _member("a", "1234"), _member("b", "1234"))

    unpack_bundle(bundle, target, files_max=2, bytes_max=8)
    with pytest.raises(InvalidArgument):
        unpack_bundle(bundle, target, files_max=1)
    with pytest.raises(PayloadTooLarge):
        unpack_bundle(bundle, target, bytes_max=7)


@pytest.mark.parametrize(
    "header",
    [
        _member("sparse", pax_headers={"GNU.sparse.map": "no,numbers"}),
        _member("n" * 300),
        _member("long/" * 300),
        _member("name", "n" * (2 << 20), type=tarfile.GNUTYPE_LONGNAME),
    ],
    ids=["sparse", "long-name", "long-path", "memory"],
)
def test_bundle_is_refused_when_its_headers_are_made_up(
    tmp_path: Path, target: Path, header: tuple[tarfile.TarInfo, bytes]
) -> None:
    with pytest.raises(InvalidArgument):
        unpack_bundle(_packed(tmp_path, header, _member("after")), target)


def test_bundle_is_refused_when_its_headers_go_on_and_on(tmp_path: Path, target: Path) -> None:
    headers = [_member("name", "n", type=tarfile.GNUTYPE_LONGNAME)] * 2_000

    with pytest.raises(InvalidArgument):
        unpack_bundle(_packed(tmp_path, *headers), target)


@pytest.mark.parametrize("keep", [0, 10, 60])
def test_bundle_is_refused_when_it_is_cut(tmp_path: Path, target: Path, keep: int) -> None:
    bundle = _packed(tmp_path, _member("a", "1234" * 1000))
    bundle.write_bytes(bundle.read_bytes()[:keep])

    with pytest.raises(InvalidArgument):
        unpack_bundle(bundle, target)
