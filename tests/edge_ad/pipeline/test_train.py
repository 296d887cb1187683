import pytest

import edge_ad
from edge_ad.artifact import photo_key
from edge_ad.data import images, samples
from edge_ad.errors import ArtifactError, DataError


@pytest.fixture
def counted(monkeypatch):
    """How often each photo is decoded, and each folder scanned."""
    from edge_ad.data import loader
    from edge_ad.training import photos

    calls = []
    monkeypatch.setattr(loader, "read_image", lambda path: calls.append(path.name) or images.read_image(path))
    monkeypatch.setattr(photos, "scan", lambda folder: calls.append("scan") or samples.scan(folder))
    return calls


def test_photos_are_scanned_and_decoded_once_for_all_steps(tiny_config, write_photos, tmp_path, counted, caplog):
    folder = tmp_path / "data" / "train" / "good"
    write_photos(folder, 6)
    (folder / "zz.png").write_bytes(b"\x89PNG broken")
    artifact = edge_ad.train(str(tmp_path / "data"), tmp_path / "part", tiny_config, device="cpu", weights="random")
    assert sorted(counted) == [*(f"{i:03d}.png" for i in range(6)), "scan", "zz.png"]
    training = artifact.manifest.training
    assert {key: training[key] for key in ("steps", "normals", "held_out", "triplets", "skipped")} == {
        "steps": 4, "normals": 3, "held_out": 3, "triplets": 8, "skipped": 1,
    }  # fmt: skip
    assert artifact.trained_on() < {photo_key(path) for path in folder.glob("0*.png")}
    assert len(artifact.trained_on()) == 3  # neither those held out nor the broken one
    assert artifact.manifest.teacher["source"] == "random"
    assert artifact.manifest.calibration["normals"] == 3
    assert (artifact.path / "training.png").is_file()
    assert "zz.png" in caplog.text
    left = {path.name for path in (tmp_path / "part.training").iterdir()}
    assert left <= {"run.json", "logs"}  # no caches, no checkpoint


def test_what_is_no_artifact_is_not_replaced(tiny_config, write_photos, tmp_path):
    write_photos(tmp_path / "data", 6)
    with pytest.raises(ArtifactError, match="is no artifact"):
        edge_ad.train(tmp_path / "data", tmp_path / "data", tiny_config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no usable image"):
        edge_ad.train(tmp_path / "empty", tmp_path / "part", tiny_config)
