"""The detector in PyTorch behind the runners' interface: what a graph is held against."""

from __future__ import annotations

import torch

from edge_ad.artifact import Artifact
from edge_ad.model.detector import Detector
from edge_ad.runtime.engines.runner import OUTPUTS, Array, GraphRunner, default_threads


class TorchRunner(GraphRunner):
    """The trained detector in float32, from the artifact's weights and not from its graph.

    threads: PyTorch has one setting for the whole process. device: cpu, cuda, or None for cuda where there
    is one.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None, device: str | None = "cpu") -> None:
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        torch.set_num_threads(default_threads(threads))
        detector = Detector.from_artifact(artifact).to(device)

        def infer(images: Array) -> list[Array]:
            with torch.inference_mode():
                scores = detector(torch.from_numpy(images).to(device))
            return [getattr(scores, name).cpu().numpy() for name in OUTPUTS]

        super().__init__(f"torch-{device} fp32", detector.image_size, None, infer)
