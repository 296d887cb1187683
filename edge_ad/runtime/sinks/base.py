"""Sink: where verdicts go."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from edge_ad.runtime.verdict import Verdict

Frame = npt.NDArray[np.uint8]
PixelScores = npt.NDArray[np.float32]
Delivery = Literal["now", "stored", "replayed"]


class Sink:
    """A place verdicts go to. Every method is called from one thread, the sink's own.

    name: short and unique among the sinks of a run
    delivery:
        "now"       at once, beside the store; lost while the sink is down (GPIO, live pictures, PLC signals:
                    a late signal would hit the wrong part)
        "stored"    once the verdict is in the store; lost while the sink is down
        "replayed"  once stored, and kept in the store's outbox until `write` returns, also over a restart:
                    at least once, in order, so the receiver drops repeats by the verdict's id
    """

    name: str
    delivery: Delivery = "stored"

    def open(self) -> None:
        """Connect. An exception means: not now, try again later."""

    def write(self, verdict: Verdict, frame: Frame | None = None, pixel_scores: PixelScores | None = None) -> None:
        """Deliver one verdict; on return it is delivered. An exception closes the sink and retries later.

        frame [H,W,3] uint8 RGB and pixel_scores [h,w] float32 are read-only and shared; both are None for a
        verdict that is replayed or that waited in a long queue.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Disconnect; called also after a failure."""
