"""The node's cache of files by digest."""

import asyncio
import errno
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from services.chassis.errors import PayloadTooLarge, Unavailable
from services.chassis.tenancy import TenantId
from services.scheduler.adapters.registry_artifacts.node_cache import BoundedFile, NodeCache
from services.scheduler.domain.tenants.tenant import Tenant, TenantTable
from services.scheduler.use_cases.tenants.purge_node_files import PurgeNodeFiles

ONE, OTHER = TenantId("one"), TenantId("other")


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Source:
    """Gives bytes, and counts how often."""

    def __init__(self) -> None:
        self.count = 0

    def of(self, data: bytes) -> Callable[[BoundedFile], Awaitable[None]]:
        async def download(file: BoundedFile) -> None:
            self.count += 1
            await asyncio.sleep(0)
            file.write(data)

        return download


@pytest.fixture
def source() -> Source:
    return Source()


def _kept(root: Path) -> int:
    return len([path for path in root.rglob("*") if path.is_file()])


async def test_file_is_fetched_once_for_all_who_ask(tmp_path: Path, source: Source) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)

    async def ask() -> bytes:
        async with cache.held(ONE, _digest(b"data"), source.of(b"data")) as path:
            return path.read_bytes()

    assert set(await asyncio.gather(ask(), ask(), ask())) == {b"data"}
    assert await ask() == b"data"
    assert source.count == 1


async def test_file_is_fetched_for_each_tenant(tmp_path: Path, source: Source) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    for tenant in (ONE, OTHER):
        async with cache.held(tenant, _digest(b"data"), source.of(b"data")):
            pass

    assert source.count == 2


async def test_file_is_fetched_again_when_somebody_changed_it(
    tmp_path: Path, source: Source
) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    async with cache.held(ONE, _digest(b"data"), source.of(b"data")) as path:
        path.chmod(0o644)
        path.write_bytes(b"evil")
    async with cache.held(ONE, _digest(b"data"), source.of(b"data")) as path:
        assert path.read_bytes() == b"data"

    assert source.count == 2


async def test_file_is_refused_when_other_bytes_come(tmp_path: Path, source: Source) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    with pytest.raises(Unavailable):
        async with cache.held(ONE, _digest(b"data"), source.of(b"other")):
            pass

    assert _kept(tmp_path) == 0


async def test_cache_drops_the_longest_unused_and_never_what_is_held(
    tmp_path: Path, source: Source
) -> None:
    cache = NodeCache(tmp_path, bytes_max=10)
    async with cache.held(ONE, _digest(b"held"), source.of(b"held")) as held:
        for data in (b"old!", b"new!"):
            async with cache.held(ONE, _digest(data), source.of(data)):
                pass
        assert held.exists()
    async with cache.held(ONE, _digest(b"new!"), source.of(b"new!")):
        assert _kept(tmp_path) == 2
    assert source.count == 3


async def test_file_is_refused_when_it_is_larger_than_the_cache(
    tmp_path: Path, source: Source
) -> None:
    cache = NodeCache(tmp_path, bytes_max=3)
    with pytest.raises(PayloadTooLarge):
        async with cache.held(ONE, _digest(b"data"), source.of(b"data")):
            pass

    assert _kept(tmp_path) == 0


async def test_file_can_not_be_had_while_the_disk_is_full(tmp_path: Path) -> None:
    async def download(_file: BoundedFile) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    cache = NodeCache(tmp_path, bytes_max=10)
    with pytest.raises(Unavailable):
        async with cache.held(ONE, _digest(b"data"), download):
            pass

    assert _kept(tmp_path) == 0


async def test_error_of_who_holds_a_file_is_its_own(tmp_path: Path, source: Source) -> None:
    cache = NodeCache(tmp_path, bytes_max=10)
    with pytest.raises(ConnectionError):
        async with cache.held(ONE, _digest(b"data"), source.of(b"data")):
            raise ConnectionError


async def test_file_that_somebody_drops_meanwhile_is_not_counted(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    found = Path.glob
    gone = tmp_path / ONE / "sha256-gone"
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [*found(self, pattern), gone])

    async with cache.held(ONE, _digest(b"data"), source.of(b"data")) as path:
        assert path.read_bytes() == b"data"


async def test_files_of_purged_tenants_go_once_nobody_holds_them_and_nobody_elses(
    tmp_path: Path, source: Source
) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    table = TenantTable()
    purge = PurgeNodeFiles(cache, table, files_per_pass_max=2)
    for tenant in (ONE, OTHER):
        for data in (b"a", b"b", b"c"):
            async with cache.held(tenant, _digest(data), source.of(data)):
                pass
    assert await purge() == 0

    table.apply(Tenant(ONE, version=1, is_suspended=True, is_purged=True))
    async with cache.held(ONE, _digest(b"d"), source.of(b"d")) as held:
        assert [await purge(), await purge(), await purge()] == [2, 1, 0]
        assert held.read_bytes() == b"d"
    assert [await purge(), await purge()] == [1, 0]
    assert not (tmp_path / ONE).exists()
    assert _kept(tmp_path) == 3

    async with cache.held(ONE, _digest(b"late"), source.of(b"late")):
        pass
    assert await purge() == 1
    fetched = source.count
    async with cache.held(OTHER, _digest(b"a"), source.of(b"a")) as kept:
        assert kept.read_bytes() == b"a"
    assert source.count == fetched


async def test_a_file_that_the_disk_does_not_let_go_holds_up_no_others(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    for data in (b"a", b"b", b"c"):
        async with cache.held(ONE, _digest(data), source.of(data)):
            pass
    stuck = sorted((tmp_path / ONE).iterdir())[0]
    unlink = Path.unlink

    def unlink_others(path: Path, *, missing_ok: bool = False) -> None:
        if path == stuck:
            raise OSError(errno.EPERM, "not this one")
        unlink(path, missing_ok=missing_ok)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink_others)
        assert [await cache.purge([ONE], limit=1) for _ in range(2)] == [1, 1]
        with pytest.raises(Unavailable):
            await cache.purge([ONE], limit=1)
    assert list((tmp_path / ONE).iterdir()) == [stuck]
    assert await cache.purge([ONE], limit=1) == 1


async def test_a_disk_that_lets_no_file_go_is_told_and_asked_again(
    tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = NodeCache(tmp_path, bytes_max=100)
    async with cache.held(ONE, _digest(b"a"), source.of(b"a")):
        pass

    def fail(path: Path, *, missing_ok: bool = False) -> None:
        raise OSError(errno.EIO, "the disk fails")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(Unavailable):
            await cache.purge([ONE], limit=1)
    assert await cache.purge([ONE], limit=1) == 1
