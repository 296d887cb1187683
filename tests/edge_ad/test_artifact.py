import errno
import json
import os
import subprocess
import sys
import tempfile

import pytest

from edge_ad.artifact import Artifact, Manifest, Preprocessing, check_folder, write_atomically
from edge_ad.config import Config
from edge_ad.errors import ArtifactError


def manifest() -> Manifest:
    config = Config.named("edge")
    return Manifest("part", config.to_dict(), Preprocessing((28, 56), config.model.mean, config.model.std), ("a",))


@pytest.fixture
def artifact(tmp_path):
    return Artifact.create(tmp_path / "part", manifest(), {"model.onnx": b"graph", "engines/x.engine": b"engine"})


def test_what_was_written_is_read(artifact):
    again = Artifact.open(artifact.path)
    assert again.manifest == artifact.manifest
    assert again.config == Config.named("edge")
    assert again.file("engines/x.engine").read_bytes() == b"engine"
    assert again.manifest.preprocessing.image_size == (28, 56)
    assert again.digest() == artifact.digest()


def test_files_are_added_and_replaced(artifact):
    before = artifact.digest()
    artifact.add("model.int8.onnx", b"small")
    artifact.add("model.onnx", b"other")
    artifact.update(calibration={"image_threshold": 1.5}, reports={"int8": {"ok": True}})
    again = Artifact.open(artifact.path)
    assert again.file("model.onnx").read_bytes() == b"other"
    assert again.has("model.int8.onnx")
    assert again.manifest.calibration == {"image_threshold": 1.5}
    assert again.digest() != before


@pytest.mark.parametrize("damage", [b"", b"grapi", b"graph and more"])
def test_a_changed_file_is_refused(artifact, damage):
    (artifact.path / "model.onnx").write_bytes(damage)
    with pytest.raises(ArtifactError, match="SHA-256"):
        Artifact.open(artifact.path).file("model.onnx")


def test_a_missing_file_is_named(artifact):
    (artifact.path / "model.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"model\.onnx"):
        Artifact.open(artifact.path).file("model.onnx")
    with pytest.raises(ArtifactError, match=r"model\.fp16\.onnx"):
        artifact.file("model.fp16.onnx")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"format": 1}', '{"format": 1, "files": 3}'])
def test_a_damaged_manifest_is_an_error(artifact, text):
    (artifact.path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError):
        Artifact.open(artifact.path)


def test_a_foreign_folder_is_neither_read_nor_replaced(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(b"precious")
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        Artifact.open(tmp_path / "photos")
    with pytest.raises(ArtifactError, match="no artifact"):
        Artifact.create(tmp_path / "photos", manifest(), {})
    assert (tmp_path / "photos" / "a.png").read_bytes() == b"precious"
    with pytest.raises(ArtifactError, match="does not exist"):
        Artifact.open(tmp_path / "nothing")


def test_creating_again_replaces_all_of_it(artifact):
    Artifact.create(artifact.path, manifest(), {"weights.safetensors": b"w"})
    assert sorted(path.name for path in artifact.path.iterdir()) == ["manifest.json", "weights.safetensors"]
    assert [path.name for path in artifact.path.parent.iterdir()] == ["part"]


@pytest.mark.parametrize("name", ["../x", "/x", "manifest.json", "a/../../x"])
def test_names_stay_inside(artifact, name):
    with pytest.raises(ArtifactError, match="file name"):
        artifact.add(name, b"")


def test_a_full_disk_keeps_the_old_file(tmp_path):
    target = tmp_path / "file"
    target.write_bytes(b"old")
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "from pathlib import Path; from edge_ad.artifact import write_atomically\n"
        f"write_atomically(Path({str(target)!r}), b'x' * 5000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ArtifactError" in done.stderr
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_the_manifest_is_plain_json(artifact):
    data = json.loads((artifact.path / "manifest.json").read_text())
    assert data["files"]["model.onnx"]["bytes"] == 5
    write_atomically(artifact.path / "note", b"n")
    assert (artifact.path / "note").read_bytes() == b"n"


def test_a_folder_that_takes_no_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"can't write .*absent.x: No such file"):
        write_atomically(tmp_path / "absent" / "x", b"")


def test_a_file_is_no_artifact(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"x")
    with pytest.raises(ArtifactError, match=r"photo\.png is no artifact"):
        Artifact.open(tmp_path / "photo.png")


@pytest.mark.parametrize("inner", ["", "not/yet/there"])
def test_a_folder_without_room_is_refused_before_any_work(tmp_path, inner, monkeypatch):
    check_folder(tmp_path / inner)
    with pytest.raises(ArtifactError, match=r"can't write .*: [\d.]+ MB are free, [\d.]+ MB are needed"):
        check_folder(tmp_path / inner, 1 << 62)
    (tmp_path / "file").touch()
    with pytest.raises(ArtifactError, match="file is a file, not a folder"):
        check_folder(tmp_path / "file" / inner)

    def refuse(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(dir))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(ArtifactError, match=f"can't write {tmp_path / inner}: Read-only file system"):
        check_folder(tmp_path / inner)


def test_a_full_disk_is_noticed_by_writing_to_it(tmp_path):
    code = (
        "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"from pathlib import Path; from edge_ad.artifact import check_folder; check_folder(Path({str(tmp_path)!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"can't write {tmp_path}: File too large" in done.stderr


def test_what_an_older_version_did_not_know_is_off_and_not_as_its_preset_has_it_now(tmp_path):
    config = Config.named("edge").to_dict()
    del config["model"]["detail"]
    manifest = Manifest("old", config, Preprocessing((28, 28), (0.5,) * 3, (0.5,) * 3))
    Artifact.create(tmp_path / "old", manifest, {"model.onnx": b"x"})
    assert not Artifact.open(tmp_path / "old").config.model.detail
