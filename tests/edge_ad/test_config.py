import pytest

from edge_ad.config import PRESETS, Config
from edge_ad.errors import ConfigError


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_survive_toml(preset, tmp_path):
    config = Config.named(preset)
    config.to_toml(tmp_path / "c.toml")
    assert Config.from_toml(tmp_path / "c.toml") == config


def test_missing_settings_keep_the_presets_values(tmp_path):
    (tmp_path / "c.toml").write_text('preset = "paper"\n[training]\nsteps = 7\n')
    config = Config.from_toml(tmp_path / "c.toml")
    assert config.training.steps == 7
    assert config.model == Config.named("paper").model


@pytest.mark.parametrize(
    ("settings", "message", "hint"),
    [
        ({"model": {"topk": 3}}, "model.topk", "top_k"),
        ({"model": {"top_k": "x"}}, "'x'", "correct"),
        ({"model": {"top_k": True}}, "True", "correct"),
        ({"model": {"image_size": [224]}}, "[224]", "correct"),
        ({"training": {"schedule": "linear"}}, "linear", "cosine, step"),
        ({"training": 3}, "table", "[training]"),
        ({"preset": "huge"}, "huge", "paper, edge, nano"),
    ],
)
def test_wrong_settings_are_named(settings, message, hint):
    with pytest.raises(ConfigError) as error:
        Config.from_dict(settings)
    assert message in error.value.message
    assert hint in error.value.hint


def test_a_whole_number_is_a_float_and_a_list_a_tuple():
    config = Config.from_dict({"training": {"focal_gamma": 2}, "model": {"image_size": [28, 56]}})
    assert config.training.focal_gamma == 2.0
    assert config.model.image_size == (28, 56)


@pytest.mark.parametrize("text", ["a = ", "\xff"])
def test_broken_toml_is_an_error(text, tmp_path):
    (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.toml"):
        Config.from_toml(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match=r"none\.toml"):
        Config.from_toml(tmp_path / "none.toml")
