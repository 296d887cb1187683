"""`edgead train` as a user calls it, on tiny models with random weights."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

import edge_ad
from edge_ad.artifact import Artifact
from edge_ad.cli import main
from edge_ad.config import PRESETS, Config, DiffusionConfig
from edge_ad.data.held_out import training_photos
from edge_ad.workspace import Workspace


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


@pytest.fixture
def tiny(tmp_path, tiny_config):
    """Options of a training of seconds."""
    tiny_config.override("synthesis", sources=("procedural",)).to_toml(tmp_path / "tiny.toml")
    return ["--config", tmp_path / "tiny.toml", "--device", "cpu", "--weights", "random"]


def run(capsys, verb, *arguments):
    with pytest.raises(SystemExit) as stop:
        main([verb, *map(str, arguments)])
    out, err = capsys.readouterr()
    return stop.value.code, out, err


def darken(folder):
    """The photos of a folder as another product: much darker."""
    for path in folder.iterdir():
        cv2.imwrite(str(path), cv2.imread(str(path)) // 4)


@pytest.fixture
def two_products(tmp_path, write_photos):
    write_photos(tmp_path / "many/train/good", 30)
    write_photos(tmp_path / "few/train/good", 9, seed=1)
    darken(tmp_path / "few/train/good")
    for number, name in enumerate(("many", "few")):
        for kind in ("good", "dark"):
            write_photos(tmp_path / name / "test" / kind, 3, seed=2 + number)
        darken(tmp_path / name / "test/dark")
    return tmp_path / "many", tmp_path / "few"


def test_every_product_gets_a_threshold_of_its_own_from_photos_of_its_own(capsys, tiny, two_products, tmp_path):
    many, few = two_products
    code, out, err = run(capsys, "train", many, few, many, "--out", tmp_path / "part", *tiny)
    assert (code, out.strip()) == (0, str(tmp_path / "part")), err
    manifest = Artifact.open(tmp_path / "part").manifest
    assert manifest.classes == ("few", "many")
    assert (manifest.training["normals"], manifest.training["held_out"]) == (31, 8)  # each photo once
    own = manifest.calibration["per_class"]
    assert {name: own[name]["normals"] for name in own} == {"few": 4, "many": 4}
    assert manifest.calibration["image_threshold"] == max(own[name]["image_threshold"] for name in own)
    assert own["few"]["false_alarm_rate"] == 0.2
    for name in own:
        with edge_ad.load(tmp_path / "part", product=name, threads=1) as detector:
            assert detector.threshold == own[name]["image_threshold"]
        code, out, err = run(capsys, "eval", tmp_path / "part", tmp_path / name, "--json", "-", "--no-native")
        assert code == 0, err
        assert json.loads(out)[name]["at_threshold"]["threshold"] == own[name]["image_threshold"]


def test_a_folder_without_good_photos_is_named_even_among_others(capsys, tiny, two_products, tmp_path):
    many, few = two_products
    shutil.rmtree(few / "train")
    code, _, err = run(capsys, "train", many, few, "--out", tmp_path / "part", *tiny)
    assert code == 1
    assert f"no usable photos of good parts in {few}" in err
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--source", ""], "no source of defects"),
        (["--source", "ddpm", "--ddpm", "mistyped"], "mistyped holds no diffusion model"),
        (["--triplets", "mistyped"], "mistyped holds no finished triplets"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--out", "tiny.toml/part"], "tiny.toml is a file, not a folder"),
    ],
)
def test_wrong_wishes_are_errors_with_hints_and_leave_nothing(
    capsys, tiny, write_photos, tmp_path, monkeypatch, options, message
):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 6)
    code, _, err = run(capsys, "train", "photos", "--out", "part", *tiny, *options)
    assert code == 1
    assert message in err
    assert "hint:" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos", "tiny.toml"]


@pytest.mark.parametrize("preset", ["edge", "paper"])
def test_of_two_processes_one_speaks_and_writes(preset, tmp_path, write_photos):
    write_photos(tmp_path / "photos", 8)
    shrunk(preset).to_toml(tmp_path / "config.toml")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "edge_ad"]
    options = ["--config", "config.toml", "--weights", "random", "--device", "cpu", "--out", "part"]
    done = subprocess.run(
        [*launch, "train", "photos", *options],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "part\n"
    assert done.stderr.count("diffusion model: step") == (preset == "paper")
    assert done.stderr.count("writing the artifact") == done.stderr.count("RANDOM weights") == 1
    assert edge_ad.load(tmp_path / "part").predict(tmp_path / "photos" / "000.png").threshold is not None


def test_a_diffusion_model_is_used_with_the_settings_it_was_made_with(tmp_path):
    """Any other than the default one was refused, or trained on."""
    from edge_ad.synthesis.diffusion import build_network, is_trained, save_model
    from edge_ad.training.anomaly_images import with_diffusion_model

    made = dataclasses.replace(DiffusionConfig.at(32), steps=7, images=2, perturbation="ddim")
    (tmp_path / "ddpm").mkdir()
    save_model(build_network(made), made, tmp_path / "ddpm", step=7)
    settings = with_diffusion_model(Config.named("paper"), tmp_path / "ddpm")
    assert settings.synthesis.diffusion == made
    assert is_trained(tmp_path / "ddpm", settings.synthesis.diffusion)
    assert settings.synthesis.sources == Config.named("paper").synthesis.sources
    assert with_diffusion_model(settings, None) is settings


def test_train_as_typed_takes_the_only_photos_and_never_overwrites(capsys, tiny, write_photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "bottle", 30)
    options = ["--config", "tiny.toml", "--device", "cpu", "--weights", "random"]
    code, out, err = run(capsys, "train", *options)
    assert (code, out) == (0, "detectors/bottle\n"), err
    assert "training on the photos in bottle" in err
    assert "edgead run --camera 0" in err
    first = Artifact.open("detectors/bottle")
    assert training_photos(first).folders == (Path("bottle"),)
    assert (len(training_photos(first).seen), len(training_photos(first).unseen)) == (26, 4)
    code, out, err = run(capsys, "train", "bottle", "--seed", "7", *options)
    assert (code, out) == (0, "detectors/bottle-2\n"), err
    assert "detectors/bottle stays as it is" in err
    assert Artifact.open("detectors/bottle").digest() == first.digest()
    assert (Workspace().current, Workspace().candidate) == (Path("detectors/bottle"), Path("detectors/bottle-2"))


def test_a_quick_look_is_remembered_and_training_goes_on_from_it(tiny, write_photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_photos(tmp_path / "photos", 8)
    code, out, err = run(capsys, "train", "photos", "--quick", *tiny)
    assert code == 0, err
    assert Path(out.strip().splitlines()[-1]) == Path("detectors/photos")
    assert Workspace().current == Path("detectors/photos")
    assert Artifact.open("detectors/photos").manifest.training["steps"] == 0
    run(capsys, "train", "photos", "--resume", *tiny)
    assert Artifact.open("detectors/photos").manifest.training["steps"] > 0
    assert [path.name for path in Path("detectors").iterdir() if not path.name.endswith(".training")] == ["photos"]


def test_options_of_a_training_are_refused_with_a_quick_look(write_photos, tmp_path, capsys):
    write_photos(tmp_path / "photos", 4)
    with pytest.raises(SystemExit):
        main(["train", str(tmp_path / "photos"), "--quick", "--resume", "--max-minutes", "3"])
    assert "--max-minutes, --resume would do nothing" in capsys.readouterr().err
