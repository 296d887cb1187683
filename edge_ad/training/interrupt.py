"""Ctrl-C or SIGTERM between two steps, never within one: what a step changed is whole, and a resumed run is exact."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], None]]:
    """Gives a function to be called after each step: it raises KeyboardInterrupt when Ctrl-C came meanwhile.

    SIGTERM, which a queue or a shutdown sends, is the same. A second one interrupts at once. Where Ctrl-C is somebody
    else's (not the main thread, a handler of one's own) nothing changes.
    """
    asked = False

    def remember(*_: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    def raise_if_asked() -> None:
        if asked:
            raise KeyboardInterrupt

    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield raise_if_asked
        return
    terminate = signal.getsignal(signal.SIGTERM)
    signal.signal(signal.SIGINT, remember)
    if terminate is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, remember)
    try:
        yield raise_if_asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if terminate is signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
