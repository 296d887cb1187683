import math

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
        ({"training": {"focal_gamma": float("nan")}}, "nan", "number"),
        ({"preset": "huge"}, "huge", "paper, edge, fast, nano"),
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


@pytest.mark.parametrize("text", ["a = ", "\xff", "a=" + "[" * 3000])
def test_broken_toml_is_an_error(text, tmp_path):
    (tmp_path / "c.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"c\.toml"):
        Config.from_toml(tmp_path / "c.toml")
    with pytest.raises(ConfigError, match=r"none\.toml"):
        Config.from_toml(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("section", "values"),
    [
        ("training", {"steps": -1}),
        ("training", {"batch_size": 0}),
        ("training", {"learning_rate": math.nan}),
        ("training", {"held_out": 0.9}),
        ("training", {"seed": -1}),
        ("model", {"taps": []}),
        ("model", {"taps": [-1, 2]}),
        ("model", {"groups": 0}),
        ("model", {"score_size": [8, 8]}),  # fewer pixels than top_k
        ("synthesis", {"opacity": [0.5, 2.0]}),
        ("synthesis", {"diffusion": {"checkpoint_steps": 0}}),
        ("synthesis", {"diffusion": {"start": 2.0}}),
    ],
)
def test_a_number_out_of_bounds_is_named(section, values):
    name = next(iter(values))
    with pytest.raises(ConfigError, match=name if name != "score_size" else "top_k"):
        Config.from_dict({section: values})


def test_bounds_are_written_out():
    with pytest.raises(ConfigError) as error:
        Config.from_dict({"training": {"seed": -1}})
    assert "from 0 to 4294967295" in str(error.value.hint)


def test_toml_of_another_editor(tmp_path):
    (tmp_path / "c.toml").write_text("[training]\nseed = 3\n", encoding="utf-8-sig")
    assert Config.from_toml(tmp_path / "c.toml").training.seed == 3
    (tmp_path / "c.toml").write_text("[training]\nseed = 3\n", encoding="utf-16")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Config.from_toml(tmp_path / "c.toml")
