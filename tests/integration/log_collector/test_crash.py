"""Killing the collector at any moment loses no line and repeats none."""

import asyncio
import random
import sys
from pathlib import Path

import pytest

from services.log_collector.domain.records import LogPosition
from tests.integration.log_collector.fakes import until
from tests.integration.log_collector.yard import ANY, running_yard
from tests.unit.log_collector.builders import ContainerLog, a_stream, entry

STREAM = a_stream()
KILLS = 8


async def stored_bytes(root: Path) -> int:
    return sum(path.stat().st_size for path in (root / "store").rglob("*.seg"))


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_no_line_is_lost_or_repeated_when_the_collector_is_killed_while_lines_are_written(
    tmp_path: Path,
) -> None:
    chance = random.Random(7)
    log = ContainerLog(tmp_path / "containers", STREAM.attempt_id, files_max=200)
    written: list[str] = []
    for _ in range(KILLS):
        collector = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.integration.log_collector.collector_process",
            tmp_path,
            stdout=asyncio.subprocess.PIPE,
        )
        assert collector.stdout is not None
        assert await collector.stdout.readline() == b"up\n"
        before = await stored_bytes(tmp_path)
        goal = before + chance.randrange(1, 60_000)
        while await stored_bytes(tmp_path) < goal:
            texts = [f"{len(written) + index} {chance.random()}" for index in range(100)]
            written += texts
            log.write(*texts)
            if chance.random() < 0.02:
                log.rotate()
            if chance.random() < 0.1:
                # In two parts, so that a line is also unfinished when the kill comes.
                log.write_raw(entry("half ", end=""))
                await asyncio.sleep(0.002)  # tidy: allow sleep because it is the writer
                log.write("whole")
                written.append("half whole")
            await asyncio.sleep(0.005)  # tidy: allow sleep because it is the writer
        collector.kill()
        await collector.wait()

    log.write("last")
    written.append("last")
    async with running_yard(tmp_path, STREAM) as yard:
        await yard.end_stream(yard.event(STREAM))
        found = [
            record
            async for page in yard.follow_logs(
                STREAM.tenant, STREAM.owner_id, after=LogPosition(0, 0), wanted=ANY
            )
            for _, record in page.records
        ]
        await until(lambda: yard.publisher.last_sequence == len(written))

    assert [record.text for record in found] == written
    assert [record.sequence for record in found] == list(range(1, len(written) + 1))
    log.close()
