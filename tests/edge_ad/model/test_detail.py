"""The detail memory: distances to the nearest prototype, against plain arithmetic."""

import pytest
import torch
from safetensors.torch import load, save

from edge_ad.config import ModelConfig
from edge_ad.errors import ConfigError, DataError
from edge_ad.model.detail import DetailMemory
from edge_ad.model.weights import find_weights

SIZE = (64, 96)
CONFIG = ModelConfig(detail="test_efficientnet", prototypes=16)


@pytest.fixture(scope="module")
def weights():
    return find_weights(CONFIG.detail, "random")[0]


@pytest.fixture
def memory(weights):
    return DetailMemory(CONFIG, SIZE, weights)


def images(count, seed=0):
    return torch.randn(count, 3, *SIZE, generator=torch.Generator().manual_seed(seed))


def test_features_have_unit_length_at_an_eighth_of_the_size(memory):
    features = memory.features(images(2))
    assert features.shape == (2, memory.prototypes.shape[1], 8, 12)
    assert memory.grid == (8, 12)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 8, 12))


def test_the_map_is_the_cosine_distance_to_the_nearest_prototype(memory):
    tokens = memory.features(images(3)).flatten(2).transpose(1, 2).flatten(0, 1)
    memory.set_prototypes([tokens], torch.Generator().manual_seed(0))
    got = memory(images(2, seed=1))
    seen = memory.features(images(2, seed=1)).double()
    distances = 1 - torch.einsum("bchw,pc->bhwp", seen, memory.prototypes.double())
    torch.testing.assert_close(got.double(), distances.min(-1).values, atol=1e-5, rtol=0)


def test_what_is_remembered_is_no_distance_away(memory):
    normal = images(1)
    tokens = memory.features(normal)[0].flatten(1).T  # 96 of them, each of which is kept
    memory.per_product = len(tokens)
    memory.set_prototypes([tokens], torch.Generator().manual_seed(0))
    torch.testing.assert_close(memory(normal), torch.zeros(1, 8, 12), atol=1e-5, rtol=0)
    assert memory(images(1, seed=5)).max() > 1e-3


def test_every_product_keeps_as_many_prototypes_and_weights_say_how_many_there_are(memory, weights):
    tokens = memory.features(images(2)).flatten(2).transpose(1, 2)
    memory.set_prototypes(list(tokens), torch.Generator().manual_seed(0))
    assert len(memory.prototypes) == 2 * CONFIG.prototypes
    again = DetailMemory(CONFIG, SIZE, None)
    again.load_state_dict(load(save(memory.state_dict())))
    torch.testing.assert_close(again(images(1, seed=2)), memory(images(1, seed=2)))


def test_it_never_learns(memory):
    memory.train()
    assert not any(module.training for module in memory.modules())
    assert not any(parameter.requires_grad for parameter in memory.parameters())


def test_the_cnn_sees_images_in_its_own_normalisation(weights):
    own = DetailMemory(CONFIG, SIZE, weights)
    raw = torch.rand(1, 3, *SIZE)
    shifted = ModelConfig(detail=CONFIG.detail, prototypes=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
    other = DetailMemory(shifted, SIZE, weights)

    def normalised(config):
        mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
        return (raw - mean) / std

    torch.testing.assert_close(own.features(normalised(CONFIG)), other.features(normalised(shifted)))


def test_a_transformer_and_an_unfit_file_are_refused(weights):
    with pytest.raises(ConfigError, match="no CNN"):
        DetailMemory(ModelConfig(detail="test_vit"), SIZE, None)
    broken = {name: value for name, value in weights.items() if name != "conv_stem.weight"}
    with pytest.raises(DataError, match=r"1 tensors missing \['conv_stem.weight'\]"):
        DetailMemory(CONFIG, SIZE, broken)
