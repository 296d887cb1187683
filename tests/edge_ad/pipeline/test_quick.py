"""A memory without training is an artifact like any other, and training goes on from its features."""

import json

import pytest

import edge_ad
from edge_ad.artifact import photo_key
from edge_ad.config import Config
from edge_ad.data.held_out import training_photos
from edge_ad.data.samples import scan
from edge_ad.errors import ConfigError
from edge_ad.pipeline import quick
from edge_ad.pipeline.quick import train_quick


@pytest.mark.parametrize("count", [2, 4, 9])
def test_a_few_photos_are_enough_for_a_first_look(tiny_config, write_photos, tmp_path, count):
    photos = write_photos(tmp_path / "data", count)
    artifact = train_quick(tmp_path / "data", tmp_path / "part", tiny_config, device="cpu", weights="random")
    training = artifact.manifest.training
    assert (training["steps"], training["triplets"]) == (0, 0)
    assert training["normals"] + training["held_out"] == count
    assert artifact.config.model.head is False
    assert len(training_photos(artifact).unseen) == training["held_out"]  # export and calibrate find them again
    assert artifact.manifest.calibration["normals"] == training["held_out"]
    assert (artifact.path / "training.png").is_file()
    with edge_ad.load(artifact.path, threads=1) as detector:
        assert detector.predict(photos[0]).threshold is not None


def test_more_photos_than_needed_are_left_out_and_said(tiny_config, write_photos, tmp_path, monkeypatch):
    write_photos(tmp_path / "data", 20)
    monkeypatch.setattr(quick, "REMEMBERED", 8)
    monkeypatch.setattr(quick, "HELD_OUT", 7)
    said, judged = [], []
    honest = quick.set_first_threshold
    monkeypatch.setattr(
        quick,
        "set_first_threshold",
        lambda artifact, samples, *rest: (
            judged.extend(one.path for one in samples) or honest(artifact, samples, *rest)
        ),
    )

    class Words(edge_ad.progress.NoProgress):
        def say(self, text, style=""):
            said.append(text)

    artifact = train_quick(
        tmp_path / "data", tmp_path / "part", tiny_config, device="cpu", weights="random", progress=Words()
    )
    assert artifact.manifest.training["normals"] == len(artifact.trained_on()) == 8
    assert any(text.startswith("remembered 8 photos, set the threshold from 7 of the 12 others") for text in said)
    assert artifact.manifest.calibration["normals"] == 7  # four held out, three that the memory had no room for
    assert not {photo_key(path) for path in judged} & artifact.trained_on()


def test_training_goes_on_from_the_features_of_the_first_look(tiny_config, write_photos, tmp_path, monkeypatch):
    write_photos(tmp_path / "data", 20)
    monkeypatch.setattr(quick, "REMEMBERED", 8)
    first = train_quick(tmp_path / "data", tmp_path / "part", tiny_config, device="cpu", weights="random")
    note = tmp_path / "part.training" / "cache" / "normals" / "done.json"
    assert json.loads(note.read_text())["done"] == 8
    computed = []
    from edge_ad.training.feature_cache import FeatureCache

    honest = FeatureCache._normal
    monkeypatch.setattr(FeatureCache, "_normal", lambda self, i: computed.append(i) or honest(self, i))
    second = edge_ad.train(
        tmp_path / "data", tmp_path / "part", tiny_config, device="cpu", weights="random", resume=True
    )
    assert computed[:8] == list(range(8, 16))  # of the normals only those that were left
    assert second.manifest.training["normals"] == 16
    assert second.config.model.head
    assert second.digest() != first.digest()


def test_presets_without_a_memory_are_refused(write_photos, tmp_path):
    write_photos(tmp_path / "data", 4)
    with pytest.raises(ConfigError, match="preset paper has no memory"):
        train_quick(scan(tmp_path / "data"), tmp_path / "part", Config.named("paper"))
