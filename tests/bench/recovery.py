"""`recovery`: how soon a killed scheduler's running work is in good hands again.

Two hundred programs run on the process runtime when the one scheduler is killed with SIGKILL and
started again at once. Meanwhile each program says one more line of progress. An attempt is
*adopted* once the new scheduler has committed that line: it has found the program, under its node's
lease.

    recovery.adopted_s    from the kill until the last one is adopted: the longest of all kills
    recovery.restarted    programs that were started again, in all; each says so when it begins

The same with twenty containers where a Docker engine answers: in the table only. The store is asked
afterwards: each job runs, at its first attempt.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from modelyard.client import Client, JobSpec, Resources
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local.errors import StackError
from deploy.local.processes import environment_of
from deploy.local.runtimes import Kind
from services.scheduler.adapters.postgres.tables import JOBS
from tests.bench.figures import print_figures, print_table, say
from tests.bench.start import IMAGE, platform
from tests.support.eventually import eventually
from tests.support.schedulers import FIRST, kill, launch_only, until_ready

PROGRAMS: Final = 200
CONTAINERS: Final = 20
KILLS: Final = 3
_BEGUN: Final = "begun"
_COMMAND: Final = (
    "/bin/sh",
    "-c",
    f"""echo '{{"message": "{_BEGUN}"}}' >> "$MODELYARD_PROGRESS"; exec sleep 3600""",
)
_SPEC: Final = JobSpec(
    name="bench-recovery",
    image=IMAGE,
    command=list(_COMMAND),
    resources=Resources(cpu_millicores=10, memory_bytes=16 << 20),
)
_SAID_S_MAX: Final = 180.0


def main() -> None:
    """Measure on a stack of the bench's own."""
    adopted_s, restarted = _measure(Kind.PROCESS, count=PROGRAMS)
    rows = [(f"{PROGRAMS} programs", adopted_s)]
    try:
        docker_s, docker_restarted = _measure(Kind.DOCKER, count=CONTAINERS)
    except StackError as error:
        say(f"no containers were measured: {error}")
    else:
        rows.append((f"{CONTAINERS} containers", docker_s))
        say(f"  containers started again: {docker_restarted}")
    print_table(f"{KILLS} kills of the scheduler: until all are adopted", rows, unit="s")
    print_figures("recovery", {"adopted_s": max(adopted_s), "restarted": restarted})


def _measure(kind: Kind, *, count: int) -> tuple[list[float], int]:
    """Return how long each adoption took, and how many programs were started again in all."""
    with platform(kind) as (client, state):
        environment = environment_of(state.read().processes[FIRST].pid)
        root = Path(environment["MODELYARD_RUNTIME__CONTAINERS_ROOT"])
        url = environment["MODELYARD_POSTGRES__URL"]
        job_ids = [client.submit_job(_SPEC).id for _ in range(count)]
        asyncio.run(_until_said(url, _BEGUN, count=count))
        adopted_s = []
        for number in range(KILLS):
            killed_at = time.monotonic()
            kill(state, FIRST)
            launch_only(state, FIRST, environment)
            word = f"after kill {number}"
            for progress in _progress_files(root):
                with progress.open("a") as lines:
                    lines.write(json.dumps({"message": word}) + "\n")
            asyncio.run(_until_said(url, word, count=count))
            adopted_s.append(time.monotonic() - killed_at)
            until_ready(state, FIRST)
        _check_run_on(client, job_ids)
        return adopted_s, _starts(root) - count


def _progress_files(root: Path) -> Sequence[Path]:
    """Return the progress of every program; Docker's lies among what is mounted."""
    return [*root.glob("*/progress.jsonl"), *root.glob("*/files/progress.jsonl")]


def _starts(root: Path) -> int:
    return sum(path.read_text().count(_BEGUN) for path in _progress_files(root))


async def _until_said(url: str, word: str, *, count: int) -> None:
    """Wait until so many jobs' last progress says this."""
    said = sa.select(sa.func.count()).where(JOBS.c.progress["message"].astext == word)
    engine = create_async_engine(url, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:

        async def have_all() -> bool:
            return await connection.scalar(said) == count

        what = f"{count} jobs say: {word}"
        await eventually(have_all, what=what, within_s=_SAID_S_MAX)
    await engine.dispose()


def _check_run_on(client: Client, job_ids: Sequence[str]) -> None:
    """Check that each job runs, at its first attempt."""
    jobs = [client.job(job_id) for job_id in job_ids]
    found = {(job.state, job.attempt_number) for job in jobs}
    assert found == {("RUNNING", 1)}, f"states and attempts: {found}"
