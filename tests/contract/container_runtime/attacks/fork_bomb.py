"""Fork for ever, in every process; the first one says when no more can be had."""

import os

first, said = os.getpid(), False
while True:
    try:
        os.fork()
    except BlockingIOError:
        if os.getpid() == first and not said:
            said = bool(os.write(1, b"full\n"))
