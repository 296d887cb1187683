"""The detector: teacher, student, head, and the scores they make together."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from edge_ad import kernels
from edge_ad.artifact import Artifact
from edge_ad.config import ModelConfig
from edge_ad.errors import ArtifactError
from edge_ad.model.detail import DetailMemory
from edge_ad.model.head import UPSCALE, SegmentationHead
from edge_ad.model.resampling import upsampling_matrix
from edge_ad.model.student import Student
from edge_ad.model.teacher import Teacher

PARTS = ("map", "head", "detail")  # what pixel_scores are made of, in the order of normal_range
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
    """Frozen teacher, student and head, and perhaps a memory of fine detail.

    image_size: (H, W) in pixels. state, detail_state: the pretrained weights of teacher and detail memory; None when
    a trained detector's weights are loaded afterwards.
    """

    def __init__(
        self,
        config: ModelConfig,
        image_size: tuple[int, int],
        state: dict[str, torch.Tensor] | None,
        detail_state: dict[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.teacher = Teacher(config, image_size, state)
        self.student = Student(config, self.teacher)
        self.head = SegmentationHead(config, self.teacher.channels) if config.head else None
        self.detail = DetailMemory(config, image_size, detail_state) if config.detail else None
        # typical value and spread of normal pixels: PARTS (the last where there is one) x (median, spread)
        self.register_buffer("normal_range", torch.tensor([[0.0, 1.0]] * (3 if config.detail else 2)))
        for axis, size in enumerate(config.score_size):
            coarse, name = self.teacher.grid[axis], "yx"[axis]
            self.register_buffer(f"map_{name}", upsampling_matrix(coarse, size, SMOOTHING), persistent=False)
            fine = upsampling_matrix(coarse * UPSCALE, size, SMOOTHING)
            self.register_buffer(f"head_{name}", fine, persistent=False)
            if self.detail is not None:
                matrix = upsampling_matrix(self.detail.grid[axis], size, SMOOTHING)
                self.register_buffer(f"detail_{name}", matrix, persistent=False)

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
        return self.scores(maps, logits, None if self.detail is None else self.detail(images))

    def scores(self, maps: torch.Tensor, logits: torch.Tensor | None, detail: torch.Tensor | None = None) -> Scores:
        """Bring maps [B, G, h, w], logits and detail [B, h', w'] to score_size, weigh each against normal pixels, and
        take Top-K (eq. 6)."""
        anomaly_map = maps.mean(1)
        pixels = self.normalised_pixels(anomaly_map, logits, detail)
        pixel_scores = pixels["map"]
        if "detail" in pixels:
            weight = self.config.detail_weight
            pixel_scores = (1 - weight) * pixel_scores + weight * pixels["detail"]
        if logits is None:
            logits = torch.zeros_like(anomaly_map)
        else:
            weight = self.config.head_weight
            pixel_scores = (1 - weight) * pixel_scores + weight * pixels["head"]
        image_score = kernels.topk_mean(pixel_scores, self.config.top_k)
        return Scores(image_score, pixel_scores, anomaly_map, logits)

    def normalised_pixels(
        self, anomaly_map: torch.Tensor, logits: torch.Tensor | None, detail: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        """Those of PARTS that are there, each [B, H, W] at score_size: 0 is the typical normal pixel, 1 is one spread
        of normal pixels above it. anomaly_map [B, h, w], logits [B, 2h, 2w], detail [B, h', w']."""
        return {
            name: (getattr(self, f"{name}_y") @ part @ getattr(self, f"{name}_x").T - middle) / spread
            for name, part, (middle, spread) in zip(
                PARTS, (anomaly_map, logits, detail), self.normal_range, strict=False
            )
            if part is not None
        }

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
