"""`edgead bench train`: what a row holds, and that the rates in it are those of the steps."""

import csv
import json

import pytest
import torch

from edge_ad.bench import train
from edge_ad.cli import bench_train
from edge_ad.config import Config, DiffusionConfig
from edge_ad.errors import ConfigError
from edge_ad.training.photos import find_photos


@pytest.fixture
def photos(tmp_path, write_photos):
    write_photos(tmp_path / "photos", 6)
    return tmp_path / "photos"


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr(train, "matrix_rate", lambda device, precision: 1e10)


@pytest.mark.parametrize("engine", ["numpy", "torch"])
def test_a_row_of_the_detectors_training(engine, tiny_config, photos, tmp_path):
    config = tiny_config.override("model", student="separate", decoder="transformer", image_size=(48, 48))
    config = config.override("synthesis", engine=engine, sources=("ddpm:0.5", "procedural:0.5"))
    row = train.measure_detector(find_photos([photos]), config, device="cpu", steps=5, weights="random")
    assert set(row) == set(train.FIELDS)
    assert row["engine"] == {"numpy": "OnlineFeatures", "torch": "BatchedFeatures"}[engine]
    assert row["image_size"] == "48x48"
    assert 0 < row["images_per_second_p20"] <= row["images_per_second_p50"] <= row["images_per_second_p80"]
    assert 0 < row["waiting_for_data"] < 1  # without workers a step fetches its own
    expected = row["images_per_second_p50"] * row["gflop_per_image"] * 1e9 / 1e10
    assert row["share_of_matrix_rate"] == pytest.approx(expected, rel=0.05, abs=1e-4)


def test_a_row_of_the_diffusion_models_training(photos):
    config = DiffusionConfig(resolution=16, channels=(8, 8), attention=(), batch_size=2)
    row = train.measure_diffusion(find_photos([photos]), config, device="cpu", steps=5)
    assert set(row) == set(train.FIELDS)
    assert row["what"] == "diffusion 16"
    assert row["images_per_second_p50"] > 0


def test_the_command_writes_a_row(tiny_config, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Config, "named", classmethod(lambda cls, preset: tiny_config))
    out = tmp_path / "rows.csv"
    bench_train.command([photos], steps=5, batch_size=2, triplets=4, weights="random", device="cpu", out=out)
    said = capsys.readouterr()
    row = json.loads(said.out)
    assert row["batch"] == 2
    assert "waiting for data" in said.err
    with out.open() as file:
        assert [dict(own)["engine"] for own in csv.DictReader(file)] == ["FeatureCache"]
    with pytest.raises(ConfigError, match="engine"):
        bench_train.command([photos], engine="cupy", device="cpu")


def test_too_few_steps_and_no_sources_are_refused(tiny_config, photos):
    with pytest.raises(ConfigError, match="too few"):
        train.measure_detector(find_photos([photos]), tiny_config, device="cpu", steps=1, weights="random")
    config = tiny_config.override("synthesis", sources=("ddpm",))
    with pytest.raises(ConfigError, match="diffusion model"):
        train.measure_detector(find_photos([photos]), config, device="cpu", steps=5, weights="random")


def test_the_matrix_rate_is_measured(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(train, "MATRIX_SIDE", {"cpu": 64, "cuda": 64})
    assert 1e6 < train.matrix_rate(torch.device("cpu"), "fp32", 0.01) < 1e14


def test_another_batch_size_keeps_the_number_of_images():
    config = Config.named("paper").at_batch(32)
    assert config.training.batch_size * config.training.steps == 80_000
    assert config.training.learning_rate == pytest.approx(2e-4)
    assert Config.named("edge").at_batch(16).training.warmup_steps == 25
    assert Config.named("edge").at_batch(8) == Config.named("edge")
