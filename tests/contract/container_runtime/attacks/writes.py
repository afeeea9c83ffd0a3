"""Try to write everywhere: make a file in each folder, open each file; tell what could be."""

import json
import os
import stat
import sys
from contextlib import suppress

HARMLESS_DEVICES = {os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)} | {
    os.makedev(5, 0),
    os.makedev(5, 2),
}
"""Those that keep nothing: null (which also covers what is hidden), zero, random, terminals."""

found = []
for folder, folders, files in os.walk("/"):
    if folder == "/proc":
        folders[:] = [name for name in folders if not name.isdigit()]
    paths = [(os.path.join(folder, f".attack-{os.getpid()}"), os.O_CREAT)]
    paths += [(os.path.join(folder, name), 0) for name in files]
    for path, flags in paths:
        with suppress(OSError):
            opened = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | flags)
            told = os.fstat(opened)
            os.close(opened)
            if not (stat.S_ISCHR(told.st_mode) and told.st_rdev in HARMLESS_DEVICES):
                found.append(path)
sys.stdout.write(json.dumps(found))
