"""Digests and manifests."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.chassis.errors import InvalidArgument
from services.model_registry.domain.artifact import (
    FILES_MAX,
    Artifact,
    FileEntry,
    Manifest,
    checked_digest,
)
from tests.unit.model_registry.builders import a_manifest, an_artifact, digest_of


def test_digest_is_accepted() -> None:
    assert checked_digest(digest_of(b"")) == digest_of(b"")


@pytest.mark.parametrize(
    "text",
    ["", "0" * 64, "sha256:" + "0" * 63, "sha256:" + "A" * 64, "md5:" + "0" * 64,
     "sha256:" + "0" * 64 + "\n", "sha256:../" + "0" * 61],
)  # fmt: skip
def test_digest_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        checked_digest(text)


@pytest.mark.parametrize(
    "path",
    ["", "/a", "a/", "a//b", "./a", "a/../b", "..", "a\\b", "a\0", "p" * 513, "é" * 257],
)
def test_manifest_is_refused_when_a_path_could_leave_its_folder(path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        a_manifest(path)
    assert refused.value.detail["field"].startswith("files")


@pytest.mark.parametrize("paths", [("a", "a"), ("a", "a/b"), ("a/b/c", "a/b"), ("a/b", "c", "a")])
def test_manifest_is_refused_when_paths_collide(paths: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument):
        a_manifest(*paths)


def test_manifest_is_refused_when_it_has_no_or_too_many_files() -> None:
    with pytest.raises(InvalidArgument):
        Manifest.checked([])
    with pytest.raises(InvalidArgument):
        a_manifest(*(str(number) for number in range(FILES_MAX + 1)))
    a_manifest(*(str(number) for number in range(FILES_MAX)))


def test_manifest_is_refused_when_a_size_is_negative() -> None:
    with pytest.raises(InvalidArgument):
        Manifest.checked([FileEntry("a", Artifact(digest_of(b""), -1))])


@given(st.lists(st.text(alphabet="ab./\\", max_size=6), min_size=1, max_size=6))
def test_manifest_that_is_accepted_can_be_laid_out(paths: list[str]) -> None:
    try:
        a_manifest(*paths)
    except InvalidArgument:
        return
    folders = {parent for path in paths for parent in PurePosixPath(path).parents}
    files = {PurePosixPath("/store") / path for path in paths}
    assert len(files) == len(paths)
    assert all(str(file).startswith("/store/") and ".." not in file.parts for file in files)
    assert not files & {PurePosixPath("/store") / folder for folder in folders}


def test_manifest_has_no_problem_when_all_is_stored() -> None:
    manifest = a_manifest("a", "b/c")
    assert manifest.problem({an_artifact().digest: an_artifact()}) is None


def test_manifest_has_a_problem_when_bytes_are_missing_or_of_another_size() -> None:
    manifest = a_manifest("model.bin")
    assert "is not stored" in str(manifest.problem({}))
    digest = an_artifact().digest
    assert "has 1 byte, not 7 bytes" in str(manifest.problem({digest: Artifact(digest, 1)}))
