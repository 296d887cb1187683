"""What decoders print about a damaged picture without its name, heard and told apart by picture."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

_DECODERS = (
    "Corrupt JPEG",
    "Premature end of JPEG",
    "Warning: ",
    "libpng ",
    "Inconsistent progression",
    "Invalid SOS",
)


class Listener:
    """Reads what has been printed into a file on standard error's place; without a file it hears nothing."""

    def __init__(self, heard: BinaryIO | None = None) -> None:
        self._heard, self._lock = heard, threading.Lock()

    def size(self) -> int:
        """Bytes printed so far."""
        return 0 if self._heard is None else os.fstat(self._heard.fileno()).st_size

    def complaint(self, since: int, again: Callable[[], object]) -> str:
        """What a decoder prints when `again` decodes a picture once more; empty where nothing was printed.

        since: `size` before the picture was decoded. Another thread's picture may have caused what was printed:
        whose it was shows when it's decoded again.
        """
        if self._heard is None or self.size() == since:
            return ""
        with self._lock:
            before = self.size()
            again()
            text = os.pread(self._heard.fileno(), self.size() - before, before).decode(errors="replace")
        return next((line.strip() for line in text.splitlines() if line.startswith(_DECODERS)), "")


@contextmanager
def listen() -> Iterator[Listener]:
    """While it lasts, what is printed on standard error is kept; what isn't a decoder's is printed afterwards.

    libjpeg fills what it can't decode with gray or noise, and only prints a line that names no file. For programs
    that print nothing meanwhile; whoever has no standard error hears nothing.
    """
    try:
        original = os.dup(2)
    except OSError:
        yield Listener()
        return
    with tempfile.TemporaryFile() as heard:
        os.dup2(heard.fileno(), 2)
        try:
            yield Listener(heard)
        finally:
            os.dup2(original, 2)
            os.close(original)
            heard.seek(0)
            lines = heard.read().splitlines(keepends=True)
            others = b"".join(line for line in lines if not line.decode(errors="replace").startswith(_DECODERS))
            if others.strip():
                os.write(2, others)
