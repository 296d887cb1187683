"""Nothing mixes devices on a GPU, seen without one: fake tensors have shape, type and device, but no numbers."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from edge_ad.config import Config
from edge_ad.model.detector import Detector
from edge_ad.training.feature_source import Batch
from edge_ad.training.fit import LossModule

SIZE = (64, 96)


@pytest.fixture
def overwrite_parameters():
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # or a real tensor can't turn into a fake one
    yield
    torch.__future__.set_overwrite_module_params_on_conversion(False)


@pytest.mark.parametrize("head_input", ["map", "product", "both"])
@pytest.mark.parametrize("preset", ["edge", "paper"])
def test_scores_and_losses_stay_on_the_gpu_in_float32(preset, head_input, overwrite_parameters):
    sizes = {"taps": (1, 2, 3, 4) if preset == "edge" else (1, 2, 3), "prototypes": 8, "head_channels": 8}
    config = Config.named(preset).override("model", teacher="test_vit", head_input=head_input, **sizes)
    on_cpu = Detector(config.model, SIZE, None)
    with FakeTensorMode(allow_non_fake_inputs=True):
        detector = on_cpu.to("cuda")
        images = torch.randn(2, 3, *SIZE, device="cuda")
        scores = detector(images)
        features = detector.teacher(images)
        masks = torch.zeros(scores.head_logits.shape, device="cuda")
        part = LossModule(detector).train()
        losses = part(Batch(features, features, masks, images=images), 4.0)
        for name, value in [*scores._asdict().items(), *losses.items()]:
            assert (value.device.type, value.dtype) == ("cuda", torch.float32), name
        assert scores.pixel_scores.shape == (2, *config.model.score_size)


def test_a_forgotten_device_would_be_seen(overwrite_parameters):
    with FakeTensorMode(), pytest.raises(RuntimeError, match="device"):
        torch.zeros(2, 3, device="cuda") + torch.zeros(2, 3)
