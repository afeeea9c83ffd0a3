"""Change inputs, and put links where the runner will look; tell what could be done."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

DECOY = os.environ["DECOY_FILE"]
inputs, outputs, checkpoint, progress = (
    Path(os.environ[f"MODELYARD_{name}"])
    for name in ("INPUTS", "OUTPUTS", "CHECKPOINT", "PROGRESS")
)
given = inputs / "given"


def replacements_of(part: Path) -> dict[str, Callable[[], object]]:
    """Return ways to put something else where the runner will look."""
    return {
        f"move {part}": lambda: part.rename(outputs / "moved"),
        f"delete folder {part}": part.rmdir,
        f"delete {part}": part.unlink,
        f"cover {part}": lambda: part.symlink_to(DECOY),
        f"take the place of {part}": lambda: (outputs / "link").replace(part),
    }


acts: dict[str, Callable[[], object]] = {
    "write input": lambda: given.write_text("other"),
    "chmod input": lambda: given.chmod(0o777),
    "touch input": lambda: os.utime(given),
    "delete input": given.unlink,
    "add input": lambda: (inputs / "more").write_text(""),
    "link input elsewhere": lambda: (outputs / "given").hardlink_to(given),
}
for part in (Path.cwd(), inputs, outputs, checkpoint, progress):
    acts |= replacements_of(part)
(outputs / "link").symlink_to(DECOY)
(outputs / "folder").mkdir()
(outputs / "folder" / "link").symlink_to(DECOY)
done = []
for name, act in acts.items():
    try:
        act()
        done.append(name)
    except OSError:
        continue
sys.stdout.write(json.dumps(done))
