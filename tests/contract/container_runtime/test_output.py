"""Output, as Docker's json-file driver writes it."""

from datetime import datetime, timedelta

import pytest

from services.scheduler.domain.attempts.runtime import Capability
from tests.contract.container_runtime.kit import Kit

PIECE = 16 * 1024
CLOSE = timedelta(seconds=1)
"""An engine notes start and end beside the output, not in one line with it."""


async def _output_of(kit: Kit, data: bytes) -> list[dict[str, str]]:
    program = f"import sys; sys.stdout.buffer.write({data!r})"
    return await kit.records((await kit.ran(program)).name)


async def test_output_is_read_back_with_its_stream_and_time(kit: Kit) -> None:
    status = await kit.ran("import sys; print('grün 漢字 🚀'); print('oops', file=sys.stderr)")
    records = await kit.records(status.name)

    assert await kit.output(status.name, "stdout") == "grün 漢字 🚀\n"
    assert await kit.output(status.name, "stderr") == "oops\n"
    assert status.exit is not None
    for record in records:
        assert record["time"].endswith("Z")
        time = datetime.fromisoformat(record["time"])
        assert status.exit.started_at - CLOSE <= time <= status.exit.ended_at + CLOSE


async def test_output_keeps_control_characters_and_replaces_what_is_no_utf8(kit: Kit) -> None:
    records = await _output_of(kit, b'\x00\x1b[1m"\\\t<&> \xff\xfe\n')

    assert [record["log"] for record in records] == ['\x00\x1b[1m"\\\t<&> \ufffd\ufffd\n']


async def test_output_keeps_a_last_line_without_newline(kit: Kit) -> None:
    assert [record["log"] for record in await _output_of(kit, b"one\ntwo")] == ["one\n", "two"]


async def test_output_cuts_long_lines_as_docker_does(kit: Kit) -> None:
    """Lengths as seen with Docker 20.10, in `reference/logs.md` A4(6)."""
    records = await _output_of(kit, b"x" * 40_000 + b"\nshort\n")

    assert [len(record["log"]) for record in records] == [PIECE, PIECE, 7233, 6]
    assert [record["log"][-1] for record in records] == ["x", "x", "\n", "\n"]
    assert len({record["time"] for record in records[:3]}) == 1


async def test_output_keeps_a_line_of_a_mebibyte(kit: Kit) -> None:
    status = await kit.ran("print('a' + 'x' * (1 << 20))")

    assert await kit.output(status.name) == "a" + "x" * (1 << 20) + "\n"


async def test_output_keeps_a_line_of_a_mebibyte_with_long_characters(kit: Kit) -> None:
    kit.require(Capability.LONG_LINES_WHOLE)
    status = await kit.ran("print('a' + '漢' * (1 << 20))")
    records = await kit.records(status.name)

    assert await kit.output(status.name) == "a" + "漢" * (1 << 20) + "\n"
    assert max(len(record["log"].encode()) for record in records) <= PIECE


async def test_output_is_there_while_the_program_runs(kit: Kit) -> None:
    name = await kit.started("import time; print('early'); time.sleep(60)")

    await kit.said(name, "early\n")


async def test_output_of_a_killed_program_is_whole(kit: Kit) -> None:
    status = await kit.ran(
        "import os; [print(number) for number in range(20_000)]; os.kill(os.getpid(), 9)"
    )

    assert await kit.output(status.name) == "".join(f"{number}\n" for number in range(20_000))


@pytest.mark.slow
async def test_output_is_rotated_and_its_newest_files_have_no_gap(kit: Kit) -> None:
    status = await kit.ran("for number in range(700_000): print(f'{number:99d}')")
    lines = [int(record["log"]) for record in await kit.records(status.name)]

    assert len(await kit.log_files(status.name)) == 4
    assert lines == list(range(lines[0], 700_000))
    assert lines[0] > 0
