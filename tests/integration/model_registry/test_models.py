"""Models, versions, aliases and tags over gRPC."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import sqlalchemy as sa
from modelyard.common.v1.paging_pb2 import PageRequest
from modelyard.registry.v1 import model_pb2
from modelyard.registry.v1 import model_service_pb2 as pb

from services.chassis.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    KeyReused,
    ModelyardError,
    NotFound,
    PermissionDenied,
    VersionMismatch,
)
from services.model_registry.adapters.postgres import tables
from tests.integration.model_registry.registry import GLOBEX, Client, Registry, a_file


async def test_model_is_created_and_shown(registry: Registry) -> None:
    created = await registry.client.create_model(description="Reads digits", tags={"team": "é"})
    assert await registry.client.get_model() == created
    assert (created.name, dict(created.tags), created.newest_version) == (
        "digits",
        {"team": "é"},
        0,
    )
    ((event_type, event),) = await registry.events()
    assert event_type == "modelyard.model.created.v1"
    assert (event.model_id, event.name, event.revision) == (created.id, "digits", 1)


async def test_model_name_is_taken_in_its_tenant_only(client: Client) -> None:
    await client.create_model()
    with pytest.raises(AlreadyExists):
        await client.create_model()
    await client.of(GLOBEX).create_model()


async def test_model_is_created_once_when_the_request_is_repeated(registry: Registry) -> None:
    client = registry.client
    first, *others = await asyncio.gather(*(client.create_model(key="k1") for _ in range(4)))
    assert all(other == first for other in others)
    assert await client.create_model(key="k1") == first
    assert len(await registry.events()) == 1
    with pytest.raises(KeyReused):
        await client.create_model("other", key="k1")


async def test_foreign_model_is_not_found(client: Client) -> None:
    await client.create_model()
    await client.create_version()
    foreign = client.of(GLOBEX)
    attempts: list[Callable[[], Awaitable[object]]] = [
        foreign.get_model,
        foreign.create_version,
        lambda: foreign.get_version(version=1),
        lambda: foreign.set_alias("champion", 1),
        lambda: foreign.call(
            foreign.models.DeleteAlias, pb.DeleteAliasRequest(model_name="digits", alias="a")
        ),
        lambda: foreign.call(
            foreign.models.SetModelTags, pb.SetModelTagsRequest(model_name="digits")
        ),
        lambda: foreign.call(
            foreign.models.ListVersions, pb.ListVersionsRequest(model_name="digits")
        ),
    ]
    for attempt in attempts:
        with pytest.raises(NotFound):
            await attempt()
    listed = await foreign.call(foreign.models.ListModels, pb.ListModelsRequest())
    assert list(listed.models) == []


async def test_version_is_made_from_stored_files(registry: Registry) -> None:
    client = registry.client
    await client.create_model()
    await client.put(b"weights")
    await client.put(b"labels")
    files = [a_file("model.bin"), a_file("data/labels.txt", b"labels")]
    created = await client.create_version(files=files, tags={"run": "7"})
    assert created.state == model_pb2.VERSION_STATE_READY
    assert (created.version, list(created.files), dict(created.tags)) == (1, files, {"run": "7"})
    assert await client.get_version(version=1) == created
    assert (await client.get_model()).newest_version == 1
    event_type, event = (await registry.events())[-1]
    assert event_type == "modelyard.model.version-ready.v1"
    assert (event.revision, event.version) == (2, created)


async def test_version_is_refused_when_a_file_is_not_stored_by_its_tenant(client: Client) -> None:
    await client.create_model()
    await client.of(GLOBEX).put(b"weights")
    with pytest.raises(FailedPrecondition):
        await client.create_version(files=[a_file()])
    await client.put(b"weights")
    wrong_size = a_file()
    wrong_size.size_bytes += 1
    with pytest.raises(FailedPrecondition):
        await client.create_version(files=[wrong_size])
    assert (await client.create_version(files=[a_file()])).version == 1


async def test_version_is_created_once_when_the_request_is_repeated(client: Client) -> None:
    await client.create_model()
    await client.put(b"weights")
    first = await client.create_version(files=[a_file()], key="k1")
    assert await client.create_version(files=[a_file()], key="k1") == first
    assert (await client.create_version(files=[a_file()], key="k2")).version == 2


async def test_versions_are_numbered_without_a_gap_when_they_are_made_at_once(
    registry: Registry,
) -> None:
    client = registry.client
    await client.create_model()
    await client.put(b"weights")
    made = await asyncio.gather(*(client.create_version(files=[a_file()]) for _ in range(10)))
    assert sorted(version.version for version in made) == list(range(1, 11))
    assert [event.revision for _, event in await registry.events()] == list(range(1, 12))


async def test_alias_resolves_to_where_it_was_moved_last(registry: Registry) -> None:
    client = registry.client
    await client.create_model()
    await client.create_version()
    await client.create_version()
    await client.set_alias("champion", 1)
    model = await client.set_alias("champion", 2)
    assert [(alias.name, alias.version) for alias in model.aliases] == [("champion", 2)]
    resolved = await client.get_version(alias="champion")
    assert (resolved.version, list(resolved.aliases)) == (2, ["champion"])
    assert list((await client.get_version(version=1)).aliases) == []
    moves = [
        (event.revision, event.alias.version)
        for event_type, event in await registry.events()
        if event_type == "modelyard.model.alias-moved.v1"
    ]
    assert moves == [(4, 1), (5, 2)]


async def test_alias_is_told_of_once_when_it_is_set_again(registry: Registry) -> None:
    await registry.client.create_model()
    await registry.client.create_version()
    await registry.client.set_alias("champion", 1)
    await registry.client.set_alias("champion", 1)
    assert len(await registry.events()) == 3


async def test_alias_is_gone_when_it_was_deleted(registry: Registry) -> None:
    client = registry.client
    await client.create_model()
    await client.create_version()
    await client.set_alias("champion", 1)
    for _ in range(2):
        assert list((await client.delete_alias("champion")).aliases) == []
    with pytest.raises(NotFound):
        await client.get_version(alias="champion")
    event_type, event = (await registry.events())[-1]
    assert event_type == "modelyard.model.alias-moved.v1"
    assert (event.alias.name, event.alias.version, event.revision) == ("champion", 0, 4)


async def test_alias_that_was_moved_meanwhile_is_not_moved_or_removed(registry: Registry) -> None:
    client = registry.client
    await client.create_model()
    for _ in range(3):
        await client.create_version()
    [seen] = (await client.set_alias("champion", 1)).aliases
    [moved] = (await client.set_alias("champion", 2, if_revision=seen.revision)).aliases
    [rolled_back] = (await client.set_alias("champion", 1)).aliases
    told = len(await registry.events())

    stale = [
        client.set_alias("champion", 3, if_revision=seen.revision),
        client.set_alias("champion", 3, if_revision=moved.revision),
        client.set_alias("another", 3, if_revision=1),
        client.delete_alias("champion", if_revision=seen.revision),
    ]
    for change in stale:
        with pytest.raises(VersionMismatch):
            await change

    assert rolled_back.revision > moved.revision > seen.revision
    assert list((await client.get_model()).aliases) == [rolled_back]
    assert len(await registry.events()) == told
    # What is so already is no change: who lost an answer asks again.
    assert list((await client.set_alias("champion", 1, if_revision=1)).aliases) == [rolled_back]
    for _ in range(2):
        gone = await client.delete_alias("champion", if_revision=rolled_back.revision)
        assert list(gone.aliases) == []


async def test_alias_that_was_removed_and_set_again_is_another_one(client: Client) -> None:
    await client.create_model()
    for _ in range(2):
        await client.create_version()
    [seen] = (await client.set_alias("champion", 1)).aliases
    await client.delete_alias("champion")
    await client.set_alias("champion", 1)
    with pytest.raises(VersionMismatch):
        await client.set_alias("champion", 2, if_revision=seen.revision)


async def test_alias_is_moved_by_one_of_two_who_saw_the_same(client: Client) -> None:
    await client.create_model()
    for _ in range(3):
        await client.create_version()
    [seen] = (await client.set_alias("champion", 1)).aliases
    outcomes = await asyncio.gather(
        *(client.set_alias("champion", to, if_revision=seen.revision) for to in (2, 3)),
        return_exceptions=True,
    )
    assert sorted(isinstance(each, VersionMismatch) for each in outcomes) == [False, True]


async def test_alias_tells_its_revision_when_it_is_resolved(client: Client) -> None:
    await client.create_model()
    await client.create_version()
    [alias] = (await client.set_alias("champion", 1)).aliases
    await client.create_version()  # is no move of it
    request = pb.GetVersionRequest(model_name="digits", alias="champion")
    by_alias = await client.call(client.models.GetVersion, request)
    request = pb.GetVersionRequest(model_name="digits", version=1)
    by_number = await client.call(client.models.GetVersion, request)
    assert by_alias.alias_revision == alias.revision == 3
    assert by_number.alias_revision == 0


async def test_alias_that_the_last_release_moved_is_at_revision_one(registry: Registry) -> None:
    client = registry.client
    await client.create_model()
    for _ in range(2):
        await client.create_version()
    await client.set_alias("champion", 1)
    async with registry.database.system(because="a test is the last release") as tx:
        await tx.connection.execute(sa.update(tables.model).values(alias_revisions={}))

    [seen] = (await client.get_model()).aliases
    assert seen.revision == 1
    [moved] = (await client.set_alias("champion", 2, if_revision=1)).aliases
    assert moved.revision == 5
    with pytest.raises(VersionMismatch):
        await client.set_alias("champion", 1, if_revision=1)


@pytest.mark.parametrize(
    ("version", "alias"), [(2, None), (0, None), (-1, None), (None, "unknown"), (None, "")]
)
async def test_unknown_version_or_alias_is_not_found(
    client: Client, version: int | None, alias: str | None
) -> None:
    await client.create_model()
    await client.create_version()
    with pytest.raises(NotFound):
        await client.get_version(version=version, alias=alias)


async def test_version_without_a_selector_is_refused(client: Client) -> None:
    with pytest.raises(InvalidArgument):
        await client.get_version()


async def test_tags_are_replaced(registry: Registry) -> None:
    client = registry.client
    await client.create_model(tags={"old": "1"})
    request = pb.SetModelTagsRequest(model_name="digits", tags={"new": "2"})
    answer = await client.call(client.models.SetModelTags, request)
    assert answer.model.tags == {"new": "2"}
    assert await client.get_model() == answer.model
    assert len(await registry.events()) == 1


async def test_models_are_listed_page_by_page_by_name(client: Client) -> None:
    names = ["a", "B", "c.1", "c-1", "d_2"]
    for name in names:
        await client.create_model(name)
    listed: list[str] = []
    page = PageRequest(page_size=2)
    while True:
        answer = await client.call(client.models.ListModels, pb.ListModelsRequest(page=page))
        listed += [model.name for model in answer.models]
        if not answer.page.next_page_token:
            break
        assert len(answer.models) == 2
        page.page_token = answer.page.next_page_token
    assert listed == sorted(names)


async def test_versions_are_listed_newest_first(client: Client) -> None:
    await client.create_model()
    for _ in range(5):
        await client.create_version()
    await client.set_alias("champion", 4)
    request = pb.ListVersionsRequest(model_name="digits", page=PageRequest(page_size=3))
    first = await client.call(client.models.ListVersions, request)
    assert [version.version for version in first.versions] == [5, 4, 3]
    assert list(first.versions[1].aliases) == ["champion"]
    # A version that is made meanwhile neither shifts nor repeats what follows.
    await client.create_version()
    request.page.page_token = first.page.next_page_token
    second = await client.call(client.models.ListVersions, request)
    assert [version.version for version in second.versions] == [2, 1]
    assert second.page.next_page_token == ""


async def test_page_ends_early_when_its_items_are_large(client: Client) -> None:
    for number in range(20):
        await client.create_model(f"m{number:02}", tags={"a": "x" * 100_000, "b": "y" * 30_000})
    listed: list[str] = []
    page = PageRequest(page_size=500)
    while True:
        answer = await client.call(client.models.ListModels, pb.ListModelsRequest(page=page))
        listed += [model.name for model in answer.models]
        if not answer.page.next_page_token:
            break
        page.page_token = answer.page.next_page_token
        assert 1 < len(answer.models) < 20
    assert listed == [f"m{number:02}" for number in range(20)]


@pytest.mark.parametrize(
    "page",
    [PageRequest(page_size=501), PageRequest(page_token="é"), PageRequest(page_token="AA==")],
)
async def test_page_is_refused_when_it_can_not_be(client: Client, page: PageRequest) -> None:
    with pytest.raises(InvalidArgument):
        await client.call(client.models.ListModels, pb.ListModelsRequest(page=page))


async def test_write_is_refused_when_the_caller_may_only_read(client: Client) -> None:
    reader = client.of(GLOBEX, scopes={"models:read"})
    with pytest.raises(PermissionDenied):
        await reader.create_model()
    with pytest.raises(PermissionDenied):
        await reader.put(b"weights")
    with pytest.raises(NotFound):
        await reader.get_model()


@pytest.mark.parametrize("name", ["", "a/b", "a:b", "..", "a" * 129])
async def test_malformed_name_is_refused_when_made_and_not_found_when_asked_for(
    client: Client, name: str
) -> None:
    with pytest.raises(InvalidArgument):
        await client.create_model(name)
    with pytest.raises(NotFound):
        await client.get_model(name)


async def test_nul_is_refused_or_not_found_but_never_a_bug(client: Client) -> None:
    await client.create_model()
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: client.get_model("a\0"),
        lambda: client.create_model(tags={"a": "\0"}),
        lambda: client.create_model(description="\0"),
        lambda: client.get_version(alias="\0"),
        lambda: client.create_version("a\0"),
        lambda: client.call(
            client.models.DeleteAlias, pb.DeleteAliasRequest(model_name="digits", alias="\0")
        ),
    ]
    for attempt in attempts:
        try:
            await attempt()
        except ModelyardError as refused:
            assert isinstance(refused, NotFound | InvalidArgument)  # noqa: PT017
