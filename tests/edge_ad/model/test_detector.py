import dataclasses

import pytest
import torch
from safetensors.torch import save

from edge_ad.artifact import Artifact, Manifest, Preprocessing
from edge_ad.config import Config, ModelConfig
from edge_ad.errors import ConfigError
from edge_ad.model.detector import Detector
from edge_ad.model.student import unit_tokens
from edge_ad.model.weights import find_weights

SIZE = (64, 96)
MODELS = {
    "edge": {},
    "paper": {"student": "separate", "decoder": "transformer", "head_input": "product", "decoder_depth": 2},
    "shared transformer": {"decoder": "transformer", "head_input": "map"},
    "no decoder": {"student": "separate", "decoder": "none", "student_pretrained": False},
    "no head": {"head": False},
}


@pytest.fixture(scope="module")
def state():
    return find_weights("test_vit", "random")[0]


def build(config: ModelConfig, state, **changes) -> Detector:
    torch.manual_seed(0)
    return Detector(dataclasses.replace(config, **changes), SIZE, state).eval()


@pytest.mark.parametrize("name", MODELS)
def test_scores_have_their_shapes_and_gradients_reach_all_trained_parts(name, tiny_config, state):
    detector = build(tiny_config.model, state, **MODELS[name])
    images = torch.randn(2, 3, *SIZE)
    scores = detector(images)
    assert scores.image_score.shape == (2,)
    assert scores.pixel_scores.shape == (2, 256, 256)
    assert scores.anomaly_map.shape == (2, 4, 6)
    expected = scores.pixel_scores.flatten(1).topk(100).values.mean(1)
    torch.testing.assert_close(scores.image_score, expected)
    student, _, logits = detector.train().compare(images, detector.teacher(images))
    (student.sum() + (0 if logits is None else logits.sum())).backward()
    idle = [n for n, p in detector.named_parameters() if p.requires_grad and p.grad is None]
    assert idle == []
    assert all(p.grad is None for p in detector.teacher.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoder": "none"}, "repeats the teacher"),
        ({"student": "separate"}, "feature space"),
        ({"decoder": "transformer", "decoder_depth": 1}, "decoder_depth 1"),
    ],
)
def test_students_that_cannot_be_are_refused(changes, message, tiny_config, state):
    with pytest.raises(ConfigError, match=message):
        build(tiny_config.model, state, **changes)


def test_an_untrained_memory_already_tells_strange_from_known(tiny_config, state):
    detector = build(tiny_config.model, state)
    detector.student.decoder.sharpness.fill_(1000.0)
    known = torch.randn(1, 3, *SIZE)
    tokens = unit_tokens(detector.teacher(known))[0]
    detector.student.decoder.set_prototypes([tokens], torch.Generator().manual_seed(0))
    changed = known.clone()
    changed[..., 32:64, 32:64] += 3
    assert detector(known).anomaly_map.max() < 1e-3
    assert detector(changed).anomaly_map[0, 2:4, 2:4].min() > 10 * detector(known).anomaly_map.max()


def test_each_product_has_its_share_of_the_memory_and_weights_say_how_many_there_are(tiny_config, state):
    decoder = build(tiny_config.model, state).student.decoder
    width = decoder.prototypes.shape[1]
    many, few = torch.randn(5000, width), 9 + 0.01 * torch.randn(60, width)
    decoder.set_prototypes([many, few], torch.Generator().manual_seed(0))
    count = tiny_config.model.prototypes
    assert len(decoder.prototypes) == 2 * count
    assert (decoder.prototypes.mean(1) > 5).sum() == count
    fresh = build(tiny_config.model, state).student.decoder
    fresh.load_state_dict(decoder.state_dict())
    assert torch.equal(fresh.prototypes, decoder.prototypes)
    with pytest.raises(RuntimeError, match="prototypes"):
        fresh.load_state_dict({**decoder.state_dict(), "prototypes": torch.zeros(4, 3)})


def test_normal_range_makes_map_head_and_detail_weigh_alike(tiny_config, state):
    detector = build(tiny_config.model, state, head_weight=0.25, detail_weight=0.4)
    images = torch.randn(1, 3, *SIZE)
    _, maps, logits = detector.compare(images, detector.teacher(images))
    detector.normal_range.copy_(torch.tensor([[0.2, 0.1], [-4.0, 2.0], [0.3, 0.2]]))
    from_map = (detector.map_y @ maps.mean(1) @ detector.map_x.T - 0.2) / 0.1
    from_head = (detector.head_y @ logits @ detector.head_x.T + 4.0) / 2.0
    from_detail = (detector.detail_y @ detector.detail(images) @ detector.detail_x.T - 0.3) / 0.2
    expected = 0.75 * (0.6 * from_map + 0.4 * from_detail) + 0.25 * from_head
    torch.testing.assert_close(detector(images).pixel_scores, expected)


def test_a_detector_survives_the_artifact(tiny_config, state, tmp_path):
    detector = build(tiny_config.model, state)
    config = dataclasses.replace(tiny_config, model=detector.config)
    manifest = Manifest("x", config.to_dict(), Preprocessing(SIZE, config.model.mean, config.model.std))
    artifact = Artifact.create(tmp_path / "a", manifest, {"weights.safetensors": save(detector.state_dict())})
    images = torch.randn(1, 3, *SIZE)
    again = Detector.from_artifact(artifact)
    assert Config.from_dict(artifact.manifest.config) == config
    torch.testing.assert_close(again(images).pixel_scores, detector(images).pixel_scores)
