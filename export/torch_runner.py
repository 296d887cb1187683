"""The detector in PyTorch behind the runners' interface: what a graph is held against."""

from __future__ import annotations

import torch

from edge_ad.artifact import Artifact
from edge_ad.model.detector import Detector
from edge_ad.runtime.backends import OUTPUTS, Array, GraphRunner, default_threads


class TorchRunner(GraphRunner):
    """The trained detector on the CPU, from the artifact's weights and not from its graph.

    threads: PyTorch has one setting for the whole process.
    """

    def __init__(self, artifact: Artifact, threads: int | None = None) -> None:
        torch.set_num_threads(default_threads(threads))
        detector = Detector.from_artifact(artifact)

        def infer(images: Array) -> list[Array]:
            with torch.inference_mode():
                scores = detector(torch.from_numpy(images))
            return [getattr(scores, name).numpy() for name in OUTPUTS]

        super().__init__("torch fp32", detector.image_size, None, infer)
