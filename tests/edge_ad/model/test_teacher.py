import dataclasses

import pytest
import timm
import torch

from edge_ad.config import ModelConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.model.teacher import Encoder, Teacher, fit_image_size
from edge_ad.model.weights import find_weights

CONFIG = ModelConfig(teacher="test_vit", tokens=36, taps=(1, 2, 3, 4), groups=2)


@pytest.fixture(scope="module")
def state():
    return find_weights("test_vit", "random")[0]


@pytest.mark.parametrize(
    ("photo", "expected"), [((100, 100), (96, 96)), ((100, 400), (64, 144)), ((4000, 10), (144, 64))]
)
def test_image_size_keeps_the_aspect_ratio_within_the_tokens(photo, expected):
    assert fit_image_size(CONFIG, photo) == expected


def test_a_given_image_size_must_fit_the_patches():
    assert fit_image_size(dataclasses.replace(CONFIG, image_size=(32, 64)), (1, 1)) == (32, 64)
    with pytest.raises(ConfigError, match="patch size 16"):
        fit_image_size(dataclasses.replace(CONFIG, image_size=(30, 64)), (1, 1))


def test_groups_are_means_of_the_blocks_outputs(state):
    images = torch.randn(2, 3, 160, 160)  # the model's own size, so that the position embedding stays as it is
    features = Teacher(CONFIG, (160, 160), state)(images)
    vit = timm.create_model("test_vit", num_classes=0).eval()
    vit.load_state_dict(state)
    outputs = []
    x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
    for block in vit.blocks:
        x = block(x)
        outputs.append(x[:, vit.num_prefix_tokens :].transpose(1, 2).reshape(2, 64, 10, 10))
    torch.testing.assert_close(features[:, 0], (outputs[1] + outputs[2]) / 2)
    torch.testing.assert_close(features[:, 1], (outputs[3] + outputs[4]) / 2)


def test_the_teacher_is_frozen_and_cut(state):
    teacher = Teacher(CONFIG, (64, 96), state)
    teacher.train()
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert len(teacher.vit.blocks) == 5
    assert teacher(torch.zeros(1, 3, 64, 96)).shape == (1, 2, 64, 4, 6)


def test_settings_that_cannot_be_are_named(state):
    with pytest.raises(ConfigError, match="4 taps"):
        Encoder(dataclasses.replace(CONFIG, groups=3), (64, 64), state)
    with pytest.raises(ConfigError, match="tap 9"):
        Encoder(dataclasses.replace(CONFIG, taps=(1, 9)), (64, 64), state)
    with pytest.raises(ConfigError, match="no plain ViT"):
        fit_image_size(dataclasses.replace(CONFIG, teacher="resnet18"), (64, 64))


def test_weights_of_another_model_are_refused(state):
    with pytest.raises(DataError, match="don't fit"):
        Encoder(CONFIG, (64, 64), {**state, "extra": torch.zeros(1)})
    with pytest.raises(DataError, match="don't fit"):
        Encoder(CONFIG, (64, 64), {**state, "norm.weight": torch.zeros(3)})
