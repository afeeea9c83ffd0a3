"""A collector as a process of its own, to be killed: `python -m … FOLDER`.

Collects the one open stream of `builders.a_stream()` until it is killed; says `up` first.
"""

import asyncio
import sys
from pathlib import Path

from tests.integration.log_collector.yard import running_yard
from tests.unit.log_collector.builders import a_stream


async def collect(root: Path) -> None:
    """Collect for ever."""
    async with running_yard(root, a_stream()):
        sys.stdout.write("up\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(collect(Path(sys.argv[1])))
