"""Training, evaluation and the line compute with the kernels, on the backend that EDGE_AD_BACKEND names."""

import dataclasses

import cv2
import numpy as np
import pytest

from edge_ad import evaluation, kernels
from edge_ad.data.samples import Sample
from edge_ad.errors import BackendError
from edge_ad.kernels import reference
from edge_ad.runtime import boxes
from edge_ad.runtime.line.policy import Policy, top_mean
from edge_ad.runtime.predictor import Predictor
from edge_ad.runtime.settings import PolicySettings

MARK = 7.25  # no such loss or score comes out of these inputs


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def detector(torch, tiny_config):
    from edge_ad.model.detector import Detector
    from edge_ad.model.weights import find_weights

    config = dataclasses.replace(tiny_config.model, head_input="both")
    return Detector(config, (64, 96), find_weights("test_vit", "random")[0]).eval()


def marked(monkeypatch, module, name):
    """Replace a backend's operation by one of the same shape that answers MARK, and count its calls."""
    calls, right = [], getattr(module, name)

    def wrong(*arguments, **options):
        calls.append(name)
        return right(*arguments, **options) * 0 + MARK

    monkeypatch.setattr(module, name, wrong)
    return calls


def seen(monkeypatch, module, name):
    """Count the calls of a backend's operation."""
    calls, right = [], getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **o: calls.append(name) or right(*a, **o))
    return calls


@pytest.mark.parametrize("backend", ["cpp", "torch"])
def test_the_loss_is_the_kernels_map(backend, torch, monkeypatch, detector):
    if reason := kernels.available_backends()[backend]:
        pytest.skip(reason)
    from edge_ad.kernels import cpp_ops, torch_ops
    from edge_ad.training.feature_source import Batch
    from edge_ad.training.fit import LossModule

    monkeypatch.setenv("EDGE_AD_BACKEND", backend)
    calls = marked(monkeypatch, cpp_ops if backend == "cpp" else torch_ops, "cosine_map")
    images = torch.randn(2, 3, 64, 96)
    features = detector.teacher(images)
    masks = torch.zeros(2, *(2 * length for length in features.shape[-2:]))
    losses = LossModule(detector)(Batch(features, features, masks), 2.0)
    assert losses["cosine"].item() == MARK
    assert len(calls) == 2  # the head's input, and the loss


def test_the_score_is_the_kernels_top_k(torch, monkeypatch, detector):
    from edge_ad.kernels import torch_ops

    monkeypatch.setenv("EDGE_AD_BACKEND", "torch")
    maps = marked(monkeypatch, torch_ops, "cosine_map")
    products = seen(monkeypatch, torch_ops, "head_input")
    marked(monkeypatch, torch_ops, "topk_mean")
    scores = detector(torch.randn(2, 3, 64, 96))
    assert scores.image_score.tolist() == [MARK, MARK]
    assert (scores.anomaly_map == MARK).all()
    assert (len(maps), len(products)) == (1, 1)


def test_a_named_backend_decides_for_training_and_scores(torch, monkeypatch, detector):
    from edge_ad.training.losses import cosine_loss

    monkeypatch.setenv("EDGE_AD_BACKEND", "triton")  # it can't run on these tensors, so nothing may pass it by
    features = torch.ones(1, 1, 4, 3, 3)
    with pytest.raises(BackendError, match="triton"):
        cosine_loss(features, features)
    with pytest.raises(BackendError, match="triton"):
        detector(torch.zeros(1, 3, 64, 96))
    monkeypatch.setenv("EDGE_AD_BACKEND", "cuda")  # no backend has this name
    with pytest.raises(BackendError, match="names no backend"):
        cosine_loss(features, features.clone().requires_grad_())


@pytest.mark.parametrize("backend", ["numpy", "cpp"])
def test_frames_and_regions_of_evaluation_and_line(backend, monkeypatch, small_artifact, tmp_path):
    pytest.importorskip("onnxruntime")
    if reason := kernels.available_backends()[backend]:
        pytest.skip(reason)
    from edge_ad.kernels import cpp_ops
    from edge_ad.runtime.engines.opening import open_runner

    monkeypatch.setenv("EDGE_AD_BACKEND", backend)
    module = reference if backend == "numpy" else cpp_ops
    averages = seen(monkeypatch, module, "topk_mean")
    frames, regions = seen(monkeypatch, module, "preprocess"), seen(monkeypatch, module, "find_defects")
    frame = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    path = tmp_path / "part.png"
    assert cv2.imwrite(str(path), frame)
    evaluation._load(Sample(path, "test", 0, "good", None, "stripes"), small_artifact.manifest.preprocessing)
    with Predictor(small_artifact, open_runner(small_artifact)) as predictor:
        predictor.predict(frame)
    assert len(frames) == 2
    pixels = np.zeros((256, 256), np.float32)
    pixels[20:30, 40:60] = 3
    calibration = {"image_threshold": 2.0, "pixel_threshold": 1.5, "score_quantiles": [0.0, 1.0, 1.9]}
    assert len(Policy(PolicySettings(), calibration).judge(3.0, pixels, (256, 256)).boxes) == 1
    assert len(regions) == 1
    assert top_mean(pixels) == 3
    assert len(averages) == 1
    assert boxes.find_defects is kernels.find_defects
