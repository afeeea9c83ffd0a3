"""Docker's json-file format: one JSON object a line with `log`, `stream` and `time`.

Decodes whole blocks of lines in C; only a block with something odd in it is looked at line by
line. A machine that lost power leaves runs of NUL bytes and torn lines (moby#53631): NUL runs are
skipped, all other bytes that are no record are handed on as such.
Source: https://docs.docker.com/engine/logging/drivers/json-file/

Always holds: cutting the input between any two lines gives the same parts.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Final

import msgspec

from services.log_collector.domain.assembly import Corrupt, Item
from services.log_collector.domain.records import Source

CORRUPT_BYTES_MAX: Final = 512 * 1024
"""So that the base64 of one piece stays below a line's bound."""

_NULS: Final = re.compile(b"\0+")
_SPACE: Final = b" \t\r"


class JsonFilePart(msgspec.Struct, frozen=True, gc=False):
    """One line of the file; what other drivers add (`attrs`) is left aside."""

    log: str
    stream: Source
    time: Annotated[datetime, msgspec.Meta(tz=True)]


_decoder: Final = msgspec.json.Decoder(JsonFilePart)


def decode(raw: bytes) -> Sequence[Item]:
    """Return what whole lines hold; the last one may lack its newline."""
    if not raw:
        return ()
    try:
        parts = _decoder.decode_lines(raw)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return tuple(_decode_each(raw))
    # The decoder is lenient about where one object ends and the next begins; a runtime isn't.
    if len(parts) == raw.count(b"\n") == raw.count(b"}\n"):
        return (parts,)
    return tuple(_decode_each(raw))


def _decode_each(raw: bytes) -> Iterator[Item]:
    run: list[JsonFilePart] = []
    for line in raw.split(b"\n"):
        for piece in _NULS.split(line):
            if not piece.strip(_SPACE):
                continue
            try:
                run.append(_decoder.decode(piece))
            except (msgspec.DecodeError, UnicodeDecodeError):
                if run:
                    yield run
                    run = []
                yield from corrupt(piece)
    if run:
        yield run


def corrupt(raw: bytes) -> Iterator[Corrupt]:
    """Yield bytes that are no record, in bounded pieces."""
    for start in range(0, len(raw), CORRUPT_BYTES_MAX):
        yield Corrupt(raw[start : start + CORRUPT_BYTES_MAX])
