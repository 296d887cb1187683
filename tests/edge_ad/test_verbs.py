"""`edge_ad.calibrate` and `edge_ad.export` are packages and verbs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import edge_ad
from edge_ad.data.images import write_image


@pytest.mark.parametrize("first", ["import edge_ad", "from edge_ad.calibrate.threshold import clopper_pearson"])
def test_packages_can_be_called_whatever_was_imported_first(first, tmp_path):
    code = f"{first}\nimport edge_ad\nedge_ad.calibrate({str(tmp_path / 'none')!r}, 'photos', 0.1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "none does not exist" in done.stderr
    assert "ArtifactError" in done.stderr


def test_the_verbs_do_what_the_command_line_does(small_artifact, parts, tmp_path):
    for i, frame in enumerate(parts[0]):
        write_image(tmp_path / f"photos/good/{i:02d}.png", frame)
    for i, frame in enumerate(parts[1]):
        write_image(tmp_path / f"photos/bad/{i:02d}.png", frame)
    done = edge_ad.calibrate(small_artifact.path, tmp_path / "photos", 0.1)
    assert done.record["false_alarm_rate"] == 0.1
    assert edge_ad.export(small_artifact.path, "fp16", normals=tmp_path / "photos").record["precision"] == "fp16"
    assert edge_ad.evaluate(small_artifact.path, tmp_path / "photos", native=False).to_dict()["i_auroc"] == 1.0


def test_the_face_names_what_it_has():
    for name in edge_ad.__all__:
        assert getattr(edge_ad, name) is not None
    with pytest.raises(AttributeError, match="nothing"):
        _ = edge_ad.nothing
