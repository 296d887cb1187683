"""`edgead calibrate --settings`: the threshold is one for the part's score, as `edgead run` makes it."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("edge_ad.data.samples")

from edge_ad.artifact import Artifact
from edge_ad.calibrate.calibration import with_product
from edge_ad.cli import main
from edge_ad.errors import ConfigError
from edge_ad.runtime.line.inspector import Inspector
from edge_ad.runtime.line.policy import Policy
from edge_ad.runtime.settings import PolicySettings, read_settings
from edge_ad.runtime.sinks.store import Store

STATION = """
[[station]]
name = "top"
[station.source]
address = "{photos}"
[station.frame]
roi = [0, 32, 192, 128]
tile = [64, 64]
overlap = 0.2
[station.policy]
regions = [{{ name = "clamp", box = [0, 0, 30, 30], ignore = true }}]
"""


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    return stop.value.code


@pytest.fixture
def photos(parts, tmp_path):
    """40 large pictures of the striped product, 192 x 192: nine of the small detector's in each."""
    folder, rng = tmp_path / "photos", np.random.default_rng(3)
    folder.mkdir()
    for i in range(40):
        rows = [np.concatenate([parts[0][k] for k in rng.integers(0, 40, 3)], 1) for _ in range(3)]
        cv2.imwrite(str(folder / f"{i:03}.png"), np.concatenate(rows)[..., ::-1])
    return folder


@pytest.fixture
def settings(small_artifact, photos, tmp_path):
    """A station that cuts, tiles, and ignores a corner."""
    path = tmp_path / "line.toml"
    head = f'artifact = "{small_artifact.path}"\nout = "{tmp_path / "out"}"\n[engine]\nthreads = 1\nreload = false\n'
    path.write_text(head + STATION.format(photos=photos))
    return path


def line_scores(settings, tmp_path):
    Inspector(read_settings(settings)).run()
    with Store(tmp_path / "out" / "verdicts.sqlite") as store:
        return [row.verdict for row in store.recent(10**6)][::-1]


def test_the_rate_holds_for_the_part_not_for_its_tiles(small_artifact, photos, settings, tmp_path, capsys, caplog):
    assert run("calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1") == 0
    line_scores(settings, tmp_path)
    assert "calibrated on whole pictures" in caplog.text
    caplog.clear()
    (tmp_path / "out" / "verdicts.sqlite").unlink()

    words = ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1", "--settings", settings]
    assert run(*words) == 0
    record = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert record["tiles"] == [64, 64, 0.2]
    verdicts = line_scores(settings, tmp_path)
    assert "calibrated on" not in caplog.text
    # rank 37 of 40: floor(41 * 0.1) - 1 = 3 good parts above, the very same scores
    assert [v.decision for v in verdicts].count("NG") == 3
    assert record["image_threshold"] == pytest.approx(sorted(v.score for v in verdicts)[36], rel=1e-6)
    assert np.quantile([v.score for v in verdicts], 0.5) == pytest.approx(record["score_quantiles"][50], rel=1e-5)


def test_a_recalibration_set_is_cut_only_once(small_artifact, photos, settings, tmp_path):
    """Pictures that the line kept are cut already: a second cut would not fit into them."""
    kept = tmp_path / "out" / "recalibration" / "good"
    kept.mkdir(parents=True)
    for path in photos.iterdir():
        x, y, width, height = 0, 32, 192, 128
        cv2.imwrite(str(kept / f"accepted-{path.stem}.png"), cv2.imread(str(path))[y : y + height, x : x + width])
    words = ["calibrate", small_artifact.path, "--false-alarms", "0.1", "--settings", settings, "--normals"]
    assert run(*words, photos) == 0
    from_photos = Artifact.open(small_artifact.path).manifest.calibration
    assert run(*words, kept) == 1  # not yet known to be such a set: the region lies outside
    (kept.parent / "set.json").write_text('{"offered": 40, "size": 40}')
    assert run(*words, kept) == 0
    again = Artifact.open(small_artifact.path).manifest.calibration
    assert again["image_threshold"] == pytest.approx(from_photos["image_threshold"], rel=1e-6)


def test_one_product_is_calibrated_without_touching_the_others(small_artifact, photos, settings):
    before = {"image_threshold": 5.0, "per_class": {"dots": {"image_threshold": 7.0}}}
    small_artifact.update(classes=("stripes", "dots"), calibration=before)
    settings.write_text(settings.read_text().replace('name = "top"', 'name = "top"\nproduct = "stripes"'))
    words = ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1", "--settings", settings]
    assert run(*words) == 0
    after = Artifact.open(small_artifact.path).manifest.calibration
    assert after["image_threshold"] == 5.0
    assert after["per_class"]["dots"] == {"image_threshold": 7.0}
    assert after["per_class"]["stripes"]["normals"] == 40
    assert after["per_class"]["stripes"]["tiles"] == [64, 64, 0.2]


def test_the_first_products_thresholds_are_common_ones_too():
    names = "image_threshold", "pixel_threshold", "normals", "score_quantiles", "false_alarm_rate", "promise", "tiles"
    record = dict.fromkeys(names, 1) | {"per_class": {}}
    assert with_product(None, record, "a")["image_threshold"] == 1
    assert with_product(None, record, "a")["per_class"]["a"]["normals"] == 1


def test_which_station_is_asked_for_where_there_are_several(small_artifact, photos, settings, capsys):
    settings.write_text(settings.read_text() + STATION.format(photos=photos).replace('"top"', '"side"'))
    words = ["calibrate", small_artifact.path, "--normals", photos, "--false-alarms", "0.1"]
    assert run(*words, "--settings", settings) == 1
    assert "--station" in capsys.readouterr().err
    assert run(*words, "--settings", settings, "--station", "side") == 0
    assert run(*words, "--station", "side") == 1


def test_part_score_is_what_the_policy_compares():
    """Two regions: one ignored, one with the common threshold; the decision is OK exactly at the part's score."""
    rng = np.random.default_rng(0)
    scores = rng.random((64, 64)).astype(np.float32)
    table = {
        "regions": ({"name": "a", "box": (0, 0, 20, 20), "ignore": True}, {"name": "b", "box": (30, 30, 20, 20)})
    }
    from edge_ad.config import read_section

    settings = read_section(PolicySettings, table, "policy")
    score, left = Policy(settings, {}).part_score(9.0, scores, (64, 64))
    assert np.isneginf(left[:20, :20]).all()
    assert (left[20:] == scores[20:]).all()
    for limit, decision in ((score, "OK"), (score - 1e-6, "NG")):
        judged = Policy(settings, {"image_threshold": limit}).judge(9.0, scores, (64, 64))
        assert judged.decision == decision
    with pytest.raises(ConfigError, match="not inside"):
        Policy(settings, {}).part_score(9.0, scores, (16, 16))
