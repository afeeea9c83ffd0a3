"""The table of `docs/how-to/why-a-job-waits.md`, from the one by which the code explains.

`python -m tests.unit.scheduler.why_a_job_waits_page` writes it anew.
"""

from pathlib import Path
from typing import Final

import services.scheduler
from services.scheduler.domain.scheduling.causes import Cause

PAGE: Final = (
    Path(services.scheduler.__file__).parents[2] / "docs" / "how-to" / "why-a-job-waits.md"
)
_BEGIN: Final = "<!-- the table: made of domain/scheduling/causes.py -->\n"
_END: Final = "<!-- the end of the table -->\n"


def render(page: str) -> str:
    """Return the page with the table as it is to be."""
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    return "".join([before, _BEGIN, *_table(), _END, after])


def _table() -> list[str]:
    rows = [("`hold`", "what it means", "`helped_by`"), ("---",) * 3]
    rows += [(f"`{each.hold}`", each.meaning, each.helped_by) for each in Cause]
    return [f"| {' | '.join(row)} |\n" for row in rows]


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
