"""`edgead train` as a user calls it: every preset as it is, but for sizes."""

from __future__ import annotations

import dataclasses

import pytest

import edge_ad
from edge_ad.artifact import Artifact
from edge_ad.cli import main
from edge_ad.config import PRESETS, Config, DiffusionConfig


def shrunk(preset: str) -> Config:
    """The preset with a tiny teacher and few steps; losses, sources, precision and decoder stay its own."""
    config = Config.named(preset)
    model = config.model
    taps = range(1, 1 + 2 * model.groups if model.groups < 3 else 4)
    smaller = {"prototypes": 32, "decoder_channels": 16, "head_channels": 8}
    config = config.override("model", teacher="test_vit", image_size=(64, 96), taps=tuple(taps), **smaller)
    config = config.override("training", steps=2, batch_size=4, triplets=min(config.training.triplets, 8))
    diffusion = DiffusionConfig(32, (8, 8, 8), attention=(), steps=2, batch_size=2, images=2, sample_steps=2)
    return config.override("synthesis", diffusion=dataclasses.replace(diffusion, ema_decay=0.5))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_goes_from_photos_to_an_artifact_that_judges(preset, tmp_path, write_photos, capsys):
    photos = write_photos(tmp_path / "photos", 8)
    shrunk(preset).to_toml(tmp_path / "config.toml")
    options = ["--config", tmp_path / "config.toml", "--weights", "random", "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *map(str, [tmp_path / "photos", "--out", tmp_path / "part", *options])])
    assert stop.value.code == 0, capsys.readouterr().err
    assert Artifact.open(tmp_path / "part").config == shrunk(preset)
    prediction = edge_ad.load(tmp_path / "part").predict(photos[0])
    assert prediction.pixel_scores.shape == Config.named(preset).model.score_size
