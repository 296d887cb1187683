"""The detector: teacher, student, head, and the scores they make together."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from edge_ad import kernels
from edge_ad.artifact import Artifact
from edge_ad.config import ModelConfig
from edge_ad.errors import ArtifactError
from edge_ad.model.head import UPSCALE, SegmentationHead
from edge_ad.model.student import Student
from edge_ad.model.teacher import Teacher

SMOOTHING = 4.0  # standard deviation in pixels of pixel_scores (the customary value for 256x256)


class Scores(NamedTuple):
    """anomaly_map [B, h, w], head_logits [B, 2h, 2w], pixel_scores [B, H, W], image_score [B]; float32.

    anomaly_map is the mean difference map, 0..2. pixel_scores are unbounded: 0 is the typical normal pixel, 1 is
    one spread of normal pixels above it.
    """

    image_score: torch.Tensor
    pixel_scores: torch.Tensor
    anomaly_map: torch.Tensor
    head_logits: torch.Tensor


class Detector(nn.Module):
    """Frozen teacher, student and head.

    image_size: (H, W) in pixels. state: the teacher's pretrained weights; None when a trained detector's weights
    are loaded afterwards.
    """

    def __init__(
        self, config: ModelConfig, image_size: tuple[int, int], state: dict[str, torch.Tensor] | None
    ) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.teacher = Teacher(config, image_size, state)
        self.student = Student(config, self.teacher)
        self.head = SegmentationHead(config, self.teacher.channels) if config.head else None
        # typical value and spread of normal pixels: (map, head) x (median, spread)
        self.register_buffer("normal_range", torch.tensor([[0.0, 1.0], [0.0, 1.0]]))
        grid = self.teacher.grid
        for axis, (size, coarse) in enumerate(zip(config.score_size, grid, strict=True)):
            name = "xy"[1 - axis]
            self.register_buffer(f"map_{name}", upsampling_matrix(coarse, size, SMOOTHING), persistent=False)
            fine = upsampling_matrix(coarse * UPSCALE, size, SMOOTHING)
            self.register_buffer(f"head_{name}", fine, persistent=False)

    def compare(
        self, images: torch.Tensor | None, teacher_features: torch.Tensor, recalled: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Student features [B, G, C, h, w], difference maps of eq. 5 [B, G, h, w], and the head's logits."""
        # under autocast the student answers in half precision; maps, loss and head's input are taken in the teacher's
        student = self.student(images, teacher_features, recalled).to(teacher_features.dtype)
        maps = difference_maps(teacher_features, student)
        logits = None if self.head is None else self.head(teacher_features, student, maps)
        return student, maps, logits

    def forward(self, images: torch.Tensor) -> Scores:
        """Scores of images [B, 3, H, W] (normalised RGB)."""
        _, maps, logits = self.compare(images, self.teacher(images))
        return self.scores(maps, logits)

    def scores(self, maps: torch.Tensor, logits: torch.Tensor | None) -> Scores:
        """Bring maps [B, G, h, w] and logits to score_size, weigh them against normal pixels, take Top-K (eq. 6)."""
        anomaly_map = maps.mean(1)
        (map_middle, map_spread), (head_middle, head_spread) = self.normal_range
        pixel_scores = (self.map_y @ anomaly_map @ self.map_x.T - map_middle) / map_spread
        if logits is None:
            logits = torch.zeros_like(anomaly_map)
        else:
            from_head = (self.head_y @ logits @ self.head_x.T - head_middle) / head_spread
            weight = self.config.head_weight
            pixel_scores = (1 - weight) * pixel_scores + weight * from_head
        image_score = kernels.topk_mean(pixel_scores, self.config.top_k)
        return Scores(image_score, pixel_scores, anomaly_map, logits)

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Detector:
        """The trained detector, in eval mode."""
        from safetensors.torch import load_file  # noqa: PLC0415

        detector = cls(artifact.config.model, artifact.manifest.preprocessing.image_size, None)
        try:
            detector.load_state_dict(load_file(artifact.file("weights.safetensors")))
        except RuntimeError as error:
            raise ArtifactError(f"the weights in {artifact.path} don't fit its settings: {error}") from error
        return detector.eval()


def difference_maps(teacher_features: torch.Tensor, student_features: torch.Tensor) -> torch.Tensor:
    """Difference maps of eq. 5, [B, G, h, w], of features [B, G, C, h, w]."""
    batch, groups = teacher_features.shape[:2]
    maps = kernels.cosine_map(teacher_features.flatten(0, 1), student_features.flatten(0, 1))
    return maps.unflatten(0, (batch, groups))


def upsampling_matrix(size: int, target: int, sigma: float) -> torch.Tensor:
    """Matrix [target, size]: bilinear upsampling (half-pixel centres) and Gaussian smoothing of one axis.

    sigma: in target pixels. Two such products replace resize and blur: engines run them anywhere and alike.
    """
    line = torch.eye(size, dtype=torch.float64)[:, None]
    up = F.interpolate(line, size=target, mode="linear", align_corners=False)[:, 0]
    radius = int(4 * sigma + 0.5)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, dtype=torch.float64) / sigma) ** 2)
    padded = F.pad(up[:, None], (radius, radius), mode="replicate")
    return F.conv1d(padded, (kernel / kernel.sum())[None, None])[:, 0].T.float().contiguous()
