"""Several training processes launched together, as far as one can tell without torch."""

from __future__ import annotations

import os


def is_first_process() -> bool:
    """Whether this process is the only one of a training, or the one of several that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"  # set by torchrun and `accelerate launch`
