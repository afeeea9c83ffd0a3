"""A queue of a tenant: a name that jobs give.

Owns: what can be a queue's name. All jobs stand in one line, whatever their queues are (ADR-0035).
"""

import re
from typing import Final

from services.chassis.errors import InvalidArgument

DEFAULT_QUEUE: Final = "default"
"""Of jobs that name none."""
QUEUE_NAME: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def check_queue_name(name: str, *, field: str) -> None:
    """Raise InvalidArgument naming `field` for what can be no queue's name."""
    if not QUEUE_NAME.fullmatch(name):
        raise InvalidArgument(
            field,
            "must be a queue's name: 1 to 63 of a-z, 0-9 and '-', a letter or digit first, "
            "such as nightly",
        )
