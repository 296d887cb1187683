"""TensorRT versions that others found to compute wrong on networks like ours, by number, and what to do then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge_ad.errors import BackendError
from edge_ad.runtime.engines.runner import Precision

_THREAD = "https://github.com/NVIDIA/TensorRT/issues/"
_HALF: tuple[Precision, ...] = ("fp16", "int8")  # an INT8 engine computes in FP16 between its INT8 layers
_ALL: tuple[Precision, ...] = ("fp32", *_HALF)


@dataclass(frozen=True)
class Fault:
    """What is known of one version. version: its first two numbers. refuse: whether it hit a ViT like our teachers.

    seen: on what, and how wrong. threads: reports of it. capability: of the GPUs it was seen on, () for any.
    """

    version: str
    precisions: tuple[Precision, ...]
    refuse: bool
    seen: str
    threads: tuple[str, ...]
    capability: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"TensorRT {self.version}: {self.seen} ({', '.join(self.threads)})"


FAULTS = (
    Fault(
        "10.3", _HALF, True,  # JetPack 6.1 and 6.2
        "DINOv3 ViTs in FP16 gave nearly one class for every pixel, depth on Orin NX differed from frame to frame; "
        "both were right on other versions",
        (f"{_THREAD}4723", "https://github.com/ika-rwth-aachen/ros2-depth-anything-v3-trt/issues/16"),
    ),
    Fault(
        "10.3", ("fp32",), False,
        "a DINOv3 ViT-S in FP32 on AGX Orin was off by 0.4 in the mean, a transformer with dynamic sizes gave wrong "
        "results that 10.5 and 10.8 didn't",
        (f"{_THREAD}4558", f"{_THREAD}4419"),
    ),
    Fault("10.4", _ALL, True, "a DINOv3 ViT-B was wrong in FP32 and NaN in FP16 on an A6000", (f"{_THREAD}4742",)),
    Fault(
        "10.0", _ALL, False, "NaN in FP16 and FP32 on T4 and A100, a SigLIP ViT lost accuracy in FP16",
        (f"{_THREAD}4066", f"{_THREAD}3908"),
    ),
    Fault("10.13", _HALF, False, "YOLOv10 in FP16 differed much on Jetson Thor", (f"{_THREAD}4820",), (11,)),
    Fault("10.16", _HALF, False, "a camera network gave NaN in FP16 on an RTX 5080", (f"{_THREAD}4748",), (12,)),
)  # fmt: skip


def known_faults(target: str, version: str, precision: Precision, capability: Sequence[int] = ()) -> list[Fault]:
    """What FAULTS holds of that version, those that refuse first.

    target: `tensorrt`; `tensorrt-rtx` has numbers of its own, and nothing is known of them. capability: of the GPU;
    () leaves in what was seen on some GPUs only.
    """
    if target != "tensorrt":
        return []
    own = ".".join(version.split(".")[:2])
    found = [
        fault
        for fault in FAULTS
        if fault.version == own
        and precision in fault.precisions
        and (not capability or not fault.capability or fault.capability[0] == capability[0])
    ]
    return sorted(found, key=lambda fault: not fault.refuse)


def refuse_faulty(
    target: str, version: str, precision: Precision, capability: Sequence[int] = (), accept: bool = False
) -> list[str]:
    """Lines to say about the version before an engine is built with it, [] where nothing is known.

    Raises BackendError where a ViT like ours is known to come out wrong, unless `accept`: then that is said.
    """
    faults = known_faults(target, version, precision, capability)
    if faults and faults[0].refuse and not accept:
        raise BackendError(
            f"{precision} engines of TensorRT {version} are known to compute wrongly: {faults[0].seen} "
            f"({', '.join(faults[0].threads)})",
            "install another TensorRT (10.16 was right where 10.3 wasn't), build --fp32, or, at your own risk, "
            "--accept-faulty-tensorrt: the self-test then decides",
        )
    return [f"known of this version, so look at the self-test's outcome: {fault}" for fault in faults]
